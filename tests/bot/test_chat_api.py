"""The website's chat over HTTP: web process, ledger, bell and a worker, with a scripted model behind them."""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from servers import ScriptedModel
from sqlalchemy import select
from worker import working

from bot.app import create_app
from bot.chat_api import MAX_MESSAGE
from bot.visitors import COOKIE, Visitors
from bot.wiring import Awake
from core.db import transaction
from core.settings import Settings
from core.tables import Feedback, InboundEvent, Message


@pytest.fixture
def web(awake: Awake) -> Iterator[TestClient]:
    """The web process alone: nobody answers."""
    with TestClient(create_app(awake.settings)) as client:
        yield client


@pytest.fixture
def site(web: TestClient, awake: Awake) -> Iterator[TestClient]:
    """The web process with a worker behind it; a browser's cookies are kept."""
    with working(awake):
        yield web


def say(client: TestClient, message: str, **more: Any) -> dict[str, Any]:
    answer = client.post("/api/chat", json={"message": message, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def stored(settings: Settings) -> int:
    with psycopg.connect(str(settings.database_url)) as connection:
        return connection.execute("SELECT count(*) FROM npllm.inbound_events").fetchone()[0]  # type: ignore[index]


def current_feedback(awake: Awake) -> list[tuple[str, str, float | None, str | None]]:
    with transaction(awake.engine) as session:
        found = session.scalars(select(Feedback).where(Feedback.superseded_at.is_(None))).all()
        return [(row.signal, row.op, row.value, row.comment) for row in found]


class TestTalk:
    def test_a_visitor_asks_and_is_answered(self, site: TestClient, model: ScriptedModel) -> None:
        model.say = lambda name, question: "Entregamos em todo o Brasil."
        answer = site.post("/api/chat", json={"message": "Vocês entregam?", "name": "Rita"})
        first, *rest = answer.json()["messages"]
        assert first["text"] == "Entregamos em todo o Brasil."
        assert uuid.UUID(first["id"])
        assert [message["id"] for message in rest] == [None], "the question about learning cannot be rated"
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"{COOKIE}={answer.json()['visitor']};")
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie

    def test_the_next_message_is_of_the_same_conversation(
        self, site: TestClient, awake: Awake, model: ScriptedModel
    ) -> None:
        model.say = lambda name, question: "Sim."
        token = say(site, "Aceitam Pix?")["visitor"]
        say(site, "E cartão?")  # by cookie
        site.cookies.clear()
        say(site, "E boleto?", visitor=token)  # by token
        site.cookies.clear()
        say(site, "E cheque?")  # somebody else
        with transaction(awake.engine) as session:
            messages = session.scalars(select(Message).where(Message.direction == "in").order_by(Message.id)).all()
            conversations = [message.conversation_id for message in messages]
        assert conversations[0] == conversations[1] == conversations[2] != conversations[3]

    @pytest.mark.parametrize("token", ["forged.token", "é", "", "a" * 5000])
    def test_a_token_that_is_not_ours_makes_a_new_visitor(
        self, site: TestClient, model: ScriptedModel, token: str
    ) -> None:
        model.say = lambda name, question: "Oi!"
        assert say(site, "Oi", visitor=token)["visitor"] != token

    def test_pieces_then_the_message_then_done(self, site: TestClient, model: ScriptedModel) -> None:
        model.say = lambda name, question: "Entregamos em todo o Brasil, também em Santos."
        with site.stream(
            "POST", "/api/chat", json={"message": "Vocês entregam?"}, headers={"accept": "text/event-stream"}
        ) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert COOKIE in answer.headers["set-cookie"]
            stream_id, *lines = [line for line in answer.iter_lines() if line]
        assert stream_id.startswith("id: ")
        names = [line.removeprefix("event: ") for line in lines[::2]]
        data = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
        assert (names[0], names[-1]) == ("visitor", "done")
        pieces = "".join(piece["text"] for name, piece in zip(names, data, strict=True) if name == "piece")
        messages = [message for name, message in zip(names, data, strict=True) if name == "message"]
        assert messages[0]["text"] == "Entregamos em todo o Brasil, também em Santos."
        assert messages[0]["text"].startswith(pieces.strip())
        assert pieces

    def test_who_wants_no_more_gets_no_word(self, site: TestClient) -> None:
        assert say(site, "PARAR")["messages"] == []

    def test_the_documentation_knows_the_bodies(self, web: TestClient) -> None:
        paths = web.get("/openapi.json").json()["paths"]
        for path, field in (("/api/chat", "message"), ("/api/feedback", "message_id")):
            schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            assert field in schema["required"]


class TestNoAnswer:
    def test_nobody_answers_in_time(self, awake: Awake) -> None:
        impatient = awake.settings.model_copy(update={"reply_timeout": -4.8})  # five seconds are added
        with TestClient(create_app(impatient)) as client:
            answer = client.post("/api/chat", json={"message": "Oi"})
            assert (answer.status_code, bool(answer.json()["next_step"])) == (503, True)
            events = client.post("/api/chat", json={"message": "Oi", "stream": True}).text
        assert events.count("event: error") == 1
        assert stored(awake.settings) == 2, "both are in the ledger, and will be answered"

    def test_without_the_bell_it_says_so_and_stores_nothing(self, awake: Awake) -> None:
        deaf = awake.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
        with TestClient(create_app(deaf)) as client:
            assert client.post("/api/chat", json={"message": "Oi"}).status_code == 503
        assert stored(awake.settings) == 0

    def test_without_a_ledger_it_says_so(self, awake: Awake) -> None:
        app = create_app(awake.settings.model_copy(update={"database_url": "postgresql://n:x@127.0.0.1:1/none"}))
        app.state.intake.pool.timeout = 0.3
        with TestClient(app) as client:
            answer = client.post("/api/chat", json={"message": "Oi"})
            assert answer.status_code == 503
            visitor = _signed(awake.settings, "v1")
            rated = client.post(
                "/api/feedback", json={"message_id": str(uuid.uuid4()), "verdict": "up", "visitor": visitor}
            )
        assert rated.status_code == 503


def _signed(settings: Settings, visitor: str) -> str:
    return str(Visitors(settings).signers[0].dumps(visitor))


UNREADABLE: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b'"oi"', 400),
    (b"\xff", 400),
    (b"{}", 400),
    (b'{"message": 5}', 400),
    (b'{"message": null}', 400),
    (b'{"message": ""}', 400),
    (b'{"message": "  \\n "}', 400),
    (b'{"message": "\\u0000"}', 400),
    (b'{"message": "\\u200b\\u3164"}', 400),
    (b'{"message": "\\ud83d"}', 400),
    (b'{"message": "oi", "visitor": "\\ud83d"}', 400),
    (b'{"message": "oi", "name": "' + b"a" * 101 + b'"}', 400),
    (b'{"message":' * 5000, 400),
    (json.dumps({"message": "a" * (MAX_MESSAGE + 1)}).encode(), 413),
    (json.dumps({"message": "a" * 1_000_000}).encode(), 413),
]


class TestBadInput:
    def test_each_says_what_is_wrong(self, web: TestClient, awake: Awake) -> None:
        for body, status in UNREADABLE:
            answer = web.post("/api/chat", content=body)
            assert (answer.status_code, bool(answer.json()["next_step"])) == (status, True), (body[:60], answer.text)
        assert stored(awake.settings) == 0

    @pytest.mark.parametrize("path", ["/api/chat", "/api/feedback"])
    def test_without_a_session_secret_there_is_no_door(self, awake: Awake, path: str) -> None:
        body = {"message": "Oi", "message_id": str(uuid.uuid4()), "verdict": "up"}
        client = TestClient(create_app(awake.settings.model_copy(update={"session_secret": None})))
        answer = client.post(path, json=body)
        assert (answer.status_code, "SESSION_SECRET" in answer.json()["next_step"]) == (404, True)


class TestFeedback:
    @pytest.fixture
    def answered(self, site: TestClient, model: ScriptedModel) -> dict[str, Any]:
        model.say = lambda name, question: "Sim, em até doze vezes."
        return say(site, "Parcelam?")

    def rate(self, site: TestClient, answered: dict[str, Any], **given: Any) -> Any:
        return site.post("/api/feedback", json={"message_id": answered["messages"][0]["id"], **given})

    def wait_for(self, awake: Awake, count: int) -> None:
        """Feedback is stored by the worker a moment later."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with transaction(awake.engine) as session:
                if len(session.scalars(select(Feedback)).all()) >= count:
                    return
            time.sleep(0.02)
        raise AssertionError("The feedback was not stored.")

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"verdict": "up"}, ("button", "replace", 1.0, None)),
            ({"verdict": "down", "comment": "Caro demais"}, ("button", "replace", 0.0, "Caro demais")),
            ({"stars": 4}, ("stars", "replace", 0.75, None)),
            ({"comment": "Faltou o prazo"}, ("comment", "replace", None, "Faltou o prazo")),
        ],
    )
    def test_a_rating_counts(
        self, site: TestClient, awake: Awake, answered: dict[str, Any], given: dict[str, Any], expected: tuple[Any, ...]
    ) -> None:
        answer = self.rate(site, answered, **given)
        assert (answer.status_code, answer.json()) == (202, {"status": "accepted"})
        self.wait_for(awake, 1)
        assert current_feedback(awake) == [expected]

    def test_another_rating_takes_its_place_and_can_be_taken_back(
        self, site: TestClient, awake: Awake, answered: dict[str, Any]
    ) -> None:
        verdicts: list[dict[str, Any]] = [{"verdict": "up"}, {"verdict": "down"}, {"remove": True}]
        for count, given in enumerate(verdicts, 1):
            assert self.rate(site, answered, **given).status_code == 202
            self.wait_for(awake, count)
        assert current_feedback(awake) == [("button", "remove", None, None)]

    def test_stars_can_be_taken_back_too(self, site: TestClient, awake: Awake, answered: dict[str, Any]) -> None:
        for count, given in enumerate(({"stars": 2}, {"remove": True}), 1):
            assert self.rate(site, answered, **given).status_code == 202
            self.wait_for(awake, count)
        assert current_feedback(awake) == [("button", "remove", None, None)]

    @pytest.mark.parametrize("blank", ["", "  ", "\u200b", "\x00"])
    def test_a_blank_comment_says_nothing_and_wipes_no_other(
        self, site: TestClient, awake: Awake, answered: dict[str, Any], blank: str
    ) -> None:
        for count, given in enumerate(({"verdict": "down"}, {"comment": "Faltou o prazo"}), 1):
            self.rate(site, answered, **given)
            self.wait_for(awake, count)
        assert self.rate(site, answered, comment=blank).status_code == 400
        assert current_feedback(awake) == [("button", "replace", 0.0, "Faltou o prazo")]

    def test_what_cannot_be_rated(self, site: TestClient, answered: dict[str, Any]) -> None:
        consent = answered["messages"][1]
        assert (consent["kind"], consent["id"]) == ("consent", None)
        answer = site.post("/api/feedback", json={"message_id": consent["key"], "verdict": "down"})
        assert answer.status_code == 404

    def test_what_is_typed_instead_of_tapped_counts_and_is_answered(
        self, site: TestClient, awake: Awake, answered: dict[str, Any], model: ScriptedModel
    ) -> None:
        for typed in ("👍", "🤔", "2 estrelas"):
            assert say(site, typed, visitor=answered["visitor"])["messages"]
        with transaction(awake.engine) as session:
            votes = session.scalars(select(Feedback).order_by(Feedback.created_at)).all()
            assert [(vote.raw, vote.value, vote.confidence < 1) for vote in votes] == [
                ("👍", 1.0, True), ("2 estrelas", 0.25, True)
            ]  # fmt: skip

    def test_only_who_was_answered_may_rate(self, site: TestClient, answered: dict[str, Any]) -> None:
        site.cookies.clear()
        other = say(site, "Oi")["visitor"]
        answer = self.rate(site, answered, verdict="down", visitor=other)
        assert (answer.status_code, bool(answer.json()["next_step"])) == (404, True)

    def test_an_answer_that_is_none(self, site: TestClient, answered: dict[str, Any]) -> None:
        for message_id in ("", "x", str(uuid.uuid4()), "1" * 5000):
            answer = site.post("/api/feedback", json={"message_id": message_id, "verdict": "up"})
            assert answer.status_code == 404, message_id

    def test_a_rating_that_is_none(self, site: TestClient, answered: dict[str, Any]) -> None:
        wrong: list[dict[str, Any]] = [
            {}, {"verdict": "maybe"}, {"stars": 0}, {"stars": 6}, {"stars": "five"}, {"comment": "a" * 2001},
            {"stars": True}, {"stars": "4"}, {"stars": 4.5}, {"verdict": "up", "stars": 1}, {"remove": "yes"},
        ]  # fmt: skip
        for given in wrong:
            assert self.rate(site, answered, **given).status_code == 400, given

    def test_nobody_may_not_rate(self, site: TestClient, awake: Awake, answered: dict[str, Any]) -> None:
        site.cookies.clear()
        assert self.rate(site, answered, verdict="up").status_code == 400
        assert self.rate(site, answered, verdict="up", visitor="forged.token").status_code == 400
        with transaction(awake.engine) as session:
            kinds = session.scalars(select(InboundEvent.kind)).all()
        assert "signal" not in kinds
