"""From what people said to what a night may learn: consent, redaction, doubles, floods, hold-out."""

import uuid
from typing import Any

import nights
import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from bot.nights import claim
from core.db import transaction
from core.settings import Settings
from core.tables import TrainingExample
from learning.curate import PER_PERSON, curate


def night(engine: Engine) -> uuid.UUID:
    """A night that is nobody's turn any more, so that the next may be claimed."""
    with transaction(engine) as session:
        sequence = len(session.scalars(select(TrainingExample.id)).all()) + 1
        run = claim(session, "customers", Settings(), sequence=sequence, requested_by="test")
        assert run is not None
        run.state = "skipped"
        return run.id


def curated(engine: Engine) -> tuple[dict[str, int], list[TrainingExample]]:
    run = night(engine)
    with transaction(engine) as session:
        funnel = curate(session, "customers", run, Settings())
        rows = session.scalars(select(TrainingExample).where(TrainingExample.run_id == run)).all()
        return funnel, list(rows)


def day(engine: Engine, make: Any) -> None:
    with transaction(engine) as session:
        make(session)


def test_a_correction_is_learned_as_the_reviewer_wrote_it(engine: Engine) -> None:
    def make(session: Session) -> None:
        answer = nights.turn(session, nights.conversation(session), "Quanto custa?", "Não sei.")
        nights.review(session, answer, "correct", "Custa R$ 10. Quer levar?")

    day(engine, make)
    funnel, rows = curated(engine)
    assert funnel["learned"] == 1
    assert rows[0].answer == "Custa R$ 10. Quer levar?"
    assert rows[0].source == "annotation"
    assert "O colchão custa R$ 10." in rows[0].messages[-1]["content"]


def test_liked_answers_are_learned_disliked_and_rejected_ones_are_not(engine: Engine) -> None:
    def make(session: Session) -> None:
        liked = nights.turn(session, nights.conversation(session), "A?", "Resposta boa")
        nights.react(session, liked, 1.0)
        both = nights.turn(session, nights.conversation(session), "B?", "Resposta discutida")
        nights.react(session, both, 1.0)
        other = nights.conversation(session)
        nights.react(session, both, 0.0, by=other.customer_id)
        rejected = nights.turn(session, nights.conversation(session), "C?", "Resposta rejeitada")
        nights.react(session, rejected, 1.0)
        nights.review(session, rejected, "reject")
        nights.turn(session, nights.conversation(session), "D?", "Sem opinião")

    day(engine, make)
    _, rows = curated(engine)
    assert [row.answer for row in rows if row.dropped is None] == ["Resposta boa"]


def test_without_consent_nothing_is_learned_and_no_text_is_kept(engine: Engine) -> None:
    def make(session: Session) -> None:
        talk = nights.conversation(session, consent=False)
        answer = nights.turn(session, talk, "Segredo?", "Segredo.", consent=False)
        nights.review(session, answer, "approve")

    day(engine, make)
    funnel, rows = curated(engine)
    assert funnel["dropped: no consent"] == 1
    assert (rows[0].dropped, rows[0].answer, rows[0].messages) == ("no consent", "", [])


def test_a_withdrawn_consent_counts_from_then_on(engine: Engine) -> None:
    def make(session: Session) -> None:
        talk = nights.conversation(session)
        answer = nights.turn(session, talk, "A?", "B.")
        nights.review(session, answer, "approve")
        from core.tables import Customer

        session.get_one(Customer, talk.customer_id).consent = "denied"

    day(engine, make)
    assert curated(engine)[0]["learned"] == 0


def test_personal_data_is_redacted_in_question_answer_and_history(engine: Engine) -> None:
    def make(session: Session) -> None:
        talk = nights.conversation(session, name="Joaquim Barreto")
        answer = nights.turn(
            session, talk, "Sou o Joaquim, meu e-mail é j@x.com.br, me liga no (11) 98765-4321",
            "Certo, Joaquim!", history=[["meu cpf é 529.982.247-25", "Anotado"]],
        )  # fmt: skip
        nights.review(session, answer, "correct", "Certo, Joaquim! Ligo no (11) 98765-4321.")

    day(engine, make)
    row = curated(engine)[1][0]
    everything = str(row.messages) + row.answer
    for secret in ("Joaquim", "j@x.com.br", "98765", "529.982"):
        assert secret not in everything
    assert "[PHONE_1]" in row.answer
    assert "[PHONE_1]" in row.messages[-1]["content"]


def test_doubles_are_learned_once_also_over_nights(engine: Engine) -> None:
    def make(session: Session) -> None:
        for question in ("Quanto custa?", "quanto CUSTA?"):
            nights.review(session, nights.turn(session, nights.conversation(session), question, "Dez."), "approve")

    day(engine, make)
    funnel, _ = curated(engine)
    assert (funnel["learned"], funnel["dropped: double"]) == (1, 1)
    day(engine, make)
    assert curated(engine)[0]["learned"] <= 1


def test_nothing_is_considered_twice(engine: Engine) -> None:
    day(engine, lambda session: nights.a_day(session, 6))
    assert curated(engine)[0]["considered"] == 6
    assert curated(engine)[0].get("considered", 0) == 0


def test_one_person_fills_no_night(engine: Engine) -> None:
    def make(session: Session) -> None:
        talk = nights.conversation(session)
        for i in range(PER_PERSON + 15):
            nights.review(session, nights.turn(session, talk, f"Pergunta {i}?", f"Resposta {i}."), "approve")

    day(engine, make)
    funnel, rows = curated(engine)
    assert sum(row.dropped is None for row in rows) == PER_PERSON
    assert funnel["dropped: enough of this person"] == 15


def test_what_a_guard_caught_is_not_learned_from_a_thumb_up(engine: Engine) -> None:
    def make(session: Session) -> None:
        answer = nights.turn(session, nights.conversation(session), "A?", "Não sei.", flags=["invented_figure:99"])
        nights.react(session, answer, 1.0)

    day(engine, make)
    assert curated(engine)[0]["learned"] == 0


@pytest.mark.parametrize(("count", "held"), [(9, 0), (10, 2), (25, 5)])
def test_a_fifth_is_held_out_by_whole_conversations(engine: Engine, count: int, held: int) -> None:
    day(engine, lambda session: nights.a_day(session, count))
    funnel, rows = curated(engine)
    assert funnel["held out"] == held
    assert funnel["learned"] == count - held
    assert {row.split for row in rows} <= {"train", "holdout"}
