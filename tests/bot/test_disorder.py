"""Things that come in the wrong order, late, or against what was said before (fault test 9); words that count."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from factories import make_version
from servers import ScriptedModel
from sqlalchemy import select, update
from street import ANA, Street

from bot import people, signals
from bot.history import check
from bot.rollout_line import start
from bot.wiring import Awake
from core.db import transaction
from core.messages import Identifier, InboundEdit, InboundSignal, Person
from core.registry import FolderStore
from core.rollouts import Plan, Stage
from core.tables import (
    Assignment,
    Conversation,
    Customer,
    Event,
    Feedback,
    InboundEvent,
    Message,
    OutboxItem,
    Rollout,
    now,
)


@pytest.fixture(autouse=True)
def _plain(model: ScriptedModel) -> None:
    model.say = lambda *_: "Resposta."


def all_feedback(awake: Awake) -> list[Feedback]:
    with transaction(awake.engine) as session:
        return list(session.scalars(select(Feedback).order_by(Feedback.created_at, Feedback.id)))


def told(awake: Awake) -> list[dict[str, Any]]:
    with transaction(awake.engine) as session:
        return [e.data for e in session.scalars(select(Event).where(Event.type == "feedback.recorded"))]


class TestARatingBeforeItsMessage:
    """The vendor's webhook is quicker than the vendor's answer to us."""

    def sent_later(self, awake: Awake, street: Street, hours: float = 0.0) -> None:
        street.says("Vocês entregam?")
        row = next(row for row in street.outbox() if row.kind == "answer")
        key = str(row.provider_message_id)
        with transaction(awake.engine) as session:  # as if we did not know its id yet
            session.execute(
                update(OutboxItem).where(OutboxItem.id == row.id).values(state="sending", provider_message_id=None)
            )
            session.execute(update(Message).where(Message.id == row.message_id).values(provider_message_id=None))
        street.answer(street.meta_reacts(key, "👍"))
        (orphan,) = all_feedback(awake)
        assert (orphan.message_id, orphan.target, told(awake)) == (None, key, [])
        with transaction(awake.engine) as session:
            session.execute(update(Feedback).values(created_at=now() - timedelta(hours=hours)))
            session.execute(update(Event).where(Event.type == "reply.sent").values(type="reply.forgotten"))
        with transaction(awake.engine) as session:
            from bot.outbox import mark_sent

            mark_sent(session, session.get_one(OutboxItem, row.id), key)

    def test_is_held_and_resolved(self, awake: Awake, street: Street) -> None:
        self.sent_later(awake, street, hours=23.9)
        (found,) = all_feedback(awake)
        assert (found.message_id, found.superseded_at) == (street.messages("out")[0].id, None)
        (event,) = told(awake)
        assert (event["polarity"], event["message"]) == ("positive", str(found.message_id))

    def test_for_a_day(self, awake: Awake, street: Street) -> None:
        self.sent_later(awake, street, hours=24.1)
        assert (all_feedback(awake)[0].message_id, told(awake)) == (None, [])


class TestARatingThirtyDaysLate:
    @pytest.fixture
    def answered(self, awake: Awake, street: Street, tmp_path: Path) -> OutboxItem:
        store = FolderStore(awake.settings.data_dir / "adapters")
        with transaction(awake.engine) as session:
            make_version(session, store=store, folder=tmp_path / "a", champion=True)
            canary = make_version(session, store=store, folder=tmp_path / "b")
            plan = Plan("all", (Stage(0.999999, 30, 0.0, 0.15),), epoch="stage")
            start(session, canary.name, plan, actor="test")
        awake.router.forget()
        street.says("Vocês entregam?")
        with transaction(awake.engine) as session:
            month = timedelta(days=30)
            session.execute(update(Assignment).values(assigned_at=Assignment.assigned_at - month))
            session.execute(update(Message).values(created_at=Message.created_at - month))
            session.execute(update(Rollout).values(started_at=Rollout.started_at - month))
        return next(row for row in street.outbox() if row.kind == "answer")

    def test_counts_with_the_weight_and_version_of_its_day(
        self, awake: Awake, street: Street, answered: OutboxItem
    ) -> None:
        street.answer(street.meta_reacts(str(answered.provider_message_id), "👎"))
        with transaction(awake.engine) as session:
            unit = session.scalars(select(Assignment)).one()
            answer = session.get_one(Message, answered.message_id)
            assert (unit.vote, unit.arm, unit.vote_message_id) == (0.0, "challenger", answer.id)
            assert unit.probability == answer.assignment_probability
            assert check(session, settled=True).violations == []
        (event,) = told(awake)
        assert event["version"] == answer.version

    def test_a_second_one_votes_no_more(self, awake: Awake, street: Street, answered: OutboxItem) -> None:
        for emoji in ("👎", "👍", "👎", None):
            street.answer(street.meta_reacts(str(answered.provider_message_id), emoji))
        with transaction(awake.engine) as session:
            assert session.scalars(select(Assignment.vote)).all() == [0.0]
            assert check(session, settled=True).violations == []


class TestTheWrongWayRound:
    def react(self, awake: Awake, street: Street, emoji: str, op: Any, seconds: float) -> None:
        target = str(next(row for row in street.outbox() if row.kind == "answer").provider_message_id)
        person = Person((Identifier("phone", ANA),))
        signal = InboundSignal("meta", person, "reaction", op, emoji, target=target,
                               given_at=now() + timedelta(seconds=seconds))  # fmt: skip
        with transaction(awake.engine) as session:
            signals.record_signal(session, signal, "signals/meta:x")

    def current(self, awake: Awake) -> list[str]:
        return [row.raw for row in all_feedback(awake) if row.superseded_at is None]

    def test_an_older_reaction_does_not_replace_a_newer_one(self, awake: Awake, street: Street) -> None:
        street.says("Vocês entregam?")
        self.react(awake, street, "👎", "replace", 10)
        self.react(awake, street, "👍", "replace", 5)
        assert self.current(awake) == ["👎"]

    def test_taken_back_before_it_was_given(self, awake: Awake, street: Street) -> None:
        street.says("Vocês entregam?")
        self.react(awake, street, "", "remove", 10)
        self.react(awake, street, "👍", "add", 5)
        assert all(row.value is None for row in all_feedback(awake) if row.superseded_at is None)

    def test_a_comment_that_is_taken_back_is_gone_from_the_answer_too(self, awake: Awake, street: Street) -> None:
        street.says("Vocês entregam?")
        key = next(row for row in street.outbox() if row.kind == "answer").provider_message_id
        street.answer(street.meta_reacts(str(key), "👎"))
        said = {"id": "wamid.1", "type": "text", "text": {"body": "Meu CPF é este"}, "context": {"id": key}}
        street.answer(street.meta(said))
        assert "Meu CPF é este" in [row.comment for row in all_feedback(awake)]
        street.answer(street.meta({"type": "revoke", "revoke": {"original_message_id": "wamid.1"}}))
        assert [row.comment for row in all_feedback(awake) if row.comment] == []
        assert self.current(awake) == ["👎"]

    def test_edited_or_deleted_before_it_came(self, awake: Awake, street: Street) -> None:
        for text in ("outra coisa", None):
            with transaction(awake.engine) as session:
                signals.record_edit(session, InboundEdit("meta", "wamid.unknown", text))
        assert street.messages() == []

    def test_a_delivery_report_before_the_message_it_is_about(self, awake: Awake, street: Street) -> None:
        from bot.outbox import record_status
        from core.messages import InboundStatus

        with transaction(awake.engine) as session:
            record_status(street.awake, session, InboundStatus("meta", "wamid.unknown", "read", our_id="no uuid"))
        assert street.outbox() == []


@pytest.mark.parametrize(
    ("said", "word"),
    [("PARAR", "out"), ("parar.", "out"), ("  Sair! ", "out"), ("STOP", "out"), ("Stop", "out"),
     ("Cancelar inscrição", "out"), ("CANCELAR INSCRICAO", "out"), ("descadastrar", "out"), ("Unsubscribe", "out"),
     ("VOLTAR", "in"), ("start", "in"), ("Não treinar", "no_training"), ("NAO TREINAR", "no_training"),
     ("do not train", "no_training"), ("Don't train", "no_training"), ("quero parar de receber", None),
     ("onde posso parar o carro?", None), ("pode sair hoje?", None), ("", None)],
)  # fmt: skip
def test_words_count_only_alone_whatever_their_dress(said: str, word: str | None) -> None:
    assert people.opt_words(said) == word


def test_the_language_is_heard_and_kept(awake: Awake, street: Street) -> None:
    heard = []
    for said in ("Oi", "How much is the mattress?", "ok", "12", "Quanto custa o colchão?", "ok"):
        street.says(said)
        with transaction(awake.engine) as session:
            heard.append((session.scalars(select(Conversation.language)).one(),
                          session.scalars(select(Customer.language)).one()))  # fmt: skip
    assert heard == [(x, x) for x in ("pt", "en", "en", "en", "pt", "pt")]


def test_every_event_was_handled(awake: Awake, street: Street) -> None:
    street.says("Oi")
    street.answer(street.meta({"type": "edit", "edit": {}}))
    street.answer(street.meta({"type": "revoke", "revoke": {"original_message_id": "wamid.never"}}))
    with transaction(awake.engine) as session:
        assert session.scalars(select(InboundEvent).where(InboundEvent.handled_at.is_(None))).all() == []
