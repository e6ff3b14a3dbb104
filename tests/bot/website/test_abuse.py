"""What the website's door does with what nobody should send: nothing breaks, nothing is stored, nothing grows."""

import json
import socket
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import serving

from bot import hooks, impatient
from bot.app import create_app
from bot.visitors import Visitors
from bot.wiring import Awake

MEGABYTE = b"a" * 1024 * 1024
LISTED = {
    ("POST", "/api/chat"): {200, 400, 403, 404, 408, 409, 413, 429, 503},
    ("POST", "/api/feedback"): {202, 400, 403, 404, 408, 413, 429, 503},
    ("GET", "/api/history"): {200, 400, 403, 404, 429, 503},
    ("POST", "/api/forget"): {204, 403, 404},
}

_odd = ["", " ", "\x00", "\u200b", "👍", "a" * 4001, "x' OR 1=1", "{{7*7}}", "PARAR"]
_text = st.text(max_size=60) | st.sampled_from(_odd)
_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3), max_leaves=6,
)  # fmt: skip
_fields = ["message", "visitor", "name", "stream", "message_id", "verdict", "stars", "comment", "remove", "x"]
_body = (
    st.dictionaries(st.sampled_from(_fields), _value, max_size=6).map(lambda value: json.dumps(value).encode())
    | _value.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=200)
)
_header = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
_call = st.fixed_dictionaries(
    {
        "where": st.sampled_from(sorted(LISTED)),
        "body": _body,
        "headers": st.dictionaries(
            st.sampled_from(["X-Visitor-Token", "Idempotency-Key", "Accept", "Content-Type", "Cookie", "Origin"]),
            _header | st.sampled_from(["text/event-stream", "1", "npllm_visitor=x.y.z", "null"]), max_size=3,
        ),
        "after": st.none() | _text,
        "known": st.booleans(),
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def calls() -> dict[tuple[str, str], set[int]]:
    return {}


class TestAnything:
    @pytest.fixture
    def client(self, awake: Awake) -> Iterator[TestClient]:
        # Nobody answers and nobody waits: a message that gets through is a 503, and is stored.
        generous = {"reply_timeout": -4.999, "chat_visitor_rate": "99999/minute", "chat_address_rate": "99999/minute"}
        with TestClient(create_app(awake.settings.model_copy(update=generous)), raise_server_exceptions=True) as client:
            yield client

    def fuzz(self, awake: Awake, client: TestClient, cases: int) -> dict[tuple[str, str], set[int]]:
        seen: dict[tuple[str, str], set[int]] = {where: set() for where in LISTED}
        token = str(Visitors(awake.settings).signers[0].dumps("v1"))

        @settings(
            max_examples=cases, deadline=None, database=None, derandomize=True,
            suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        )  # fmt: skip
        @given(_call)
        def call(given: dict[str, Any]) -> None:
            client.cookies.clear()
            method, path = given["where"]
            headers = dict(given["headers"], **({"X-Visitor-Token": token} if given["known"] else {}))
            sent: dict[str, Any] = (
                {"content": given["body"]} if method == "POST" else {"params": {"after": given["after"]}}
            )
            answer = client.request(method, path, headers=headers, **sent)
            assert answer.status_code in LISTED[given["where"]], (given, answer.text)
            if answer.status_code >= 400:
                assert set(answer.json()) == {"error", "next_step"}
            seen[given["where"]].add(answer.status_code)

        call()
        return seen

    def test_is_answered_with_a_listed_status(self, awake: Awake, client: TestClient) -> None:
        seen = self.fuzz(awake, client, 300)
        assert 400 in seen["POST", "/api/chat"]
        assert {200, 403} <= seen["GET", "/api/history"]

    @pytest.mark.slow
    def test_ten_thousand_times(self, awake: Awake, client: TestClient) -> None:
        seen = self.fuzz(awake, client, 10_000)
        assert {400, 403, 503} <= seen["POST", "/api/chat"]
        assert {400, 403} <= seen["POST", "/api/feedback"]


class TestTooMuch:
    @pytest.mark.parametrize("path", ["/api/chat", "/api/feedback"])
    def test_ten_megabytes_are_refused_and_not_kept(self, awake: Awake, path: str) -> None:
        def parts() -> Iterator[bytes]:
            yield from [MEGABYTE] * 10

        with serving(create_app(awake.settings)) as url, httpx.Client(base_url=url, timeout=30) as client:
            client.post(path, content=b"{}")
            tracemalloc.start()
            try:
                told = [client.post(path, content=parts()).status_code for _ in range(5)]
                declared = client.post(path, content=MEGABYTE * 10).status_code
                most = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert told == [413] * 5
        assert declared == 413
        assert most < 25 * 1024 * 1024, "ten of them are the test's own"


class TestTooSlow:
    HEAD = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"

    @pytest.fixture
    def address(self, awake: Awake, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
        monkeypatch.setattr(hooks, "BODY_SECONDS", 0.3)
        monkeypatch.setattr(impatient, "SECONDS", 0.8)
        original = uvicorn.Config
        monkeypatch.setattr(uvicorn, "Config", lambda *a, **k: original(*a, http=impatient.ImpatientProtocol, **k))
        with serving(create_app(awake.settings)) as url:
            host, port = url.removeprefix("http://").split(":")
            yield host, int(port)

    def drip(self, address: tuple[str, int], start: bytes, drop: bytes = b"a") -> bytes:
        """Send a beginning, then a byte now and then, until the other side has had enough; what it said."""
        heard, end = b"", time.monotonic() + 20
        with socket.create_connection(address, timeout=0.05) as line:
            line.sendall(start)
            while time.monotonic() < end:
                try:
                    part = line.recv(4096)
                    heard += part
                    if not part:
                        return heard
                    if b"next_step" in heard:
                        return heard
                except TimeoutError:
                    pass
                try:
                    line.sendall(drop)
                except OSError:
                    return heard
        raise AssertionError("The connection was left open.")

    def test_a_body_that_drips_is_a_408(self, address: tuple[str, int]) -> None:
        assert self.drip(address, self.HEAD + b'{"message": "').startswith(b"HTTP/1.1 408 ")

    def test_a_form_that_drips_is_a_408(self, address: tuple[str, int]) -> None:
        head = self.HEAD.replace(b"/api/chat", b"/login").replace(b"json", b"x-www-form-urlencoded")
        heard = self.drip(address, head + b"name=ana&password=")
        assert heard.startswith(b"HTTP/1.1 408 ")
        assert b"The form did not come within 0 seconds" in heard
        assert b"Send it at once." in heard

    @pytest.mark.parametrize("head", [
        b"POST /" + b"a" * 20_000_000,
        b"POST /login HTTP/1.1\r\nX-A: " + b"a" * 20_000_000,
        b"POST /login HTTP/1.1\r\n" + b"X-A: b\r\n" * 2_000_000,
        b"POST /login HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + b"X-A: b\r\n" * 2_000_000,
    ])  # fmt: skip
    def test_a_head_without_an_end_is_refused_and_not_kept(
        self, address: tuple[str, int], head: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(impatient, "SECONDS", 60.0)  # it is not for its slowness
        with socket.create_connection(address, timeout=20) as line:
            with pytest.raises(OSError, match="reset|[Bb]roken pipe"):
                line.sendall(head)

    def test_headers_that_drip_are_hung_up_on(self, address: tuple[str, int]) -> None:
        assert self.drip(address, b"POST /api/chat HTTP/1.1\r\nX-A: ") == b""

    def test_who_says_nothing_is_hung_up_on(self, address: tuple[str, int]) -> None:
        assert self.drip(address, b"", drop=b"") == b""

    def test_who_is_served_keeps_the_line(self, address: tuple[str, int]) -> None:
        with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as client:
            for _ in range(3):
                assert client.get("/healthz").status_code == 200
                pieces = (b" " * 1000 for _ in range(120))  # a body in chunks is no head, however long
                assert client.post("/login", content=pieces).status_code == 422
                time.sleep(0.4)
