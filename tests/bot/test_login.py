"""Who may look at /review and /ops. An unset password closes them; it never opens them."""

import uuid
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from bot.app import create_app
from bot.login import COOKIE, GUESSES
from core.settings import Settings

PASSWORD = "operator-password"


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), follow_redirects=False) as opened:
        yield opened


def log_in(client: TestClient, *, name: str = "rita", password: str = PASSWORD, next: str = "/review") -> int:
    return client.post("/login", data={"name": name, "password": password, "next": next}).status_code


@pytest.mark.parametrize("path", ["/ops", "/review"])
class TestPages:
    def test_a_stranger_is_sent_to_the_log_in(self, client: TestClient, path: str) -> None:
        answer = client.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/login?next={path}")

    def test_whoever_knows_the_password_sees_it(self, client: TestClient, path: str) -> None:
        assert log_in(client) == 303
        assert client.get(path).status_code == 200

    @pytest.mark.parametrize("unset", ["operator_password", "session_secret"])
    def test_unset_it_is_closed_to_everybody(self, settings: Settings, path: str, unset: str) -> None:
        with TestClient(create_app(settings.model_copy(update={unset: None})), follow_redirects=False) as client:
            for password in ("", "None", PASSWORD):
                assert client.post("/login", data={"name": "rita", "password": password}).status_code in (404, 422)
            answer = client.get(path)
        assert answer.status_code == 404
        assert "OPERATOR_PASSWORD" in answer.json()["next_step"]


@pytest.mark.parametrize("password", ["", "wrong", PASSWORD + " ", "ção"])
def test_a_wrong_password(client: TestClient, password: str) -> None:
    assert log_in(client, password=password) in (401, 422)
    assert COOKIE not in client.cookies


@pytest.mark.parametrize("name", ["", " ", "<b>", "x" * 61, "a\nb"])
def test_a_name_that_is_none(client: TestClient, name: str) -> None:
    assert log_in(client, name=name) in (401, 422)
    assert COOKIE not in client.cookies


def test_a_cookie_of_our_own_making_alone(client: TestClient, settings: Settings) -> None:
    log_in(client)
    cookie = client.cookies[COOKIE]
    body, _, signature = cookie.rpartition(".")
    for forged in ("rita", cookie[:-2] + "xx", f"{body[:-1]}x.{signature}", ""):
        client.cookies.clear()
        assert client.get("/ops", headers={"Cookie": f"{COOKIE}={forged}"}).status_code == 303


def test_the_cookie_is_for_our_pages_alone(client: TestClient) -> None:
    answer = client.post("/login", data={"name": "rita", "password": PASSWORD})
    kept = answer.headers["set-cookie"].lower()
    assert "httponly" in kept
    assert "samesite=strict" in kept


def test_where_our_pages_are_encrypted_it_does_not_leave_otherwise(settings: Settings) -> None:
    for address, secure in (("https://bot.example", True), ("http://127.0.0.1:8000", False)):
        app = create_app(settings.model_copy(update={"public_base_url": address}))
        with TestClient(app, follow_redirects=False) as client:
            kept = client.post("/login", data={"name": "rita", "password": PASSWORD}).headers["set-cookie"].lower()
        assert ("secure" in kept) is secure


def test_another_password_ends_what_the_old_one_began(client: TestClient, settings: Settings) -> None:
    log_in(client)
    changed = settings.model_copy(update={"operator_password": SecretStr("another")})
    with TestClient(create_app(changed), follow_redirects=False) as later:
        kept = {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        assert later.get("/ops", headers=kept).status_code == 303
    assert client.get("/ops").status_code == 200


def test_a_password_cannot_be_guessed_at_leisure(client: TestClient) -> None:
    assert [log_in(client, password=f"guess {i}") for i in range(GUESSES.amount)] == [401] * GUESSES.amount
    answer = client.post("/login", data={"name": "rita", "password": PASSWORD})
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 600
    assert COOKIE not in client.cookies


@pytest.mark.parametrize("path", ["/login", "/review/1", f"/handover/{uuid.UUID(int=7)}"])
@pytest.mark.parametrize("announced", [True, False])
def test_a_form_as_large_as_a_disk_is_not_read(client: TestClient, path: str, announced: bool) -> None:
    def parts() -> Iterator[bytes]:
        for number in range(40):
            begin = f'--b\r\nContent-Disposition: form-data; name="f{number}"; filename="f"\r\n\r\n'
            yield begin.encode() + b"x" * 100_000 + b"\r\n"
        yield b"--b--\r\n"

    content = b"".join(parts()) if announced else parts()
    answer = client.post(path, content=content, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413


def test_it_does_not_last(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(client)
    monkeypatch.setattr("bot.login.LASTS", -1)
    assert client.get("/ops").status_code == 303


@pytest.mark.parametrize(
    ("target", "led"),
    [
        ("/review", "/review"), ("https://evil.example", "/ops"), ("//evil.example", "/ops"),
        ("/\\evil.example", "/ops"), ("javascript:alert(1)", "/ops"), ("", "/ops"),
    ],
)  # fmt: skip
def test_it_leads_to_our_own_pages_alone(client: TestClient, target: str, led: str) -> None:
    answer = client.post("/login", data={"name": "rita", "password": PASSWORD, "next": target})
    assert answer.headers["location"] == led
    form = client.get("/login", params={"next": target})
    assert f'value="{led}"' in form.text


def test_pages_run_nothing_but_our_own_files(client: TestClient) -> None:
    log_in(client)
    for path in ("/ops", "/review", "/login", "/chat"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
