"""What we send through Twilio, against the fake vendor on loopback and against servers that answer nonsense."""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from servers import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bot.simulator.vendors import create_vendors
from core.errors import Unavailable, VendorUnavailable
from core.messages import Outgoing
from core.settings import load_settings
from integrations.twilio.client import TwilioClient
from integrations.twilio.errors import ACTIONS, action_of

SENDER = "+551130000000"
LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture(scope="module")
def vendor() -> Iterator[str]:
    with serving(create_vendors(load_settings(running=False, twilio_auth_token="token"))) as url:
        yield url


def client(url: str, timeout: float = 5.0) -> TwilioClient:
    return TwilioClient(
        account_sid="AC" + "0" * 32, auth_token="token", sender=SENDER, base_url=url, status_url=None, timeout=timeout
    )


def outgoing(text: str = "Olá!", to: str = "whatsapp:+5511990000001", **address: Any) -> Outgoing:
    return Outgoing("row-1", {"to": to, **address}, text)


def fault(url: str, kind: str, **more: Any) -> None:
    httpx.post(f"{url}/_faults", json={"vendor": "twilio", "kind": kind, **more})


@contextmanager
def answering(status: int, body: str, headers: dict[str, str] | None = None) -> Iterator[str]:
    async def answer(request: Request) -> Response:
        return Response(body, status, headers)

    with serving(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])) as url:
        yield url


@contextmanager
def hanging_up() -> Iterator[str]:
    """A server that reads the request and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


@pytest.fixture
def nobody_there() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_message_is_sent_from_our_number_to_the_person(vendor: str) -> None:
    sid = client(vendor).send(outgoing("Entregamos em três dias. 🚚"))
    sent = httpx.get(f"{vendor}/_sent").json()[-1]
    assert (sent["id"], sent["to"], sent["text"]) == (sid, "whatsapp:+5511990000001", "Entregamos em três dias. 🚚")
    assert client(vendor).sender == f"whatsapp:{SENDER}"


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("0.5", 0.5), ("soon", None), ("9e99", 86400.0)])
def test_told_to_wait_we_say_how_long(vendor: str, header: str, seconds: float | None) -> None:
    fault(vendor, "429", retry_after=header)
    with pytest.raises(VendorUnavailable, match="429") as raised:
        client(vendor).send(outgoing())
    assert (raised.value.retry_after, raised.value.outcome_unknown) == (seconds, False)


def test_told_to_wait_until_a_date(vendor: str) -> None:
    fault(vendor, "429", retry_after=format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    with pytest.raises(VendorUnavailable) as raised:
        client(vendor).send(outgoing())
    assert raised.value.retry_after == pytest.approx(89, abs=3)


def test_an_error_of_theirs_is_tried_again(vendor: str) -> None:
    fault(vendor, "500")
    with pytest.raises(VendorUnavailable, match="500") as raised:
        client(vendor).send(outgoing())
    assert (raised.value.retry_after, raised.value.outcome_unknown) == (None, False)


class TestButtons:
    """https://www.twilio.com/docs/content/twilio-quick-reply"""

    BUTTONS = (("fb:1:up", "👍"), ("fb:1:down", "👎"), ("fb:1:problem", "Problema"))

    def last(self, url: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{url}/_sent").json()[-1]
        return found

    def contents(self, url: str) -> int:
        return len(httpx.get(f"{url}/v1/Content").json()["contents"])

    def test_three_stand_under_the_text_and_carry_the_answers_id(self, vendor: str) -> None:
        client(vendor).send(replace(outgoing("Custa R$ 10,00.\nAceitamos Pix."), buttons=self.BUTTONS))
        sent = self.last(vendor)
        assert sent["text"] == "Custa R$ 10,00.\nAceitamos Pix."
        assert sent["buttons"] == ["fb:1:up", "fb:1:down", "fb:1:problem"]
        assert sent["content"].startswith("HX")

    def test_one_content_serves_all_answers_and_all_processes(self, vendor: str) -> None:
        twilio = client(vendor)
        twilio.send(replace(outgoing("Um"), buttons=self.BUTTONS))
        before = self.contents(vendor)
        for sender in (twilio, client(vendor)):
            sender.send(replace(outgoing("Dois"), buttons=self.BUTTONS))
        assert self.contents(vendor) == before

    def test_a_text_too_long_for_them_goes_without(self, vendor: str) -> None:
        client(vendor).send(replace(outgoing("a" * 1025), buttons=self.BUTTONS))
        assert (len(self.last(vendor)["text"]), self.last(vendor)["buttons"]) == (1025, [])

    def test_where_contents_are_refused_the_answer_goes_all_the_same(self, vendor: str) -> None:
        fault(vendor, "refuse", method="content")
        twilio = client(vendor)
        for _ in range(2):
            twilio.send(replace(outgoing("Sem botões"), buttons=self.BUTTONS))
            assert (self.last(vendor)["text"], self.last(vendor)["buttons"]) == ("Sem botões", [])

    def test_a_content_that_was_deleted_is_made_again(self, vendor: str) -> None:
        twilio = client(vendor)
        name = f"npllm_buttons_{hashlib.sha256(json.dumps(['👍', '👎', 'Problema']).encode()).hexdigest()[:12]}"
        twilio.contents._sids = {name: "HX" + "0" * 32}
        with pytest.raises(Unavailable, match="21655") as raised:
            twilio.send(replace(outgoing(), buttons=self.BUTTONS))
        assert raised.value.action == "text_only"
        twilio.send(replace(outgoing(), buttons=self.BUTTONS))
        assert len(self.last(vendor)["buttons"]) == 3


def test_after_the_window_the_approved_template_holds_the_text() -> None:
    sid = "HX" + "1" * 32
    with serving(create_vendors(load_settings(running=False, twilio_template_sid=sid))) as url:
        twilio = TwilioClient(
            account_sid="AC", auth_token="token", sender=SENDER, base_url=url, status_url=None, template_sid=sid,
            template_variables={"1": "Alvorada", "2": "{text}"},
        )  # fmt: skip
        assert twilio.limits.template
        twilio.send(replace(outgoing("Custa\n\nR$ 10,00. " + "a" * 2000), template=True))
        sent = httpx.get(f"{url}/_sent").json()[-1]
    assert (sent["content"], sent["variables"]["1"]) == (sid, "Alvorada")
    assert sent["variables"]["2"].startswith("Custa R$ 10,00. a"), "on one line"
    assert len(sent["variables"]["2"]) <= 900


def test_the_person_sees_that_an_answer_is_on_its_way(vendor: str) -> None:
    client(vendor).typing({"to": "whatsapp:+5511990000001", "reply_to": "SM" + "0" * 32})
    assert httpx.get(f"{vendor}/_typing").json()[-1] == {"vendor": "twilio", "message": "SM" + "0" * 32}
    client(vendor).typing({"to": "whatsapp:+5511990000001"})
    fault(vendor, "500", method="typing")
    with pytest.raises(Unavailable):
        client(vendor).typing({"reply_to": "SM" + "0" * 32})


def test_every_code_asks_for_something() -> None:
    """The table of docs/channels.md, row by row."""
    table: dict[str, str] = {
        "template": "63016", "tomorrow": "63038", "retry": "63018 63017 20429 63009 63010 63012", "opt_out": "21610",
        "split": "21617", "permanent": "63024 63003 21211 21614 63033 63014",
        "alert": "63005 63013 63021 63032 63026 63028 63027 63040 63041", "stop": "20003 63001 63002 63007",
        "text_only": "63019 21620 63034 63037 21655 21656",
    }  # fmt: skip
    assert {code: action for action, codes in table.items() for code in codes.split()} == ACTIONS
    assert action_of("12345", 400) == "alert", "what nobody listed is somebody's to look at"
    assert (action_of("", 503), action_of("", 429), action_of("", 401)) == ("retry", "retry", "stop")


@pytest.mark.parametrize(
    ("code", "transient", "next_step"),
    [
        (63016, False, "24 hours"),
        (21610, False, "opted out"),
        (20003, False, "TWILIO_AUTH_TOKEN"),
        (21617, False, "Twilio's page"),
        (63018, True, ""),
        (20429, True, ""),
    ],
)
def test_a_refusal_names_its_code(vendor: str, code: int, transient: bool, next_step: str) -> None:
    fault(vendor, "refuse", code=code)
    with pytest.raises(Unavailable, match=str(code)) as raised:
        client(vendor).send(outgoing())
    assert isinstance(raised.value, VendorUnavailable) is transient
    assert next_step in raised.value.next_step


def test_taken_without_an_answer_is_unknown_and_found_by_looking(vendor: str) -> None:
    fault(vendor, "drop")
    lost = outgoing("Chega amanhã.", to="whatsapp:+5511990000077")
    with pytest.raises(VendorUnavailable) as raised:
        client(vendor, timeout=0.3).send(lost)
    assert raised.value.outcome_unknown
    taken = httpx.get(f"{vendor}/_sent").json()[-1]
    assert client(vendor).lookup(lost, LONG_AGO) == taken["id"]


def test_cut_off_is_unknown() -> None:
    with hanging_up() as url, pytest.raises(VendorUnavailable) as raised:
        client(url).send(outgoing())
    assert raised.value.outcome_unknown


def test_nobody_there_is_known_not_to_be_sent(nobody_there: str) -> None:
    with pytest.raises(VendorUnavailable) as raised:
        client(nobody_there).send(outgoing())
    assert not raised.value.outcome_unknown


@pytest.mark.parametrize(
    ("status", "body"), [(504, "gateway time-out"), (201, "<html>"), (201, "[]"), (201, "{}"), (200, "")]
)
def test_an_answer_that_says_nothing_is_unknown(status: int, body: str) -> None:
    with answering(status, body) as url, pytest.raises(VendorUnavailable) as raised:
        client(url).send(outgoing())
    assert raised.value.outcome_unknown


class TestLookup:
    def test_only_this_text_to_this_person(self, vendor: str) -> None:
        twilio, here = client(vendor), outgoing("Sim.", to="whatsapp:+5511990000078")
        sid = twilio.send(here)
        assert twilio.lookup(here, LONG_AGO) == sid
        assert twilio.lookup(outgoing("Não.", to="whatsapp:+5511990000078"), LONG_AGO) is None
        assert twilio.lookup(outgoing("Sim.", to="whatsapp:+5511990000079"), LONG_AGO) is None

    @pytest.mark.parametrize(("created", "found"), [("Wed, 18 Nov 2026 10:00:00 +0000", None), (None, "SM1")])
    def test_not_one_that_was_sent_before(self, created: str | None, found: str | None) -> None:
        """A message that waits has no dates of being sent: it must be found all the same."""
        message = {"sid": "SM1", "body": "Olá!", "date_created": created, "date_sent": None}
        with answering(200, json.dumps({"messages": [message], "next_page_uri": None})) as url:
            assert client(url).lookup(outgoing(), datetime(2026, 11, 18, 11, tzinfo=UTC)) == found

    @pytest.mark.parametrize(
        ("status", "body", "transient"),
        [(401, '{"code": 20003, "message": "Authenticate"}', False), (500, "", True), (200, "<html>", True)],
    )
    def test_failures_are_ours(self, status: int, body: str, transient: bool) -> None:
        with answering(status, body) as url, pytest.raises(Unavailable) as raised:
            client(url).lookup(outgoing(), LONG_AGO)
        assert isinstance(raised.value, VendorUnavailable) is transient


def test_several_threads_may_send_at_once(vendor: str) -> None:
    twilio = client(vendor)
    with ThreadPoolExecutor(8) as pool:
        sids = list(pool.map(lambda number: twilio.send(outgoing(f"{number}")), range(16)))
    assert len(set(sids)) == 16
