"""The annotation queue: filled from what people said, claimed by one reviewer at a time, submitted once."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from factories import make_answer, make_conversation, make_customer
from nights import react
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from together import in_threads

from bot.review import queue
from core.db import transaction
from core.errors import BadInput, Conflict, NotFound
from core.events import listing
from core.settings import Settings
from core.tables import Annotation, AnnotationItem, Message, now


@pytest.fixture
def session(engine: Engine) -> Any:
    with transaction(engine) as opened:
        yield opened


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"review_sample": 0.0})


def make_item(session: Session, *, priority: float = 1.0, **facts: Any) -> AnnotationItem:
    answer = make_answer(session)
    values = {"context": "customers", "reason": "disliked", "question": "?", "answer": "!", "passages": [], **facts}
    item = AnnotationItem(message_id=answer.id, priority=priority, **values)
    session.add(item)
    session.flush()
    return item


class TestFill:
    def reasons(self, session: Session, settings: Settings) -> list[str]:
        queue.fill(session, settings)
        return [item.reason for item in queue.open_items(session)]

    def test_disliked_then_guarded_then_nothing_else(self, session: Session, settings: Settings) -> None:
        react(session, make_answer(session), 0.0)
        react(session, make_answer(session), 1.0)
        make_answer(session, route={"flags": ["loop"], "said": "oi oi oi"})
        make_answer(session)
        assert self.reasons(session, settings) == ["disliked", "guarded"]
        assert queue.open_items(session)[1].answer == "oi oi oi"  # what the model said, not what the guard let through

    def test_once_each(self, engine: Engine, settings: Settings) -> None:
        with transaction(engine) as session:
            for _ in range(3):
                react(session, make_answer(session), 0.0)

        def fill(_: int) -> int:
            with transaction(engine) as session:
                return queue.fill(session, settings)

        assert sum(in_threads(fill, 4)) == 3
        assert fill(0) == 0

    def test_a_vote_that_was_taken_back_is_no_reason(self, session: Session, settings: Settings) -> None:
        from core.tables import Feedback

        answer = make_answer(session)
        react(session, answer, 0.0)
        session.scalars(select(Feedback)).one().superseded_at = now()
        session.flush()
        assert self.reasons(session, settings) == []

    def test_a_sample_of_the_others_when_nobody_has_complained(self, session: Session, settings: Settings) -> None:
        for _ in range(4):
            make_answer(session, ago=timedelta(minutes=11))
        make_answer(session)  # somebody may still complain about it
        everything = settings.model_copy(update={"review_sample": 1.0})
        assert self.reasons(session, everything) == ["sample"] * 4

    def test_the_sample_is_the_same_in_every_run(self, session: Session, settings: Settings) -> None:
        for _ in range(40):
            make_answer(session, ago=timedelta(minutes=11))
        some = settings.model_copy(update={"review_sample": 0.5})
        first = queue.fill(session, some)
        assert 8 <= first <= 32
        assert queue.fill(session, some) == 0

    def test_a_challengers_answer_goes_before_a_champions(self, session: Session, settings: Settings) -> None:
        for arm in ("champion", "challenger"):
            react(session, make_answer(session, arm=arm), 0.0)
        queue.fill(session, settings)
        first, second = queue.open_items(session)
        assert (first.priority, second.priority) == (1.2, 1.0)

    def test_what_was_taken_back_or_is_old_is_left_alone(self, session: Session, settings: Settings) -> None:
        gone = make_answer(session)
        session.get_one(Message, gone.in_reply_to).deleted_at = now()
        react(session, gone, 0.0)
        react(session, make_answer(session, ago=timedelta(days=8)), 0.0)
        assert self.reasons(session, settings) == []

    def test_a_reviewer_sees_no_personal_data(self, session: Session, settings: Settings) -> None:
        talk = make_conversation(session, make_customer(session, name="Ana Prado"))
        answer = make_answer(
            session, talk, question="Sou a Ana Prado, CPF 529.982.247-25, ana@example.com",
            text="Olá Ana Prado! Fale com Lia pelo (11) 98765-0001.",
            route={"history": [["meu telefone é 11 98765-0001", "Certo, Ana Prado."]], "flags": [], "passages": ["p"]},
        )  # fmt: skip
        react(session, answer, 0.0)
        queue.fill(session, settings)
        (item,) = queue.open_items(session)
        shown = " ".join([item.question, item.answer, *(part for turn in item.history for part in turn)])
        for secret in ("Ana Prado", "529.982", "ana@example.com", "98765"):
            assert secret not in shown
        assert "Lia" in shown
        assert item.passages == ["p"]


class TestClaims:
    def test_the_most_urgent_first(self, session: Session, settings: Settings) -> None:
        make_item(session, priority=0.1)
        urgent = make_item(session, priority=1.0)
        claimed = queue.claim_next(session, "rita", settings)
        assert claimed is urgent
        assert (claimed.state, claimed.claimed_by) == ("claimed", "rita")
        assert len(queue.open_items(session)) == 1

    def test_of_one_context(self, session: Session, settings: Settings) -> None:
        make_item(session)
        staff = make_item(session, priority=0.1, context="employees")
        assert queue.claim_next(session, "rita", settings, "employees") is staff
        assert queue.claim_next(session, "rita", settings, "employees") is None

    def test_no_two_reviewers_get_the_same(self, engine: Engine, settings: Settings) -> None:
        with transaction(engine) as session:
            for _ in range(20):
                make_item(session)

        def claim(reviewer: int) -> list[uuid.UUID]:
            found = []
            while True:
                with transaction(engine) as session:
                    item = queue.claim_next(session, f"reviewer {reviewer}", settings)
                    if item is None:
                        return found
                    found.append(item.id)

        claimed = [item for found in in_threads(claim, 4) for item in found]
        assert len(claimed) == len(set(claimed)) == 20

    def test_one_that_somebody_is_taking_is_passed_over(self, engine: Engine, settings: Settings) -> None:
        with transaction(engine) as session:
            make_item(session)
            second = make_item(session, priority=0.5).id
        with transaction(engine) as slow, transaction(engine) as quick:
            queue.claim_next(slow, "slow", settings)
            slow.flush()
            item = queue.claim_next(quick, "quick", settings)
            assert item is not None
            assert item.id == second

    def test_what_nobody_finished_comes_back(self, session: Session, settings: Settings) -> None:
        item = make_item(session)
        queue.claim_next(session, "rita", settings)
        assert queue.release_expired(session) == 0
        item.claimed_until = now() - timedelta(seconds=1)
        session.flush()
        assert queue.claim_next(session, "ugo", settings) is item
        assert item.claimed_by == "ugo"

    def test_given_back_by_hand_by_who_has_it(self, session: Session, settings: Settings) -> None:
        item = make_item(session)
        queue.claim_next(session, "rita", settings)
        queue.release(session, item.id, "ugo")
        assert item.state == "claimed"
        queue.release(session, item.id, "rita")
        assert (item.state, item.claimed_by) == ("open", None)


class TestSubmit:
    def test_a_correction(self, session: Session, settings: Settings) -> None:
        item = make_item(session)
        queue.claim_next(session, "rita", settings)
        made = queue.submit(session, str(item.id), "rita", "correct", corrected="  O frete é grátis. ", comment=" ")
        assert (made.corrected, made.comment, item.state) == ("O frete é grátis.", None, "done")
        (event,) = listing(session)
        assert (event["type"], event["data"]["verdict"]) == ("annotation.submitted", "correct")

    def test_what_postgres_cannot_keep_of_a_pasted_text_is_left_out(self, session: Session) -> None:
        item = make_item(session)
        made = queue.submit(session, item.id, "rita", "correct", corrected="O frete\x00 é\n grátis.", comment="\x00")
        assert (made.corrected, made.comment) == ("O frete é\n grátis.", None)

    def test_an_open_one_may_be_decided_without_a_claim(self, session: Session) -> None:
        item = make_item(session)
        queue.submit(session, item.id, "rita", "approve")
        assert item.state == "done"

    def test_once(self, session: Session) -> None:
        item = make_item(session)
        queue.submit(session, item.id, "rita", "approve")
        with pytest.raises(Conflict, match="already done"):
            queue.submit(session, item.id, "rita", "reject")

    def test_at_the_same_moment_once(self, engine: Engine) -> None:
        with transaction(engine) as session:
            item = make_item(session).id

        def decide(number: int) -> bool:
            try:
                with transaction(engine) as session:
                    queue.submit(session, item, f"reviewer {number}", "approve")
                return True
            except Conflict:
                return False

        assert sum(in_threads(decide, 4)) == 1
        with transaction(engine) as session:
            assert len(session.scalars(select(Annotation)).all()) == 1

    def test_not_what_another_works_on(self, session: Session, settings: Settings) -> None:
        item = make_item(session)
        queue.claim_next(session, "rita", settings)
        with pytest.raises(Conflict, match="rita"):
            queue.submit(session, item.id, "ugo", "approve")
        assert item.state == "claimed"

    @pytest.mark.parametrize(
        ("verdict", "corrected"), [("correct", ""), ("correct", "  "), ("correct", "x" * 2001), ("perhaps", "x")]
    )
    def test_bad_input_changes_nothing(self, session: Session, verdict: Any, corrected: str) -> None:
        item = make_item(session)
        with pytest.raises(BadInput):
            queue.submit(session, item.id, "rita", verdict, corrected=corrected)
        assert item.state == "open"

    @pytest.mark.parametrize("id", ["", "7", str(uuid.UUID(int=7)), "'; DROP TABLE"])
    def test_an_item_that_does_not_exist(self, session: Session, id: str) -> None:
        with pytest.raises(NotFound, match="annotate list"):
            queue.submit(session, id, "rita", "approve")
