"""What we post to Slack, against the fake vendor on loopback and against servers that answer nonsense."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
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
from integrations.slack.client import SlackClient

BUTTONS = (("fb:1:up", "👍"), ("fb:1:down", "👎"))
DM = {"channel": "D0RITA", "team": "T0SHOP"}
THREAD = {"channel": "C0GERAL", "thread_ts": "1794999000.000100", "team": "T0SHOP"}


@pytest.fixture(scope="module")
def vendor() -> Iterator[str]:
    with serving(create_vendors(load_settings(running=False, slack_signing_secret="secret"))) as url:
        yield url


def client(url: str, timeout: float = 5.0) -> SlackClient:
    return SlackClient(token=lambda team: f"xoxb-{team}", base_url=f"{url}/api", timeout=timeout)


def outgoing(text: str = "Olá!", *, id: str = "row-1", address: dict[str, Any] = DM, **more: Any) -> Outgoing:
    return Outgoing(id, address, text, **more)


def fault(url: str, kind: str, **more: Any) -> None:
    httpx.post(f"{url}/_faults", json={"vendor": "slack", "kind": kind, **more})


class Recorder:
    """A server that answers as it is told and keeps what it was asked."""

    def __init__(self, status: int = 200, body: str = '{"ok": true, "channel": "D0RITA", "ts": "1.2"}') -> None:
        self.status, self.body = status, body
        self.asked: dict[str, Any] = {}

    async def answer(self, request: Request) -> Response:
        body = await request.body()
        self.asked = json.loads(body) if body.startswith(b"{") else {}
        return Response(self.body, self.status, {"content-type": "application/json; charset=utf-8"})

    @contextmanager
    def running(self) -> Iterator[str]:
        with serving(Starlette(routes=[Route("/{path:path}", self.answer, methods=["POST"])])) as url:
            yield url


def test_a_message_is_posted_in_its_thread_with_our_id(vendor: str) -> None:
    posted = client(vendor).send(outgoing("Ramal **200**.", address=THREAD, buttons=BUTTONS))
    sent = httpx.get(f"{vendor}/_sent").json()[-1]
    assert posted == f"C0GERAL:{sent['ts']}"
    assert (sent["thread"], sent["text"]) == (THREAD["thread_ts"], "Ramal **200**.")
    assert sent["metadata"]["event_payload"] == {"id": "row-1"}
    assert sent["buttons"] == ["fb:1:up", "fb:1:down"]


def test_an_answer_calls_nobody() -> None:
    recorder = Recorder()
    with recorder.running() as url:
        client(url).send(outgoing("<!channel> <@U0RITA> a < b & c"))
    assert recorder.asked["text"] == "&lt;!channel&gt; &lt;@U0RITA&gt; a &lt; b &amp; c"
    assert recorder.asked["blocks"] == [{"type": "markdown", "text": "&lt;!channel> &lt;@U0RITA> a < b & c"}]


def test_told_to_wait_we_say_how_long(vendor: str) -> None:
    """The fake's header comes in lower case, as behind many a proxy."""
    fault(vendor, "429", retry_after=7)
    with pytest.raises(VendorUnavailable, match="ratelimited") as raised:
        client(vendor).send(outgoing())
    assert (raised.value.retry_after, raised.value.outcome_unknown) == (7.0, False)


def test_an_error_of_theirs_is_tried_again_by_the_outbox_not_in_here(vendor: str) -> None:
    fault(vendor, "500")
    started = time.monotonic()
    with pytest.raises(VendorUnavailable, match="500") as raised:
        client(vendor).send(outgoing())
    assert (raised.value.retry_after, raised.value.outcome_unknown) == (None, False)
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize(
    ("reason", "transient", "unknown", "next_step"),
    [
        ("invalid_auth", False, False, "SLACK_BOT_TOKEN"),
        ("not_in_channel", False, False, "Invite"),
        ("missing_scope", False, False, "docs/channels.md"),
        ("restricted_action", False, False, "Slack's page"),
        ("service_unavailable", True, False, ""),
        ("internal_error", True, True, ""),
        ("fatal_error", True, True, ""),
    ],
)
def test_a_refusal_names_its_reason(vendor: str, reason: str, transient: bool, unknown: bool, next_step: str) -> None:
    fault(vendor, "refuse", code=reason)
    with pytest.raises(Unavailable, match=reason) as raised:
        client(vendor).send(outgoing())
    assert isinstance(raised.value, VendorUnavailable) is transient
    assert getattr(raised.value, "outcome_unknown", False) is unknown
    assert next_step in raised.value.next_step


@pytest.mark.parametrize(
    ("reason", "one", "several"),
    [
        ("token_revoked", "stop", "alert"),
        ("account_inactive", "stop", "alert"),
        ("channel_not_found", "permanent", "permanent"),
        ("msg_too_long", "split", "split"),
        ("not_in_channel", "alert", "alert"),
        ("an_error_nobody_listed", "alert", "alert"),
    ],
)
def test_a_refusal_asks_for_something(vendor: str, reason: str, one: str, several: str) -> None:
    """Among several workspaces the token of one must not stop the others."""
    for expected, many in ((one, False), (several, True)):
        fault(vendor, "refuse", code=reason)
        speaker = SlackClient(token=lambda team: f"xoxb-{team}", base_url=f"{vendor}/api", several=many)
        with pytest.raises(Unavailable, match=reason) as raised:
            speaker.send(outgoing())
        assert raised.value.action == expected


@pytest.mark.parametrize("address", [DM, THREAD])
def test_taken_without_an_answer_is_unknown_and_found_by_our_id(vendor: str, address: dict[str, Any]) -> None:
    since = datetime.now(UTC) - timedelta(minutes=1)
    client(vendor).send(outgoing("Igual.", id=f"before {address}", address=address))
    fault(vendor, "drop")
    lost = outgoing("Igual.", id=f"lost {address}", address=address)
    with pytest.raises(VendorUnavailable) as raised:
        client(vendor, timeout=0.3).send(lost)
    assert raised.value.outcome_unknown
    taken = httpx.get(f"{vendor}/_sent").json()[-1]
    assert client(vendor).lookup(lost, since) == taken["id"]
    assert client(vendor).lookup(outgoing("Igual.", id="never sent", address=address), since) is None
    assert client(vendor).lookup(lost, datetime.now(UTC) + timedelta(minutes=1)) is None


def test_nobody_there_is_known_not_to_be_posted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(VendorUnavailable) as raised:
        client(url).send(outgoing())
    assert not raised.value.outcome_unknown


@pytest.mark.parametrize(
    ("status", "body"),
    [(504, "time-out"), (200, "<html>"), (200, "[]"), (200, '{"ok": true}'), (200, '{"ok": true, "channel": "D1"}')],
)
def test_an_answer_that_says_nothing_is_unknown(status: int, body: str) -> None:
    with Recorder(status, body).running() as url, pytest.raises(VendorUnavailable) as raised:
        client(url).send(outgoing())
    assert raised.value.outcome_unknown


@pytest.mark.parametrize(("status", "body"), [(502, "<html>"), (503, ""), (500, "{}")])
def test_a_gateways_error_page_is_tried_again(status: int, body: str) -> None:
    with Recorder(status, body).running() as url, pytest.raises(VendorUnavailable) as raised:
        client(url).send(outgoing())
    assert not raised.value.outcome_unknown


@pytest.mark.parametrize(
    ("status", "body", "transient"),
    [
        (200, '{"ok": false, "error": "missing_scope"}', False),
        (200, '{"ok": false, "error": "ratelimited"}', True),
        (502, "<html>", True),
    ],
)
def test_a_look_up_that_fails_fails_as_ours(status: int, body: str, transient: bool) -> None:
    with Recorder(status, body).running() as url, pytest.raises(Unavailable) as raised:
        client(url).lookup(outgoing(), datetime.now(UTC))
    assert isinstance(raised.value, VendorUnavailable) is transient
