"""What the model gets to see for one turn."""

from datetime import timedelta
from typing import Any

import pytest
from factories import make_answer, make_conversation
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from bot import recall
from core import knowledge
from core.db import transaction
from core.errors import ModelUnavailable
from core.tables import Message, now


@pytest.fixture
def session(engine: Engine) -> Any:
    with transaction(engine) as opened:
        yield opened


@pytest.fixture
def shop(session: Session) -> Session:
    for title, text in (
        ("Entrega", "Entregamos em São Paulo em até 5 dias úteis, com frete grátis."),
        ("Garantia", "Todos os colchões têm garantia de 5 anos contra defeitos."),
    ):
        knowledge.add(session, context="customers", language="pt", title=title, text=text)
    knowledge.add(session, context="employees", language="pt", title="Férias", text="As férias são marcadas no RH.")
    session.flush()
    return session


def recalled(session: Session, question: str, **facts: Any) -> recall.Recalled:
    values: dict[str, Any] = {"context": "customers", "history": [], "language": "pt", "vector": None, "model": None}
    return recall.recall(session, question=question, limit=3, **{**values, **facts})


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Quanto custa o colchão de casal?", "pt"),
        ("How much is the mattress?", "en"),
        ("qto ta o frete pra ca", "pt"),
        ("do you deliver?", "en"),
        ("Aurora", "pt"),
        ("", "pt"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert recall.language_of(text, "pt") == language


def test_a_conversation_keeps_its_language_where_the_words_do_not_say() -> None:
    assert recall.language_of("Aurora king", "en") == "en"


@pytest.mark.parametrize("text", ["oi", "Bom dia!", "ok, obrigada", "tchau 👋", "falar com um atendente", "", "👍"])
def test_small_talk_is_not_looked_up(text: str) -> None:
    assert not recall.needs_search(text)


@pytest.mark.parametrize("text", ["oi, quanto custa?", "bom dia, vocês entregam?", "e o de casal?"])
def test_a_question_is(text: str) -> None:
    assert recall.needs_search(text)


class TestRecall:
    def test_a_greeting_searches_nothing(self, shop: Session) -> None:
        assert recalled(shop, "oi, tudo bem?").passages is None

    def test_what_fits_comes_with_its_ids(self, shop: Session) -> None:
        found = recalled(shop, "Qual é a garantia dos colchões?")
        assert found.passages
        assert "garantia de 5 anos" in found.passages[0]
        assert len(found.memories) == len(found.passages)

    def test_nothing_that_fits_is_found_as_nothing(self, shop: Session) -> None:
        assert recalled(shop, "Quem descobriu o rádio polônio?").passages == []

    def test_another_contexts_knowledge_is_never_seen(self, shop: Session) -> None:
        assert recalled(shop, "Quando marco as férias no RH?").passages == []
        assert recalled(shop, "Quando marco as férias no RH?", context="employees").passages

    def test_a_short_follow_up_is_looked_up_with_what_it_follows(self, shop: Session) -> None:
        history = [("Qual é a garantia dos colchões?", "5 anos.")]
        assert recall.search_text("e o de casal?", history) == "Qual é a garantia dos colchões? e o de casal?"
        found = recalled(shop, "e contra defeitos?", history=history)
        assert found.passages
        assert found.history == history

    def test_a_whole_question_stands_on_its_own(self) -> None:
        question = "Vocês entregam em São Paulo quando?"
        assert recall.search_text(question, [("Qual é a garantia?", "5 anos.")]) == question


class TestRecentTurns:
    def test_the_last_answered_ones_oldest_first(self, session: Session) -> None:
        talk = make_conversation(session)
        for number in (3, 2, 1):
            make_answer(session, talk, question=f"p{number}", text=f"r{number}", ago=timedelta(minutes=number))
        assert recall.recent_turns(session, talk.id, 2) == [("p2", "r2"), ("p1", "r1")]
        assert recall.recent_turns(session, talk.id, 0) == []

    def test_what_was_taken_back_and_what_is_no_answer_is_left_out(self, session: Session) -> None:
        talk = make_conversation(session)
        deleted = make_answer(session, talk, question="segredo", ago=timedelta(minutes=3))
        session.get_one(Message, deleted.in_reply_to).deleted_at = now()
        make_answer(session, talk, text="Posso aprender?", kind="consent")
        make_answer(session, talk, question="p", text="r", ago=timedelta(minutes=2))
        session.flush()
        assert recall.recent_turns(session, talk.id, 5) == [("p", "r")]

    def test_of_this_conversation_alone(self, session: Session) -> None:
        make_answer(session)
        assert recall.recent_turns(session, make_conversation(session).id, 5) == []


class TestEmbed:
    class Away:
        name = "away"

        def embed(self, texts: list[str]) -> list[list[float]]:
            raise ModelUnavailable("away")

    def test_without_an_embedder_words_alone(self) -> None:
        assert recall.embed(None, "x") is None

    def test_an_embedder_that_is_away_costs_no_reply(self) -> None:
        assert recall.embed(self.Away(), "x") is None  # type: ignore[arg-type]
