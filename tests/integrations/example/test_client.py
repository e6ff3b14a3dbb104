"""What we send through Recado, against a server on loopback that behaves as it is told."""

import json
import socket
from datetime import UTC, datetime

import pytest
from servers import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from core.errors import Unavailable, VendorUnavailable
from core.messages import Outgoing
from integrations.example.client import ExampleClient

HELLO = Outgoing("row-1", {"to": "+5511990000001"}, "Olá!")
NOW = datetime.now(UTC)


class Recado:
    """The vendor: remembers what it took under our id; `status` and `body` replace its next answers."""

    def __init__(self, status: int = 0, body: str = "", headers: dict[str, str] | None = None) -> None:
        self.status, self.body, self.headers = status, body, headers
        self.taken: dict[str, dict[str, str]] = {}
        self.app = Starlette(routes=[Route("/messages", self.answer, methods=["GET", "POST"])])

    async def answer(self, request: Request) -> Response:
        if self.status:
            return Response(self.body, self.status, self.headers)
        if request.method == "POST":
            message = json.loads(await request.body())
            self.taken[message["ref"]] = {**message, "id": f"rec_{len(self.taken) + 1}"}
            return Response(json.dumps(self.taken[message["ref"]]), 201)
        found = self.taken.get(request.query_params["ref"])
        return Response(json.dumps(found)) if found else Response(status_code=404)


def test_sent_and_found_again() -> None:
    vendor = Recado()
    with serving(vendor.app) as url:
        client = ExampleClient(token="t", base_url=url)
        assert client.lookup(HELLO, NOW) is None
        assert client.send(HELLO) == "rec_1"
        assert client.lookup(HELLO, NOW) == "rec_1"
    assert vendor.taken["row-1"]["text"] == "Olá!"


@pytest.mark.parametrize(
    ("vendor", "transient", "wait", "unknown"),
    [
        (Recado(429, headers={"Retry-After": "7"}), True, 7.0, False),
        (Recado(500), True, None, False),
        (Recado(403), False, None, False),
        (Recado(200, "<html>"), True, None, True),
        (Recado(200, "{}"), True, None, True),
    ],
)
def test_what_it_answers_is_what_we_do(vendor: Recado, transient: bool, wait: float | None, unknown: bool) -> None:
    with serving(vendor.app) as url, pytest.raises(Unavailable) as raised:
        ExampleClient(token="t", base_url=url).send(HELLO)
    assert isinstance(raised.value, VendorUnavailable) is transient
    assert getattr(raised.value, "retry_after", None) == wait
    assert getattr(raised.value, "outcome_unknown", False) is unknown


def test_silence_is_unknown_and_nobody_there_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(VendorUnavailable) as silent:
            ExampleClient(token="t", base_url=url, timeout=0.2).send(HELLO)
    with pytest.raises(VendorUnavailable) as nobody:
        ExampleClient(token="t", base_url=url).send(HELLO)
    assert (silent.value.outcome_unknown, nobody.value.outcome_unknown) == (True, False)
