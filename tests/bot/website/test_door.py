"""Who may talk to the website's API, how often, and what it says it answers."""

import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_client
from fastapi.testclient import TestClient
from itsdangerous import TimestampSigner
from servers import ScriptedModel
from sqlalchemy import func, select
from worker import working

from bot.app import create_app
from bot.visitors import HEADER, Visitors, network
from bot.wiring import Awake
from core.db import transaction
from core.settings import Settings
from core.tables import InboundEvent, now

SHOP = "https://www.alvorada.example"
REPLY = "Sim, em todo o Brasil."


@pytest.fixture
def web(awake: Awake) -> Iterator[TestClient]:
    """The web process alone; the shop's pages may use it."""
    with TestClient(create_app(awake.settings.model_copy(update={"chat_allowed_origins": [SHOP]}))) as client:
        yield client


@pytest.fixture
def site(web: TestClient, awake: Awake, model: ScriptedModel) -> Iterator[TestClient]:
    model.say = lambda name, question: REPLY
    with working(awake):
        yield web


def count(awake: Awake, table: Any) -> int:
    with transaction(awake.engine) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def _ask_for_a_stream(client: TestClient, message: str, last: str | None = None) -> list[str]:
    """Its id, and then the lines of what is told."""
    headers = {"accept": "text/event-stream", **({"last-event-id": last.encode()} if last else {})}
    with client.stream("POST", "/api/chat", json={"message": message}, headers=headers) as answer:
        assert answer.status_code == 200
        first, *rest = [line for line in answer.iter_lines() if line]
    return [first.removeprefix("id: "), *rest]


class TestAskedOnce:
    def test_the_same_key_gets_the_same_answer(self, site: TestClient, awake: Awake, model: ScriptedModel) -> None:
        key = {"Idempotency-Key": str(uuid.uuid4())}
        first = site.post("/api/chat", json={"message": "Entregam?"}, headers=key).json()
        again = site.post("/api/chat", json={"message": "Entregam?"}, headers=key).json()
        site.cookies.clear()
        anew = site.post("/api/chat", json={"message": "Entregam?"}, headers=key).json()  # its answer never came
        assert [m["text"] for m in first["messages"]][:1] == [REPLY]
        assert first["messages"] == again["messages"] == anew["messages"]
        assert len(model.asked) == 1
        assert count(awake, InboundEvent) == 1

    def test_all_at_once(self, site: TestClient, awake: Awake, model: ScriptedModel) -> None:
        model.delay = 0.3
        key, answers = {"Idempotency-Key": str(uuid.uuid4())}, []

        def ask() -> None:
            answers.append(site.post("/api/chat", json={"message": "Entregam?"}, headers=key).json()["messages"])

        threads = [threading.Thread(target=ask) for _ in range(5)]
        [thread.start() for thread in threads]
        [thread.join(30) for thread in threads]
        assert len(answers) == 5
        assert all(answer == answers[0] and answer for answer in answers)
        assert len(model.asked) == 1

    def test_a_stream_that_was_cut_off_goes_on(self, site: TestClient, awake: Awake, model: ScriptedModel) -> None:
        stream_id = _ask_for_a_stream(site, "Entregam?")[0]
        site.cookies.clear()  # on a site of another origin there are none, and the token came too late for the request
        again, *told = _ask_for_a_stream(site, "Entregam?", stream_id)
        assert [json.loads(line[6:])["text"] for line in told if line.startswith("data: ") and '"key"' in line][
            0
        ] == REPLY
        assert told[-2] == "event: done"
        assert len(model.asked) == count(awake, InboundEvent) == 1
        visitor = Visitors(awake.settings).of_stream(again)
        assert visitor is not None
        assert visitor[::2] == Visitors(awake.settings).of_stream(stream_id)[::2]  # type: ignore[index]

    def test_another_message_or_person_is_no_cut_off_stream(
        self, site: TestClient, awake: Awake, model: ScriptedModel
    ) -> None:
        stream_id = _ask_for_a_stream(site, "Entregam?")[0]
        _ask_for_a_stream(site, "Parcelam?", stream_id)
        for forged in (stream_id[:-1], "7", "é", f"{stream_id}.x"):
            _ask_for_a_stream(site, "Entregam?", forged)
        site.cookies.clear()
        site.get("/api/history")
        _ask_for_a_stream(site, "Entregam?", stream_id)
        assert len(model.asked) == count(awake, InboundEvent) == 7

    def test_a_key_of_another_message(self, site: TestClient) -> None:
        key = {"Idempotency-Key": str(uuid.uuid4())}
        site.post("/api/chat", json={"message": "Entregam?"}, headers=key)
        answer = site.post("/api/chat", json={"message": "Parcelam?"}, headers=key)
        assert (answer.status_code, "new key" in answer.json()["next_step"]) == (409, True)

    def test_two_visitors_may_use_the_same_word(self, site: TestClient, awake: Awake) -> None:
        tokens = [site.get("/api/history").json()["visitor"] for _ in range(2) if site.cookies.clear() is None]
        for token in tokens:
            site.cookies.clear()
            answer = site.post(
                "/api/chat", json={"message": "Entregam?"}, headers={"Idempotency-Key": "1", HEADER: token}
            )
            assert answer.status_code == 200
        assert count(awake, InboundEvent) == 2

    @pytest.mark.parametrize("key", ["1", "order-00000000000000000000000000000001", "", "x" * 201])
    def test_a_first_message_needs_a_key_that_nobody_guesses(self, web: TestClient, awake: Awake, key: str) -> None:
        answer = web.post("/api/chat", json={"message": "Oi"}, headers={"Idempotency-Key": key})
        assert (answer.status_code, "UUID" in answer.json()["next_step"]) == (400, True)
        assert count(awake, InboundEvent) == 0

    def test_what_was_published_into_the_void_is_found_in_the_ledger(
        self, site: TestClient, awake: Awake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(awake.web, "_publish", lambda *_: None)
        assert site.post("/api/chat", json={"message": "Entregam?"}).json()["messages"][0]["text"] == REPLY


class TestHistory:
    def test_both_sides_and_the_ratings(self, site: TestClient) -> None:
        empty = site.get("/api/history").json()
        assert (empty["messages"], empty["waiting"], empty["assistant"]) == ([], False, "Lia")
        told = site.post("/api/chat", json={"message": "Entregam?"}).json()
        assert told["visitor"] == empty["visitor"], "the history began the visitor"
        site.post("/api/feedback", json={"message_id": told["messages"][0]["id"], "verdict": "down", "comment": "?"})
        rated = self.until(site, lambda found: found["messages"][1]["verdict"])
        assert [(m["from"], m["kind"], m["text"]) for m in rated["messages"]][:2] == [
            ("visitor", "question", "Entregam?"), ("bot", "answer", REPLY)
        ]  # fmt: skip
        assert rated["messages"][2]["kind"] == "consent"
        assert (rated["messages"][1]["verdict"], rated["messages"][1]["comment"]) == ("down", "?")
        assert [m["key"] for m in rated["messages"][1:]] == [m["key"] for m in told["messages"]]
        later = site.get("/api/history", params={"after": rated["messages"][1]["key"]}).json()
        assert later["messages"] == rated["messages"][2:]

    def until(self, site: TestClient, there: Any) -> Any:
        import time

        end = time.monotonic() + 10
        while not there(found := site.get("/api/history").json()) and time.monotonic() < end:
            time.sleep(0.02)
        return found

    def test_an_answer_that_is_still_made(self, web: TestClient, awake: Awake) -> None:
        impatient = awake.settings.model_copy(update={"reply_timeout": -4.9})
        with TestClient(create_app(impatient)) as client:
            assert client.post("/api/chat", json={"message": "Oi", "visitor": _token(awake)}).status_code == 503
        assert web.get("/api/history", headers={HEADER: _token(awake)}).json()["waiting"] is True

    def test_nobody_sees_anothers(self, site: TestClient) -> None:
        site.post("/api/chat", json={"message": "Meu segredo"})
        site.cookies.clear()
        assert site.get("/api/history").json()["messages"] == []

    def test_what_is_no_key(self, web: TestClient) -> None:
        assert web.get("/api/history", params={"after": "x' OR 1=1"}).status_code == 400


def _token(awake: Awake) -> str:
    return str(Visitors(awake.settings).signers[0].dumps("v1"))


class TestTokens:
    def test_an_old_one_is_replaced_and_a_very_old_one_is_nobody(
        self, web: TestClient, awake: Awake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        today = int(now().timestamp())
        for days, same, kept in ((1, True, True), (8, True, False), (181, False, False)):
            with monkeypatch.context() as patched:
                patched.setattr(TimestampSigner, "get_timestamp", lambda _, days=days: today - days * 86400)
                token = _token(awake)
            web.cookies.clear()
            found = web.get("/api/history", headers={HEADER: token}).json()["visitor"]
            assert (Visitors(awake.settings).signers[0].loads(found) == "v1", found == token) == (same, kept), days

    def test_the_secret_changes(self, awake: Awake) -> None:
        token = _token(awake)
        changed = {"session_secret": "another", "session_secret_previous": awake.settings.session_secret}
        after = awake.settings.model_validate({**awake.settings.model_dump(), **changed})
        with TestClient(create_app(after)) as client:
            fresh = client.get("/api/history", headers={HEADER: token}).json()["visitor"]
            assert fresh != token
            assert Visitors(after).known(fresh) == ("v1", fresh)
        forgotten = after.model_copy(update={"session_secret_previous": None})
        assert Visitors(forgotten).known(token) is None

    def test_cookies_are_for_https_only_where_we_are_https(self, awake: Awake) -> None:
        public = awake.settings.model_copy(update={"public_base_url": "https://bot.example.com"})
        with TestClient(create_app(public), base_url="https://bot.example.com") as client:
            cookie = client.get("/api/history").headers["set-cookie"]
        assert {"HttpOnly", "SameSite=lax", "Secure"} <= set(cookie.split("; "))


class TestOrigins:
    def test_an_allowed_site(self, web: TestClient) -> None:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": f"content-type,{HEADER}"}
        answer = web.options("/api/chat", headers={"Origin": SHOP, **asked})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, SHOP)
        answer = web.get("/api/history", headers={"Origin": SHOP})
        assert answer.headers["access-control-allow-origin"] == SHOP
        assert "access-control-allow-credentials" not in answer.headers
        refused = web.post("/api/chat", json={}, headers={"Origin": SHOP})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (400, SHOP)

    def test_an_allowed_site_in_capitals(self, awake: Awake) -> None:
        """Browsers send an origin in small letters, whatever the setting says."""
        settings = Settings(**awake.settings.model_dump() | {"chat_allowed_origins": ["https://WWW.Alvorada.example/"]})
        with TestClient(create_app(settings)) as web:
            answer = web.get("/api/history", headers={"Origin": "https://www.alvorada.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
            200,
            "https://www.alvorada.example",
        )

    @pytest.mark.parametrize(
        "origin", ["https://evil.example", "null", "http://www.alvorada.example", "https://www.alvorada.example.evil"]
    )
    def test_others(self, web: TestClient, awake: Awake, origin: str) -> None:
        for answer in (
            web.post("/api/chat", json={"message": "Oi"}, headers={"Origin": origin}),
            web.post("/api/feedback", json={}, headers={"Origin": origin}),
            web.get("/api/history", headers={"Origin": origin}),
            web.post("/api/forget", headers={"Origin": origin}),
        ):
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers
            assert "set-cookie" not in answer.headers
        assert count(awake, InboundEvent) == 0

    def test_our_own_pages_and_programs(self, web: TestClient) -> None:
        assert web.get("/api/history", headers={"Origin": "http://testserver"}).status_code == 200
        assert web.get("/api/history").status_code == 200

    def test_the_files_are_for_all(self, web: TestClient) -> None:
        for path in ("/widget.js", "/widget/main.js", "/widget/style.css"):
            answer = web.get(path)
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.headers["content-type"].split(";")[0] in ("text/javascript", "text/css")


class TestRates:
    RATES = {"chat_visitor_rate": "3/minute", "chat_address_rate": "5/minute"}

    def client(self, awake: Awake, **more: Any) -> TestClient:
        return TestClient(create_app(awake.settings.model_copy(update={**self.RATES, **more})))

    def look(self, client: TestClient, visitor: str = "") -> int:
        return client.get("/api/history", headers={HEADER: visitor}).status_code

    def test_per_visitor_and_per_address(self, awake: Awake) -> None:
        with self.client(awake) as client:
            told = [self.look(client, _token(awake)) for _ in range(13)]
            assert told == [200] * 12 + [429], "four times three looks"
            refused = client.get("/api/history", headers={HEADER: _token(awake)})
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.json()["next_step"].startswith("Try again in")
            client.cookies.clear()
            others = []
            for _ in range(10):
                client.cookies.clear()
                others.append(self.look(client))
            assert others == [200] * 6 + [429] * 4, "new visitors do not help: four times five looks of one address"

    def test_messages(self, awake: Awake, model: ScriptedModel) -> None:
        with self.client(awake) as client, working(awake):
            token = _token(awake)
            told = [client.post("/api/chat", json={"message": "Oi", "visitor": token}).status_code for _ in range(5)]
        assert told == [200, 200, 200, 429, 429]
        assert count(awake, InboundEvent) == 3

    def test_an_operators_bench_is_not_stopped(self, awake: Awake) -> None:
        token = Visitors(awake.settings).of_the_operator()
        with self.client(awake) as client:
            assert {self.look(client, token) for _ in range(30)} == {200}

    def test_all_processes_count_together(self, awake: Awake) -> None:
        with self.client(awake) as one, self.client(awake) as two:
            told = [self.look(client, _token(awake)) for _ in range(7) for client in (one, two)]
        assert told == [200] * 12 + [429] * 2

    def test_without_redis_each_counts_for_itself(self, awake: Awake) -> None:
        with self.client(awake, redis_url="redis://127.0.0.1:1/0") as client:
            told = [self.look(client, _token(awake)) for _ in range(14)]
        assert told == [200] * 12 + [429] * 2

    def test_a_redis_that_lost_everything_counts_anew(self, awake: Awake) -> None:
        with self.client(awake) as client:
            for _ in range(13):
                self.look(client, _token(awake))
            redis_client.Redis.from_url(str(awake.settings.redis_url)).flushall()
            assert self.look(client, _token(awake)) == 200

    @pytest.mark.parametrize(
        ("address", "counted"),
        [
            ("203.0.113.7", "203.0.113.7"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("testclient", "testclient"),
        ],
    )
    def test_whom_an_address_is_counted_for(self, address: str, counted: str) -> None:
        assert network(address) == counted


class TestDocumentation:
    def test_every_call_lists_its_statuses_and_examples(self, web: TestClient) -> None:
        described = web.get("/openapi.json").json()
        listed = {
            (path, method): set(call["responses"])
            for path, calls in described["paths"].items() if path.startswith("/api/")
            for method, call in calls.items()
        }  # fmt: skip
        assert listed == {
            ("/api/chat", "post"): {"200", "400", "403", "404", "408", "409", "413", "429", "503"},
            ("/api/feedback", "post"): {"202", "400", "403", "404", "408", "413", "429", "503"},
            ("/api/history", "get"): {"200", "400", "403", "404", "429", "503"},
            ("/api/forget", "post"): {"204", "403", "404"},
        }
        text = json.dumps(described)
        for word in ("Problem", "next_step", "text/event-stream", "Retry-After", "Idempotency-Key", HEADER, "examples"):
            assert word in text, word

    def test_our_pages_run_only_what_they_name(self, web: TestClient) -> None:
        seen = set()
        for _ in range(2):
            page = web.get("/chat")
            policy = page.headers["content-security-policy"]
            [nonce] = [part.split("'nonce-")[1][:-1] for part in policy.split() if part.startswith("'nonce-")]
            assert page.text.count("<script ") == page.text.count(f'<script nonce="{nonce}" ') == 1
            assert "unsafe" not in policy
            seen.add(nonce)
        assert len(seen) == 2
