"""One person's data: all of it handed out, or all of it taken away.

An erasure is one transaction: rows, and the versions that learned from them leave service with it. It writes an audit
row without content. The weights of those versions are deleted from this machine and from the store afterwards; a
night then learns everything that is left again from the base (`bot/nights.py` finds it owed).
"""

import hashlib
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, Text, and_, cast, delete, false, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from bot import people, rollouts
from bot.jobs import READERS
from bot.rollout_changes import Change, apply, take_turns
from core import events, registry
from core.db import transaction
from core.errors import NotFound
from core.messages import Identifier
from core.tables import (
    AdapterVersion,
    Annotation,
    AnnotationItem,
    Assignment,
    BusinessOutcome,
    Conversation,
    Customer,
    CustomerIdentity,
    Event,
    Feedback,
    Handover,
    InboundEvent,
    Lane,
    Media,
    Message,
    OutboxItem,
    PrivacyAction,
    Rollout,
    TrainingExample,
)
from core.text import phone_spellings

log = logging.getLogger(__name__)

ASKED = "A person whose examples it learned from asked for erasure."
LEAST_IDENTIFIER = 6  # characters; a shorter one would be found in payloads that are not about this person


@dataclass
class Erased:
    """What an erasure did: rows by table, and the versions that left service."""

    contexts: list[str]
    counts: dict[str, int] = field(default_factory=dict)
    versions: list[str] = field(default_factory=list)


def erase(session: Session, person: str, *, actor: str) -> Erased:
    """Remove everything that is one person's.

    Args:
        person: their id here, phone, or any vendor's id of them.

    Raises:
        NotFound: nobody is known by that name.
    """
    customers = _find(session, person)
    ids = [customer.id for customer in customers]
    done = Erased(contexts=sorted({customer.context for customer in customers}))
    messages = select(Message.id).where(Message.customer_id.in_(ids))
    shared = _shared(session, ids)
    # What others said beside them in a Slack thread was learned with their words before it.
    theirs = or_(
        TrainingExample.customer_id.in_(ids),
        TrainingExample.message_id.in_(select(Message.id).where(Message.conversation_id.in_(shared))),
    )
    # Locked: a night that registers what it learned from them at this moment is waited for, and its version found.
    learned = set(session.scalars(select(TrainingExample.sha256).where(theirs).with_for_update()))
    _retire(session, learned, done, actor=actor)
    _leave(session, ids, shared)
    conversations = session.execute(
        select(Conversation.id, Conversation.lane).where(Conversation.customer_id.in_(ids))
    ).all()
    talks, lanes = [row.id for row in conversations], {row.lane for row in conversations}
    lanes -= set(session.scalars(select(Conversation.lane).where(Conversation.customer_id.not_in(ids))))
    about_them = _about(session, ids, lanes)
    beside = and_(
        Event.conversation.in_(shared), Event.data["message"].astext.in_(select(cast(messages.subquery().c.id, Text)))
    )
    # Children first, so that every number is told; the rest would cascade.
    for name, statement in {
        "events": delete(Event).where(or_(Event.conversation.in_(talks), beside)),
        "inbound_events": delete(InboundEvent).where(about_them),
        "lanes": delete(Lane).where(Lane.lane.in_(lanes)),
        "outbox": delete(OutboxItem).where(
            or_(OutboxItem.conversation_id.in_(talks), OutboxItem.message_id.in_(messages))
        ),
        "feedback": delete(Feedback).where(or_(Feedback.customer_id.in_(ids), Feedback.message_id.in_(messages))),
        "annotation_items": delete(AnnotationItem).where(AnnotationItem.message_id.in_(messages)),
        "examples": delete(TrainingExample).where(theirs),
        "assignments": delete(Assignment).where(Assignment.customer_id.in_(ids)),
        "messages": delete(Message).where(Message.customer_id.in_(ids)),
        "conversations": delete(Conversation).where(Conversation.customer_id.in_(ids)),
        "identities": delete(CustomerIdentity).where(CustomerIdentity.customer_id.in_(ids)),
        "customers": delete(Customer).where(Customer.id.in_(ids)),
    }.items():
        done.counts[name] = session.execute(statement).rowcount  # type: ignore[attr-defined]
    _audit(session, "erase", ids, done, actor=actor)
    return done


def remove_files(engine: Engine, store: registry.ArtifactStore) -> int:
    """Delete the weights of versions that an erasure took out of service; returns how many. Safe to repeat.

    Each is noted by itself, and no transaction waits for the store: one that cannot be deleted keeps no other.

    Raises:
        NpllmError, or what else the store raised for one of them; it is tried again with the next call.
    """
    with transaction(engine) as session:
        erased = session.execute(
            select(AdapterVersion.id, AdapterVersion.name, AdapterVersion.location).where(
                AdapterVersion.state == "retired", AdapterVersion.location != registry.ERASED,
                AdapterVersion.reasons.contains([ASKED]),
            )
        ).all()  # fmt: skip
    left: Exception | None = None
    for version in erased:
        try:
            store.remove(version.location)
        except Exception as error:
            log.warning("The files of %s could not be deleted: %s", version.name, error)
            left = error
            continue
        with transaction(engine) as session:
            session.get_one(AdapterVersion, version.id).location = registry.ERASED
    if left is not None:
        raise left
    return len(erased)


def export(session: Session, person: str, *, actor: str) -> dict[str, Any]:
    """Everything that is kept of one person, as they may ask for it; it is noted that it was handed out.

    Raises:
        NotFound: nobody is known by that name.
    """
    customers = _find(session, person)
    ids = [customer.id for customer in customers]
    learned = session.scalars(select(TrainingExample).where(TrainingExample.customer_id.in_(ids))).all()
    messages = select(Message.id).where(Message.customer_id.in_(ids))
    talks = select(Conversation.id).where(Conversation.customer_id.in_(ids))
    lanes = set(session.scalars(select(Conversation.lane).where(Conversation.customer_id.in_(ids))))
    with_others = or_(Conversation.customer_id.not_in(ids), Conversation.id.in_(_shared(session, ids)))
    lanes -= set(session.scalars(select(Conversation.lane).where(with_others)))  # their webhooks are others' data too
    items = select(AnnotationItem.id).where(AnnotationItem.message_id.in_(messages))
    of_them: dict[str, Any] = {
        "people": [_plain(row) for row in customers],
        "identities": _rows(session, CustomerIdentity, CustomerIdentity.customer_id.in_(ids)),
        "conversations": _rows(session, Conversation, Conversation.customer_id.in_(ids)),
        "messages": _rows(session, Message, Message.customer_id.in_(ids)),
        "media": _rows(session, Media, Media.message_id.in_(messages)),
        "handovers": _rows(session, Handover, Handover.conversation_id.in_(talks)),
        "feedback": _rows(session, Feedback, Feedback.customer_id.in_(ids)),
        "annotation_items": _rows(session, AnnotationItem, AnnotationItem.message_id.in_(messages)),
        "annotations": _rows(session, Annotation, Annotation.item_id.in_(items)),
        "examples": [_plain(row) for row in learned],
        "assignments": _rows(session, Assignment, Assignment.customer_id.in_(ids)),
        "outcomes": _rows(session, BusinessOutcome, BusinessOutcome.conversation_id.in_(talks)),
        "inbound_events": _rows(session, InboundEvent, InboundEvent.lane.in_(_with_signals(lanes))),
        "versions": [version.name for version in _taught_by(session, {row.sha256 for row in learned})],
    }
    done = Erased(
        contexts=sorted({customer.context for customer in customers}),
        counts={name: len(rows) for name, rows in of_them.items()}, versions=of_them["versions"],
    )  # fmt: skip
    _audit(session, "export", ids, done, actor=actor)
    return of_them


def _find(session: Session, person: str) -> Sequence[Customer]:
    customers = people.customers_of(session, person)
    if not customers:
        raise NotFound(
            f"Nobody is known as '{person}'.", "Give their phone (+55...), a vendor's id of them, or their id here."
        )
    return customers


def _shared(session: Session, ids: list[uuid.UUID]) -> dict[uuid.UUID, uuid.UUID]:
    """Conversations in which they and others spoke (a Slack thread), with one of the others."""
    spoke = select(Message.conversation_id).where(Message.customer_id.in_(ids))
    begun = select(Conversation.id).where(Conversation.customer_id.in_(ids))
    others = select(Message.conversation_id, Message.customer_id).where(
        or_(Message.conversation_id.in_(spoke), Message.conversation_id.in_(begun)), Message.customer_id.not_in(ids)
    )
    return {row.conversation_id: row.customer_id for row in session.execute(others.order_by(Message.id.desc()))}


def _leave(session: Session, ids: list[uuid.UUID], shared: dict[uuid.UUID, uuid.UUID]) -> None:
    """The others' conversation goes on as theirs, and nothing in it remembers what was said before."""
    for talk, other in shared.items():
        session.execute(
            update(Conversation)
            .where(Conversation.id == talk, Conversation.customer_id.in_(ids))
            .values(customer_id=other)
        )
    said = Message.conversation_id.in_(shared)
    forgetting = Message.route.op("||")(cast({"history": []}, JSONB))
    session.execute(
        update(Message)
        .where(said, Message.route.has_key("history"))
        .values(route=forgetting)
        .execution_options(synchronize_session=False)
    )
    items = AnnotationItem.message_id.in_(select(Message.id).where(said))
    session.execute(update(AnnotationItem).where(items).values(history=[]))


def _about(session: Session, ids: list[uuid.UUID], lanes: set[str]) -> Any:
    """What vendors told us of them: their lanes, handled rows (delivery reports) that name them, and of what waits on
    lanes of others too what is theirs: it would make them known again."""
    known = session.scalars(select(CustomerIdentity).where(CustomerIdentity.customer_id.in_(ids))).all()
    names = [one.value for one in known if len(one.value) >= LEAST_IDENTIFIER]
    named = {spelling for name in names for spelling in phone_spellings(name)}
    says = or_(false(), *(cast(InboundEvent.payload, Text).contains(name, autoescape=True) for name in sorted(named)))
    waiting = session.scalars(select(InboundEvent).where(InboundEvent.handled_at.is_(None), says))
    them = {Identifier(one.kind, one.value, one.scope) for one in known}
    return or_(
        InboundEvent.lane.in_(_with_signals(lanes)),
        InboundEvent.handled_at.is_not(None) & says,
        InboundEvent.id.in_([event.id for event in waiting if _is_theirs(event, them)]),
    )


def _is_theirs(event: InboundEvent, them: set[Identifier]) -> bool:
    """Somebody else's message may name them too, and has to be answered."""
    try:
        inbound = READERS[event.source](event.kind, event.payload)
    except Exception:  # it cannot be handled either
        return True
    person = getattr(inbound, "person", None)
    return person is None or bool(them & set(person.identifiers))


def _with_signals(lanes: set[str]) -> list[str]:
    return [*lanes, *(f"signals/{lane}" for lane in lanes)]


def _taught_by(session: Session, learned: set[str]) -> list[AdapterVersion]:
    """Versions whose manifest lists one of these examples, as their own or as an ancestor's."""
    if not learned:
        return []
    return [
        version
        for version in registry.all_versions(session)
        if learned & {*version.manifest.get("examples", []), *version.manifest.get("inherited_examples", [])}
    ]


def _retire(session: Session, learned: set[str], done: Erased, *, actor: str) -> None:
    """Take what learned from them out of service; the latest champion that did not serves instead, or the base."""
    taught = _taught_by(session, learned)
    gone = {version.id for version in taught}
    contexts = sorted({version.context for version in taught})
    for context in contexts:
        take_turns(session, context)
    for version in taught:
        version.state = "retired"
        version.reasons = [*version.reasons, ASKED]
        done.versions.append(version.name)
    session.flush()
    for context in contexts:
        active = rollouts.current(session, context, lock=True)
        if active is not None and {active.version_id, active.against_id} & gone:
            _stop(session, active, actor)
        champion = registry.champion(session, context)
        if champion is not None and champion.id in gone:
            heir = rollouts.served_before(session, champion)
            registry.crown(session, context, heir.id if heir else None, expected=champion.id)
            events.record(
                session, "version.retired", context=context, version=champion.name, reason="erasure",
                instead=heir.name if heir else "base",
            )  # fmt: skip
        if context not in done.contexts:
            done.contexts.append(context)


def _stop(session: Session, rollout: Rollout, actor: str) -> None:
    reason = "A version in it learned from a person who asked for erasure."
    change = Change("abort", actor, reason, "aborted", "rollout.rolled_back", weight=0.0)
    apply(session, rollout, change)


def _audit(session: Session, verb: str, ids: list[uuid.UUID], done: Erased, *, actor: str) -> None:
    for customer_id in ids:
        session.add(
            PrivacyAction(
                verb=verb, actor=actor, subject=subject(customer_id), contexts=done.contexts, counts=done.counts,
                versions=done.versions,
            )
        )  # fmt: skip


def subject(customer_id: uuid.UUID) -> str:
    """How the audit names a person."""
    return hashlib.sha256(str(customer_id).encode()).hexdigest()


def _rows(session: Session, table: Any, theirs: Any) -> list[dict[str, Any]]:
    return [_plain(row) for row in session.scalars(select(table).where(theirs))]


def _plain(row: Any) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns}
