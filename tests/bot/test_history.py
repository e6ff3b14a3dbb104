"""The checker of histories: true ones pass, and every kind of lie is found."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from factories import make_answer, make_conversation, make_part, make_unit, make_version
from servers import ScriptedModel
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from street import RUI, Street

from bot.history import RULES, History, check
from bot.rollout_line import start
from bot.wiring import Awake
from core.db import transaction
from core.registry import FolderStore
from core.rollouts import Plan, Stage
from core.tables import Assignment, Conversation, Event, Feedback, InboundEvent, Message, OutboxItem, new_id, now


@pytest.fixture(autouse=True)
def _a_short_day(street: Street, model: ScriptedModel) -> None:
    """Two people, three channels, an opt-out, a blank message, a reaction."""
    model.say = lambda *_: "Resposta."
    street.says("Qual colchão vocês indicam?")
    street.answer(street.twilio("Vocês entregam?", sender=RUI))
    street.answer(street.slack("Qual é o prazo de troca?"))
    street.answer(street.web("Oi"))
    street.answer(street.meta(" \n"))
    first = next(row for row in street.outbox() if row.channel == "meta")
    street.answer(street.meta_reacts(str(first.provider_message_id), "👍"))
    street.answer(street.twilio("PARAR", sender=RUI))


def look(awake: Awake, **facts: Any) -> History:
    with transaction(awake.engine) as session:
        return check(session, **{"settled": True, **facts})


def test_a_true_history_passes(awake: Awake, vendors: Any, street: Street) -> None:
    told = [(event.source, event.external_id) for event in street.events()]
    found = look(awake, vendor_log=vendors.sent, acknowledged=told)
    assert found.violations == []
    assert found.figures["messages"] == 5
    assert (found.figures["answered"], found.figures["refused"], found.figures["waiting"]) == (4, 1, 0)
    assert found.figures["sent"] == len(street.outbox())


def test_a_rollout_with_votes_passes(awake: Awake, street: Street, vendors: Any, tmp_path: Path) -> None:
    store = FolderStore(awake.settings.data_dir / "adapters")
    with transaction(awake.engine) as session:
        make_version(session, store=store, folder=tmp_path / "a", champion=True)
        challenger = make_version(session, store=store, folder=tmp_path / "b")
        start(session, challenger.name, Plan("half", (Stage(0.5, 30, 0.0, 0.15),)), actor="test")
    awake.router.forget()
    for number in range(6):
        street.says("E o prazo?", sender=f"+55119876600{number:02d}")
    for answer in [m for m in street.messages("out") if m.rollout_id and m.kind == "text"]:
        with transaction(awake.engine) as session:
            sent = session.scalars(select(OutboxItem).where(OutboxItem.message_id == answer.id)).one()
            phone = f"+{sent.payload['address']['to']}"
        street.answer(street.meta_reacts(str(sent.provider_message_id), "👎", sender=phone))
    with transaction(awake.engine) as session:
        votes = list(session.scalars(select(Assignment.vote)))
    assert votes == [0.0] * 6
    assert look(awake, vendor_log=vendors.sent).violations == []


def a_second_answer(session: Session) -> None:
    answer = session.scalars(select(Message).where(Message.direction == "out", Message.kind == "text")).first()
    assert answer is not None
    session.add(
        Message(id=new_id(), direction="out", role="bot", text="De novo.", in_reply_to=answer.in_reply_to,
                conversation_id=answer.conversation_id, customer_id=answer.customer_id, context=answer.context,
                channel=answer.channel)
    )  # fmt: skip


def an_answer_to_nobody(session: Session) -> None:
    answer = make_answer(session, version="base")
    make_part(session, answer, state="sent", provider_message_id="wamid.x")
    session.add(Event(type="reply.sent", data={"message": str(answer.id), "part": 1}))


def a_word_out_of_the_blue(session: Session) -> None:
    conversation = make_conversation(session)
    message = Message(id=new_id(), direction="out", role="bot", text="Promoção!", conversation_id=conversation.id,
                      customer_id=conversation.customer_id, context="customers", channel="meta")  # fmt: skip
    session.add(message)
    session.flush()
    make_part(session, message)


def a_lost_part(session: Session) -> None:
    session.execute(update(OutboxItem).where(OutboxItem.kind == "answer").values(parts=2))


def a_turn_forgotten(session: Session) -> None:
    session.execute(update(InboundEvent).where(InboundEvent.outcome.like("answered:%")).values(outcome="done"))


def an_answer_that_is_gone(session: Session) -> None:
    session.execute(
        update(InboundEvent).where(InboundEvent.outcome.like("answered:%")).values(outcome=f"answered:{uuid.uuid4()}")
    )


def a_version_never_routed(session: Session) -> None:
    version = make_version(session)
    answer = session.scalars(select(Message).where(Message.version == "base")).first()
    assert answer is not None
    answer.version, answer.adapter_version_id = version.name, version.id


def a_refused_version(session: Session) -> None:
    version = make_version(session, state="refused", champion=True)
    answer = session.scalars(select(Message).where(Message.version == "base")).first()
    assert answer is not None
    answer.version, answer.adapter_version_id = version.name, version.id


def an_answer_long_after_its_rollout(session: Session) -> None:
    version = make_version(session)
    rollout = start(session, version.name, Plan("half", (Stage(0.5, 30, 0.0, 0.15),)), actor="test")
    rollout.started_at, rollout.ended_at = now() - timedelta(hours=3), now() - timedelta(hours=1)
    rollout.state = "aborted"
    answer = session.scalars(select(Message).where(Message.version == "base")).first()
    assert answer is not None
    answer.version, answer.adapter_version_id, answer.arm = version.name, version.id, "challenger"
    answer.rollout_id = rollout.id


def somebody_elses_vote(session: Session) -> None:
    version = make_version(session)
    rollout = start(session, version.name, Plan("half", (Stage(0.5, 30, 0.0, 0.15),)), actor="test")
    unit = make_unit(session, rollout.id, "challenger", vote=1.0)
    unit.vote_message_id = session.scalars(select(Message.id).where(Message.direction == "out")).first()


def two_current_ratings(session: Session) -> None:
    # Orphans are not kept apart by the unique index: only by who resolves them.
    rated = session.scalars(select(Feedback)).one()
    session.connection().exec_driver_sql("DROP INDEX npllm.uq_feedback_current")
    session.add(
        Feedback(message_id=rated.message_id, customer_id=rated.customer_id, channel="meta", signal="reaction",
                 op="add", raw="👎", polarity="negative", value=0.0, given_at=now())
    )  # fmt: skip


def a_sending_told_twice(session: Session) -> None:
    event = session.scalars(select(Event).where(Event.type == "reply.sent")).first()
    assert event is not None
    session.add(Event(type="reply.sent", data=event.data))


def a_sending_never_told(session: Session) -> None:
    session.execute(update(Event).where(Event.type == "reply.sent").values(type="reply.other"))


def something_still_waiting(session: Session) -> None:
    session.execute(update(InboundEvent).values(handled_at=None))


def a_part_never_sent(session: Session) -> None:
    conversation = session.scalars(select(Conversation)).first()
    answer = session.scalars(select(Message).where(Message.direction == "out")).first()
    assert conversation is not None
    assert answer is not None
    session.add(
        OutboxItem(message_id=answer.id, conversation_id=conversation.id, kind="notice", channel="meta", lane="x",
                   payload={})
    )  # fmt: skip


LIES: dict[Callable[[Session], None], str] = {
    a_second_answer: "a message is answered once",
    an_answer_to_nobody: "nobody is answered who did not write",
    a_word_out_of_the_blue: "nobody is answered who did not write",
    a_lost_part: "an answer is complete",
    a_turn_forgotten: "a handled message has one answer or one recorded refusal",
    an_answer_that_is_gone: "a handled message has one answer or one recorded refusal",
    a_version_never_routed: "only routed versions answer",
    a_refused_version: "only routed versions answer",
    an_answer_long_after_its_rollout: "only routed versions answer",
    somebody_elses_vote: "one vote a unit, by who was answered",
    two_current_ratings: "one vote a unit, by who was answered",
    a_sending_told_twice: "what was sent is told once",
    a_sending_never_told: "what was sent is told once",
    something_still_waiting: "every message is handled",
    a_part_never_sent: "everything is sent, or refused on the record",
}


def test_every_lie_is_found(awake: Awake) -> None:
    found: dict[str, set[str]] = {}
    for lie in LIES:
        with awake.engine.connect() as connection, Session(connection) as session:
            lie(session)
            session.flush()
            found[lie.__name__] = {violation.rule for violation in check(session, settled=True).violations}
            session.rollback()
    assert {lie.__name__: rule for lie, rule in LIES.items() if rule not in found[lie.__name__]} == {}


def test_every_rule_has_its_lie() -> None:
    assert set(RULES) <= set(LIES.values())


def test_the_vendors_own_list_is_compared(awake: Awake, vendors: Any) -> None:
    log = [*vendors.sent, {**vendors.sent[0], "id": "wamid.again"}]
    says = [violation.says for violation in look(awake, vendor_log=log).violations]
    assert says == ["taken 2 times", "taken by the vendor; the outbox does not know it"]
    (never_taken,) = look(awake, vendor_log=vendors.sent[1:]).violations
    assert never_taken.subject == vendors.sent[0]["ours"]
    (lost,) = look(awake, acknowledged=[("meta", "wamid.lost")]).violations
    assert lost.subject == "meta wamid.lost"
