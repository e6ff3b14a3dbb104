"""Alerts: rows of an outbox, told through each open door once, tried again where a door is shut."""

import socketserver
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from channels import ScriptedChannel
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from servers import serving
from sqlalchemy import select, update
from standardwebhooks import Webhook

from bot import alerts
from bot.wiring import Awake
from core import jobs
from core.db import transaction
from core.errors import VendorUnavailable
from core.tables import Alert, now

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver:
    """A webhook's other end."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status, self.headers = 204, dict[str, str]()
        self.app.post("/alerts")(self.take)

    async def take(self, request: Request) -> Response:
        self.got.append((dict(request.headers), await request.body()))
        return Response(status_code=self.status, headers=self.headers)


class _Mailbox(socketserver.StreamRequestHandler):
    """As little of SMTP as a mail needs."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            verb = line.strip().upper()[:4]
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                mail = b""
                while (line := self.rfile.readline()) != b".\r\n":
                    mail += line
                self.server.mails.append(mail)  # type: ignore[attr-defined]
            elif verb == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 ok\r\n")


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    receiver = Receiver()
    with serving(receiver.app) as url:
        yield receiver, f"{url}/alerts"


@pytest.fixture
def mailbox() -> Iterator[tuple[list[bytes], int]]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Mailbox) as server:
        server.mails = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.mails, server.server_address[1]  # type: ignore[attr-defined]
        server.shutdown()


def with_settings(awake: Awake, **values: Any) -> None:
    awake.settings = type(awake.settings)(**{**awake.settings.model_dump(), **values})


def raised(awake: Awake, **facts: Any) -> None:
    told = {"state": "held", "version": "customers-v3", "actor": "controller", "reason": "Evidence of harm is 21."}
    with transaction(awake.engine) as session:
        alerts.raise_alert(session, "rollout.held", context="customers", **{**told, **facts})


def row(awake: Awake) -> Alert:
    with transaction(awake.engine) as session:
        return session.scalars(select(Alert)).one()


def test_a_signed_webhook(awake: Awake, receiver: tuple[Receiver, str]) -> None:
    with_settings(awake, alert_webhook_url=receiver[1], alert_webhook_secret=SECRET)
    raised(awake)
    assert alerts.deliver(awake) == 1
    (headers, body) = receiver[0].got[0]
    verified = Webhook(SECRET).verify(body, headers)
    assert verified["type"] == "rollout.held"
    assert verified["data"]["version"] == "customers-v3"
    assert headers["webhook-id"] == str(row(awake).id)
    assert headers["webhook-signature"].startswith("v1,")
    assert row(awake).settled_at is not None
    assert alerts.deliver(awake) == 0
    assert len(receiver[0].got) == 1


def test_a_receiver_that_never_stops_talking_holds_nobody_up(awake: Awake) -> None:
    """Its status is the answer: a body without end kept the sender until its job was killed, and it was told anew."""
    app, talks = FastAPI(), threading.Event()

    def body() -> Iterator[bytes]:
        while not talks.wait(0.05):
            yield b"and "

    app.post("/alerts")(lambda: StreamingResponse(body()))
    with serving(app) as url:
        with_settings(awake, alert_webhook_url=f"{url}/alerts", alert_webhook_secret=SECRET)
        raised(awake)
        sender = threading.Thread(target=alerts.deliver, args=(awake,), daemon=True)
        sender.start()
        sender.join(5)
        hung = sender.is_alive()
        talks.set()
        sender.join(5)
    assert not hung
    assert row(awake).settled_at is not None


def test_without_a_secret_nothing_is_sent(awake: Awake, receiver: tuple[Receiver, str]) -> None:
    with_settings(awake, alert_webhook_url=receiver[1])
    raised(awake)
    alerts.deliver(awake)
    assert (receiver[0].got, row(awake).done) == ([], {})
    assert row(awake).settled_at is not None


def test_slack_and_mail_say_it_in_the_operators_language(awake: Awake, mailbox: tuple[list[bytes], int]) -> None:
    awake.channels["slack"] = channel = ScriptedChannel()
    with_settings(
        awake, alert_slack_channel="T0SHOP/C0OPS", smtp_url=f"smtp://127.0.0.1:{mailbox[1]}",
        alert_email_to=["ops@example.org", "rui@example.org"],
    )  # fmt: skip
    raised(awake)
    alerts.deliver(awake)
    assert channel.texts() == ["customers-v3 (customers): retido: decida. Evidence of harm is 21. [controller]"]
    assert channel.sends[0].address == {"team": "T0SHOP", "channel": "C0OPS"}
    assert b"To: ops@example.org, rui@example.org" in mailbox[0][0]
    assert b"customers-v3" in mailbox[0][0]
    assert sorted(row(awake).done) == ["email", "slack"]
    told = alerts.Told(row(awake).id, "rollout.held", "", {"context": "customers", "state": "held"}, {}, 1)
    assert alerts.sentence(told, "en") == "customers (customers): held: decide"


def test_a_shut_door_is_tried_again_and_the_open_one_is_not(awake: Awake, receiver: tuple[Receiver, str]) -> None:
    awake.channels["slack"] = channel = ScriptedChannel()
    with_settings(
        awake, alert_slack_channel="C0OPS", alert_webhook_url=receiver[1], alert_webhook_secret=SECRET
    )  # fmt: skip
    receiver[0].status = 503
    raised(awake)
    alerts.deliver(awake)
    waits = row(awake)
    assert (list(waits.done), waits.settled_at, waits.attempts) == (["slack"], None, 1)
    assert "503" in str(waits.error)
    assert timedelta(seconds=3) < waits.not_before - now() < timedelta(seconds=7)
    assert alerts.deliver(awake) == 0  # not due yet
    receiver[0].status = 200
    with transaction(awake.engine) as session:
        session.execute(update(Alert).values(not_before=now()))
    alerts.deliver(awake)
    assert (sorted(row(awake).done), len(channel.texts())) == (["slack", "webhook"], 1)
    assert len({headers["webhook-id"] for headers, _ in receiver[0].got}) == 1


def test_an_address_that_is_none_shuts_one_door_only(awake: Awake) -> None:
    awake.channels["slack"] = channel = ScriptedChannel()
    with_settings(
        awake, alert_slack_channel="C0OPS", alert_webhook_url="https://xn--a/", alert_webhook_secret=SECRET
    )  # fmt: skip
    raised(awake)
    alerts.deliver(awake)
    assert (len(channel.texts()), list(row(awake).done)) == (1, ["slack"])
    assert row(awake).error == "webhook: InvalidCodepoint"


def lease_ends(awake: Awake) -> None:
    """Whoever sends has taken too long."""
    with transaction(awake.engine) as session:
        session.execute(update(Alert).values(leased_until=now() - timedelta(seconds=1)))


def test_a_sender_that_died_loses_nothing(awake: Awake, receiver: tuple[Receiver, str]) -> None:
    with_settings(awake, alert_webhook_url=receiver[1], alert_webhook_secret=SECRET)
    raised(awake)
    assert alerts._claim(awake) is not None  # and then nothing more
    assert alerts.deliver(awake) == 0
    lease_ends(awake)
    assert alerts.deliver(awake) == 1


def test_a_sender_that_died_between_two_doors_went_through_the_first(
    awake: Awake, receiver: tuple[Receiver, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    awake.channels["slack"] = channel = ScriptedChannel()
    with_settings(awake, alert_slack_channel="C0OPS", alert_webhook_url=receiver[1], alert_webhook_secret=SECRET)
    raised(awake)
    with monkeypatch.context() as killed:
        killed.setattr(alerts, "_webhook", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            alerts.deliver(awake)
    lease_ends(awake)
    alerts.deliver(awake)
    assert (len(channel.texts()), len(receiver[0].got)) == (1, 1)


def test_a_sender_slower_than_its_lease_leaves_the_rest_to_who_has_it_now(
    awake: Awake, receiver: tuple[Receiver, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    awake.channels["slack"] = channel = ScriptedChannel()
    with_settings(awake, alert_slack_channel="C0OPS", alert_webhook_url=receiver[1], alert_webhook_secret=SECRET)
    raised(awake)
    slack = alerts._slack

    def slow(awake: Awake, told: alerts.Told) -> None:
        slack(awake, told)
        if told.attempts == 1:
            lease_ends(awake)
            assert alerts.deliver(awake) == 1

    monkeypatch.setattr(alerts, "_slack", slow)
    alerts.deliver(awake)
    assert (len(receiver[0].got), sorted(row(awake).done)) == (1, ["slack", "webhook"])
    assert len(channel.texts()) == 2  # the one that was on its way


def test_no_job_that_sends_outlives_its_lease() -> None:
    assert max(jobs.GUARD_ROLLOUTS.timeout, jobs.SEND_ALERTS.timeout) < alerts.LEASE
    assert alerts.ROUND < jobs.SEND_ALERTS.timeout


@pytest.mark.parametrize(("door", "asked", "waits"), [("webhook", 900, 900), ("webhook", 1, 5), ("slack", 900, 900)])
def test_a_door_that_says_how_long_is_not_asked_before(
    awake: Awake, receiver: tuple[Receiver, str], door: str, asked: int, waits: int
) -> None:
    if door == "slack":
        awake.channels["slack"] = channel = ScriptedChannel()
        channel.script = [VendorUnavailable("Slack answered 429.", retry_after=asked)]
        with_settings(awake, alert_slack_channel="C0OPS")
    else:
        receiver[0].status, receiver[0].headers = 429, {"Retry-After": str(asked)}
        with_settings(awake, alert_webhook_url=receiver[1], alert_webhook_secret=SECRET)
    raised(awake)
    alerts.deliver(awake)
    assert waits * 0.9 < (row(awake).not_before - now()).total_seconds() < waits * 1.3


def test_after_ten_tries_it_is_left(awake: Awake) -> None:
    with_settings(awake, alert_webhook_url="http://127.0.0.1:9/alerts", alert_webhook_secret=SECRET)
    raised(awake)
    for _ in range(12):
        with transaction(awake.engine) as session:
            session.execute(update(Alert).values(not_before=now()))
        alerts.deliver(awake)
    assert (row(awake).attempts, row(awake).settled_at is not None) == (10, True)
    assert "ConnectError" in str(row(awake).error)


def test_a_password_is_sent_over_tls_only(awake: Awake, mailbox: tuple[list[bytes], int]) -> None:
    with_settings(awake, smtp_url=f"smtp://user:secret@127.0.0.1:{mailbox[1]}", alert_email_to=["ops@example.org"])
    raised(awake)
    alerts.deliver(awake)
    assert (mailbox[0], "no password is sent" in str(row(awake).error)) == ([], True)


def test_addresses_are_read_from_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from core.settings import load_settings

    monkeypatch.setenv("ALERT_EMAIL_TO", "a@example.org, b@example.org")
    assert load_settings(running=False).alert_email_to == ["a@example.org", "b@example.org"]
