"""A stranger's link leads nowhere but to a public file of a type we take."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from servers import serving

from core import fetch as module
from core.errors import BadInput, NotAllowed, NpllmError, TooLarge, Unavailable
from core.fetch import Fetched, fetch, is_public


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A vendor's file server; what it was asked with."""
    app, asked = FastAPI(), []

    @app.middleware("http")
    async def remember(request: Request, call_next: Any) -> Any:
        asked.append(dict(request.headers))
        return await call_next(request)

    @app.get("/photo")
    def photo() -> Response:
        return Response(b"\xff\xd8 a photo", media_type="image/jpeg")

    @app.get("/page")
    def page() -> Response:
        return Response("<script>", media_type="text/html")

    @app.get("/zipped")
    def zipped() -> Response:
        return Response(b"x", media_type="image/png", headers={"content-encoding": "gzip"})

    @app.get("/endless")
    def endless() -> StreamingResponse:
        return StreamingResponse((b"x" * 1000 for _ in range(10**9)), media_type="video/mp4")

    @app.get("/to")
    def to(url: str) -> RedirectResponse:
        return RedirectResponse(url)

    @app.get("/gone")
    def gone() -> Response:
        return Response(status_code=404)

    with serving(app) as url:
        yield url, asked


def get(url: str, *, trust: str = "", **facts: Any) -> Fetched:
    trusted = frozenset({trust.removeprefix("http://")}) if trust else frozenset()
    return fetch(url, types=("image/", "video/", "application/pdf"), max_bytes=5000, trusted=trusted, **facts)


def test_a_file_of_our_own_vendor_server(server: tuple[str, list[dict[str, str]]]) -> None:
    url, asked = server
    found = get(f"{url}/photo", trust=url, headers_for=lambda host: {"Authorization": f"for {host}"})
    assert found == Fetched(b"\xff\xd8 a photo", "image/jpeg")
    assert asked[-1]["authorization"] == "for 127.0.0.1"
    assert asked[-1]["host"] == url.removeprefix("http://")


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/x", "https://127.0.0.1/x", "https://localhost/x", "https://[::1]/x", "https://10.0.0.1/x",
     "https://169.254.169.254/latest/meta-data", "https://192.168.0.1/", "https://172.16.0.1/", "https://0.0.0.0/",
     "https://2130706433/", "https://0x7f.1/", "https://[::ffff:127.0.0.1]/", "https://[64:ff9b::7f00:1]/",
     "https://[fe80::1]/", "https://[fd00::1]/", "http://example.com/x", "ftp://example.com/x", "file:///etc/passwd",
     "https://user:pass@example.com/", "https:///x", "nothing", "", "https://exa mple/",
     "https://xn--a/", "https://example.com/\ud83d"],
)  # fmt: skip
def test_nowhere_else(url: str) -> None:
    with pytest.raises((NotAllowed, Unavailable)):
        get(url)


def test_also_not_by_a_redirect(server: tuple[str, list[dict[str, str]]]) -> None:
    url, asked = server
    for target in ("https://169.254.169.254/", "http://127.0.0.1:1/", "file:///etc/passwd", "http://localhost:1/"):
        with pytest.raises(NotAllowed):
            get(f"{url}/to?url={target}", trust=url)
    assert get(f"{url}/to?url=/photo", trust=url).type == "image/jpeg"
    with pytest.raises(Unavailable):
        get(f"{url}/to?url=https://xn--a/", trust=url)
    with pytest.raises(NotAllowed, match="too often"):
        get(_circle(url), trust=url)


def _circle(url: str) -> str:
    from urllib.parse import quote

    target = f"{url}/photo"
    for _ in range(5):
        target = f"{url}/to?url={quote(target, safe='')}"
    return target


def test_credentials_do_not_follow_a_redirect_to_another_host(server: tuple[str, list[dict[str, str]]]) -> None:
    url, asked = server
    other = url.replace("127.0.0.1", "localhost")
    fetch(
        f"{url}/to?url={other}/photo", types=("image/",), max_bytes=100,
        headers_for=lambda host: {"Authorization": "secret"} if host == "127.0.0.1" else {},
        trusted=frozenset({url.removeprefix("http://"), other.removeprefix("http://")}),
    )  # fmt: skip
    assert "authorization" in asked[-2]
    assert "authorization" not in asked[-1]


def test_a_name_that_answers_differently_the_second_time(
    server: tuple[str, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is resolved once: the connection goes to what was checked."""
    url, _ = server
    port = int(url.rpartition(":")[2])
    answers: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "rebind.example":
            return real(host, *args, **kwargs)
        answers.append(host)
        address = "93.184.215.14" if len(answers) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(module.socket, "getaddrinfo", rebinding)
    with pytest.raises(NpllmError):
        get(f"https://rebind.example:{port}/photo", seconds=0.3)
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("path", "error"), [("page", BadInput), ("zipped", BadInput), ("endless", TooLarge), ("gone", Unavailable)]
)
def test_not_everything_is_taken(server: tuple[str, list[dict[str, str]]], path: str, error: type[Exception]) -> None:
    url, _ = server
    with pytest.raises(error):
        get(f"{url}/{path}", trust=url)


@pytest.mark.parametrize(
    ("address", "public"),
    [("8.8.8.8", True), ("2606:4700::1111", True), ("100.64.0.1", False), ("224.0.0.1", False), ("::", False),
     ("2002:7f00:1::", False), ("::ffff:8.8.8.8", False), ("198.18.0.1", False), ("255.255.255.255", False)],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public
