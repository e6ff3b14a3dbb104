"""What we send through Meta, against the fake vendor on loopback and against servers that answer nonsense."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
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
from integrations.meta.client import MAX_BODY_WITH_BUTTONS, MetaClient
from integrations.meta.errors import ACTIONS, action_of

BUTTONS = (("fb:1:up", "👍"), ("fb:1:down", "👎"))


@pytest.fixture(scope="module")
def vendor() -> Iterator[str]:
    # Nobody listens for the delivery reports here; tests/bot/test_hooks.py does.
    settings = load_settings(running=False, meta_app_secret="secret", public_base_url="http://127.0.0.1:9")
    with serving(create_vendors(settings)) as url:
        yield url


def client(url: str, timeout: float = 5.0) -> MetaClient:
    return MetaClient(
        access_token="access", phone_number_id="100000000000001", base_url=url, version="v23.0", timeout=timeout
    )


def outgoing(text: str = "Olá!", **more: Any) -> Outgoing:
    return Outgoing("row-1", more.pop("address", {"to": "5511990000001"}), text, **more)


def fault(url: str, kind: str, **more: Any) -> None:
    httpx.post(f"{url}/_faults", json={"vendor": "meta", "kind": kind, **more})


class Recorder:
    """A server that answers as it is told and keeps what it was asked."""

    def __init__(self, status: int = 200, body: str = '{"messages": [{"id": "wamid.1"}]}') -> None:
        self.status, self.body = status, body
        self.path, self.token = "", ""
        self.asked: dict[str, Any] = {}

    async def answer(self, request: Request) -> Response:
        self.path, self.asked = request.url.path, json.loads(await request.body())
        self.token = request.headers["authorization"]
        return Response(self.body, self.status)

    @contextmanager
    def running(self) -> Iterator[str]:
        with serving(Starlette(routes=[Route("/{path:path}", self.answer, methods=["POST"])])) as url:
            yield url


def test_a_message_goes_to_the_person_with_our_id() -> None:
    recorder = Recorder()
    with recorder.running() as url:
        assert client(url).send(outgoing("Entregamos em três dias. 🚚")) == "wamid.1"
        assert (recorder.path, recorder.token) == ("/v23.0/100000000000001/messages", "Bearer access")
        assert recorder.asked == {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": "5511990000001",
            "biz_opaque_callback_data": "row-1",
            "type": "text",
            "text": {"body": "Entregamos em três dias. 🚚", "preview_url": False},
        }
        address = {"recipient": "BR.9900000000000012", "phone_number_id": "2", "reply_to": "wamid.0"}
        client(url).send(outgoing(address=address))
        assert recorder.path == "/v23.0/2/messages", "answers leave from the number that was written to"
        assert recorder.asked["recipient"] == "BR.9900000000000012"
        assert "to" not in recorder.asked


def test_buttons_stand_under_the_text(vendor: str) -> None:
    client(vendor).send(outgoing("Ajudou?", buttons=BUTTONS))
    sent = httpx.get(f"{vendor}/_sent").json()[-1]
    assert (sent["text"], sent["buttons"]) == ("Ajudou?", ["fb:1:up", "fb:1:down"])


def test_a_text_too_long_for_buttons_goes_without_them(vendor: str) -> None:
    client(vendor).send(outgoing("a" * (MAX_BODY_WITH_BUTTONS + 1), buttons=BUTTONS))
    sent = httpx.get(f"{vendor}/_sent").json()[-1]
    assert (len(sent["text"]), sent["buttons"]) == (MAX_BODY_WITH_BUTTONS + 1, [])


def test_titles_and_number_of_buttons_stay_within_whatsapps_limits() -> None:
    recorder = Recorder()
    with recorder.running() as url:
        client(url).send(outgoing(buttons=tuple((str(n), "Um título comprido demais") for n in range(5))))
    buttons = recorder.asked["interactive"]["action"]["buttons"]
    assert [button["reply"]["title"] for button in buttons] == ["Um título comprido d"] * 3


def test_after_the_window_the_approved_template_holds_the_text() -> None:
    recorder = Recorder()
    with recorder.running() as url:
        meta = MetaClient(
            access_token="access", phone_number_id="1", base_url=url, version="v23.0", template=("resposta", "pt_BR"),
            template_variables={"1": "{text}", "2": "Alvorada"},
        )  # fmt: skip
        assert meta.limits.template
        meta.send(outgoing("Custa\nR$ 10,00.", template=True, buttons=BUTTONS))
    assert (recorder.asked["type"], recorder.asked["biz_opaque_callback_data"]) == ("template", "row-1")
    assert recorder.asked["template"] == {
        "name": "resposta",
        "language": {"code": "pt_BR"},
        "components": [
            {
                "type": "body",
                "parameters": [{"type": "text", "text": "Custa R$ 10,00."}, {"type": "text", "text": "Alvorada"}],
            }
        ],
    }


def test_the_person_sees_that_an_answer_is_on_its_way(vendor: str) -> None:
    client(vendor).typing({"to": "5511990000001", "reply_to": "wamid.7"})
    assert httpx.get(f"{vendor}/_typing").json()[-1] == {"vendor": "meta", "message": "wamid.7"}
    fault(vendor, "429", method="typing")
    with pytest.raises(Unavailable):
        client(vendor).typing({"reply_to": "wamid.7"})


def test_too_many_to_one_person_is_tried_again_when_the_next_is_free(vendor: str) -> None:
    fault(vendor, "refuse", code=131056)
    with pytest.raises(VendorUnavailable) as raised:
        client(vendor).send(outgoing())
    assert raised.value.retry_after == 6.0


def test_every_code_asks_for_something() -> None:
    table: dict[str, str] = {
        "template": "131047", "tomorrow": "131048",
        "retry": "1 2 4 80007 130429 131000 131016 131056 131057 131064 133016",
        "stop": "0 3 10 33 190 368 131005 131031 131042 131045 133010", "text_only": "131052 131053",
        "permanent": "130472 131021 131026 131049 131050", "alert": "100 130497 131008 131009 131051 131062",
    }  # fmt: skip
    assert {code: action for action, codes in table.items() for code in codes.split()} == ACTIONS
    assert {action_of(str(code), 400) for code in range(200, 300)} == {"stop"}
    assert {action_of(str(code), 400) for code in range(132000, 132017)} == {"alert"}, "templates"
    assert (action_of("100", 503), action_of("", 429), action_of("", 401)) == ("retry", "retry", "stop")


def test_told_to_wait_we_say_how_long(vendor: str) -> None:
    fault(vendor, "429", retry_after=7)
    with pytest.raises(VendorUnavailable, match="130429") as raised:
        client(vendor).send(outgoing())
    assert (raised.value.retry_after, raised.value.outcome_unknown) == (7.0, False)


def test_an_error_of_theirs_is_tried_again(vendor: str) -> None:
    fault(vendor, "500")
    with pytest.raises(VendorUnavailable, match="500") as raised:
        client(vendor).send(outgoing())
    assert (raised.value.retry_after, raised.value.outcome_unknown) == (None, False)


@pytest.mark.parametrize(
    ("code", "transient", "next_step"),
    [
        (131047, False, "24 hours"),
        (131026, False, "cannot be reached"),
        (190, False, "META_ACCESS_TOKEN"),
        (132000, False, "Meta's page"),
        (131056, True, ""),
        (80007, True, ""),
    ],
)
def test_a_refusal_names_its_code(vendor: str, code: int, transient: bool, next_step: str) -> None:
    fault(vendor, "refuse", code=code)
    with pytest.raises(Unavailable, match=str(code)) as raised:
        client(vendor).send(outgoing())
    assert isinstance(raised.value, VendorUnavailable) is transient
    assert next_step in raised.value.next_step


def test_taken_without_an_answer_is_unknown_and_cannot_be_looked_up(vendor: str) -> None:
    fault(vendor, "drop")
    meta = client(vendor, timeout=0.3)
    with pytest.raises(VendorUnavailable) as raised:
        meta.send(outgoing())
    assert raised.value.outcome_unknown
    assert not meta.supports_lookup
    assert meta.lookup(outgoing(), datetime.now(UTC)) is None


def test_nobody_there_is_known_not_to_be_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(VendorUnavailable) as raised:
        client(url).send(outgoing())
    assert not raised.value.outcome_unknown


def test_a_connection_that_never_came_about_is_known_not_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> httpx.Response:
        raise httpx.ConnectTimeout("timed out")

    meta = client("http://127.0.0.1:9")
    monkeypatch.setattr(meta.http, "post", never)
    with pytest.raises(VendorUnavailable) as raised:
        meta.send(outgoing())
    assert not raised.value.outcome_unknown


@pytest.mark.parametrize(
    ("status", "body"), [(504, "time-out"), (200, "<html>"), (200, "[]"), (200, '{"messages": []}'), (200, "")]
)
def test_an_answer_that_says_nothing_is_unknown(status: int, body: str) -> None:
    with Recorder(status, body).running() as url, pytest.raises(VendorUnavailable) as raised:
        client(url).send(outgoing())
    assert raised.value.outcome_unknown


@pytest.mark.parametrize("body", ["<html>", "[]", '{"error": "no object"}', '{"error": {"code": null}}'])
def test_a_refusal_that_cannot_be_read_is_a_refusal(body: str) -> None:
    with Recorder(400, body).running() as url, pytest.raises(Unavailable, match="refused") as raised:
        client(url).send(outgoing())
    assert not isinstance(raised.value, VendorUnavailable)
