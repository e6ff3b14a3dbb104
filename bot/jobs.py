"""The awake queue's entry points. Each may run twice, or on two workers at once, without harm."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import redis
from sqlalchemy import Text, and_, cast, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from bot import outbox, people, signals, web_channel
from bot.bursts import next_events
from bot.chat import take_turn
from bot.lanes import Lease, LeaseLost, lease
from bot.slack import cards, desk
from bot.wiring import Awake, get_awake
from core import jobs
from core.db import transaction
from core.errors import NpllmError, Unavailable, VendorUnavailable
from core.messages import (
    Inbound,
    InboundCommand,
    InboundEdit,
    InboundMessage,
    InboundPerson,
    InboundSignal,
    InboundStatus,
)
from core.tables import InboundEvent, now
from integrations.meta import webhook as meta
from integrations.redis.queue import enqueue, ring, ring_later, taken
from integrations.slack import webhook as slack
from integrations.twilio import webhook as twilio

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 10
NEWEST = "newest"  # beside what the vendor sent of a message: its text and when, where it was edited before its answer
EARLY = "edited:"  # before the key of a message that has not come yet, but an edit of it
READERS = {"twilio": twilio.read, "meta": meta.read, "slack": slack.read, "web": web_channel.read}


def answer(lane: str) -> None:
    """Handle what waits on a lane, oldest first, and send what comes of it."""
    _work(jobs.ANSWER, lane)


def read_signals(lane: str) -> None:
    """The same for a lane of signals: no model is asked."""
    _work(jobs.READ_SIGNALS, lane)


def send(lane: str) -> None:
    """Send what the outbox holds for a lane and is due."""
    awake = get_awake()
    taken(awake.redis, jobs.SEND, lane)
    with lease(awake.engine, awake.heartbeat, lane) as held:
        if held is not None:
            outbox.deliver(awake, lane, held)


def fill_annotations() -> None:
    """Put answers that people disliked (and a sample of the others) before a reviewer."""
    from bot.review.queue import fill

    awake = get_awake()
    with transaction(awake.engine) as session:
        fill(session, awake.settings)


def show_cards() -> None:
    """Bring the review cards in Slack up to date."""
    cards.show(get_awake())


def release_claims() -> None:
    """Give items back whose reviewer went away."""
    from bot.review.queue import release_expired

    with transaction(get_awake().engine) as session:
        release_expired(session)


def guard_rollouts() -> None:
    """Look at every running rollout's evidence, and act on it."""
    from bot.controller import guard_all

    guard_all(get_awake())
    send_alerts()


def send_alerts() -> None:
    """Tell operators what is due to be told."""
    from bot.alerts import deliver

    deliver(get_awake())


def erase() -> None:
    """Delete the weights that learned from people who asked for erasure; they left service with the request."""
    from bot.privacy import remove_files

    awake = get_awake()
    remove_files(awake.engine, awake.models.store)


def media() -> None:
    """Fetch the files that came with messages, and delete those whose time is over."""
    from bot.media import fetch_waiting, tidy

    awake = get_awake()
    fetch_waiting(awake)
    with transaction(awake.engine) as session:
        tidy(session, awake.settings)


def fetch_missed() -> None:
    """Store what people wrote and no webhook told."""
    from bot.missed import look

    try:
        look(get_awake())
    except Unavailable as error:
        log.warning("Twilio was not asked for what was missed: %s", error)


def _work(job: jobs.Job, lane: str) -> None:
    awake = get_awake()
    taken(awake.redis, job, lane)
    with lease(awake.engine, awake.heartbeat, lane) as held:
        if held is None:
            return
        try:
            while events := _next(awake, lane):
                inbound = _handle(awake, events, held)
                outbox.deliver(awake, lane, held)
                awake.web.done(inbound)
            outbox.deliver(awake, lane, held)
        except LeaseLost as error:
            log.warning("%s", error)
            return
    # Something may have been stored after the last look and before the release: its own bell found the lane taken.
    if _next(awake, lane):
        ring(awake.redis, [lane])


def _next(awake: Awake, lane: str) -> list[InboundEvent]:
    """What is due on a lane: its oldest unhandled event, with the messages that belong to it."""
    with transaction(awake.engine) as session:
        events, wait = next_events(session, lane, awake.settings.debounce_seconds)
        _edited_before_they_came(session, events)
    if wait > 0:
        ring_later(awake.redis, lane, wait)
    return events


def _handle(awake: Awake, events: Sequence[InboundEvent], held: Lease) -> Inbound | None:
    """Events of the ledger. What fails for a reason that may pass is tried again later, in its place."""
    event, inbound = events[0], None
    try:
        inbound = _read(event)
        if isinstance(inbound, InboundMessage):
            more = _by_the_same_person(inbound, events[1:])
            said = _as_written([(event.id, inbound), *more])
            events = events[: len(said)]
            event_id, inbound = said[-1]
            take_turn(awake, event_id, inbound, held, said[:-1])
        elif isinstance(inbound, InboundCommand):
            desk.take(awake, event.id, inbound, held)
        else:
            with transaction(awake.engine) as session:
                held.fence(session)
                _note(awake, session, event, inbound)
            if isinstance(inbound, InboundSignal):
                _ring_the_guard(awake)
    except LeaseLost:
        raise
    except Exception as error:
        log.exception("Event %s could not be handled", event.id)
        for one in events:
            _try_again(awake, one, error)
        if isinstance(error, Unavailable):
            raise
    return inbound


def _read(event: InboundEvent) -> Inbound | None:
    """In the bot's words; of a message that was edited while it waited, the newest."""
    inbound = READERS[event.source](event.kind, event.payload)
    if isinstance(inbound, InboundMessage) and (newest := event.payload.get(NEWEST)):
        return replace(inbound, text=newest["text"], edited_at=datetime.fromisoformat(newest["at"]))
    return inbound


def _ring_the_guard(awake: Awake) -> None:
    """A vote may decide a rollout. Without Redis the clock's own round does."""
    try:
        enqueue(awake.redis, jobs.GUARD_ROLLOUTS, at_most_every=1.0)
    except redis.RedisError as error:
        log.info("The controller is not rung: %s", error)


def _by_the_same_person(first: InboundMessage, events: Sequence[InboundEvent]) -> list[tuple[int, InboundMessage]]:
    """The messages that follow, up to the first that is somebody else's (a Slack thread), or that cannot be read."""
    said = []
    for event in events:
        try:
            inbound = _read(event)
        except Exception:  # it will stumble alone, when it is its turn
            break
        if not isinstance(inbound, InboundMessage) or inbound.person.identifiers != first.person.identifiers:
            break
        said.append((event.id, inbound))
    return said


def _as_written(said: list[tuple[int, InboundMessage]]) -> list[tuple[int, InboundMessage]]:
    """Messages that are one turn, in the vendor's order: one that had to be delivered again comes after later ones."""
    written = {event_id: message.sent_at for event_id, message in said if message.sent_at is not None}
    return sorted(said, key=lambda one: written[one[0]]) if len(written) == len(said) else said


def _note(awake: Awake, session: Session, event: InboundEvent, inbound: Inbound | None) -> None:
    """Everything that is no message: it is written down, never answered."""
    outcome = "ignored"
    if isinstance(inbound, InboundSignal):
        feedback = signals.record_signal(session, inbound, event.lane)
        outcome = "no answer it could be about" if feedback is None else f"feedback:{feedback.id}"
    elif isinstance(inbound, InboundStatus):
        outbox.record_status(awake, session, inbound)
        outcome = f"status:{inbound.delivery}"
    elif isinstance(inbound, InboundEdit):
        outcome = _note_edit(session, event, inbound)
    elif isinstance(inbound, InboundPerson):
        outcome = "person" if people.learn(session, inbound) else "nobody we know"
    session.execute(
        update(InboundEvent).where(InboundEvent.id == event.id).values(handled_at=now(), outcome=outcome, error=None)
    )


def _note_edit(session: Session, event: InboundEvent, edit: InboundEdit) -> str:
    """What was changed or taken back, be it answered, waiting to be, or still to come; vendors keep no order."""
    may_change = signals.record_edit(session, edit)
    about = select(InboundEvent).where(InboundEvent.source == event.source, InboundEvent.external_id.in_(edit.keys))
    known = list(session.scalars(about))
    if edit.text is None:
        for key in edit.keys:
            _never_answer(session, event, key)
    elif edit.text and may_change:
        for one in known or [_early(session, event, key) for key in edit.keys]:
            if one.handled_at is None or not known:
                _keep_newest(one, {"text": edit.text, "at": (edit.at or now()).isoformat()})
    if edit.text is None or not may_change or any(one.outcome == "deleted" for one in known):
        _forget_words(session, event, edit)
        return "deleted"
    return "edited"


def _never_answer(session: Session, event: InboundEvent, key: str) -> None:
    """What was taken back is not answered, be it that it waits or that it comes later than the news."""
    taken_back = {"handled_at": now(), "outcome": "deleted"}
    session.execute(
        insert(InboundEvent)
        .values(source=event.source, external_id=key, kind="message", lane=event.lane, payload={}, **taken_back)
        .on_conflict_do_update(
            index_elements=["source", "external_id"], set_=taken_back, where=InboundEvent.handled_at.is_(None)
        )
    )


def _early(session: Session, event: InboundEvent, key: str) -> InboundEvent:
    """Where an edit waits for its message."""
    name = f"{EARLY}{key}"
    found = session.scalar(
        select(InboundEvent).where(InboundEvent.source == event.source, InboundEvent.external_id == name)
    )
    if found is None:
        found = InboundEvent(
            source=event.source, external_id=name, kind="edit", lane=event.lane, payload=event.payload,
            handled_at=now(), outcome="edited",
        )  # fmt: skip
        session.add(found)
    return found


def _edited_before_they_came(session: Session, events: Sequence[InboundEvent]) -> None:
    """What waits to be answered is answered as it reads now."""
    messages = {f"{EARLY}{event.external_id}": event for event in events if event.kind == "message"}
    if not messages or events[0].source == "web":
        return
    waiting = InboundEvent.source == events[0].source, InboundEvent.external_id.in_(messages)
    for early in session.scalars(select(InboundEvent).where(*waiting)):
        if newest := early.payload.get(NEWEST):
            _keep_newest(messages[early.external_id], newest)
        session.delete(early)


def _keep_newest(event: InboundEvent, newest: dict[str, str]) -> None:
    """Beside what the vendor sent of a message, unless there is something newer."""
    if newest["at"] >= event.payload.get(NEWEST, newest)["at"]:
        event.payload = {**event.payload, NEWEST: newest}


def _forget_words(session: Session, event: InboundEvent, edit: InboundEdit) -> None:
    """The vendor's own rows hold them too: the message's, its edits', and of some vendors the news itself."""
    name = edit.provider_message_id.rpartition(":")[2]
    about = and_(
        InboundEvent.lane == event.lane, InboundEvent.kind.in_(("edit", "delete")),
        cast(InboundEvent.payload, Text).contains(name, autoescape=True),
    )  # fmt: skip
    theirs = or_(about, InboundEvent.external_id.in_(edit.keys)) if name else InboundEvent.id == event.id
    session.execute(update(InboundEvent).where(InboundEvent.source == event.source, theirs).values(payload={}))


def _try_again(awake: Awake, event: InboundEvent, error: Exception) -> None:
    attempts = event.attempts + 1
    given_up = attempts >= MAX_ATTEMPTS and not isinstance(error, Unavailable)
    reason = error.message if isinstance(error, NpllmError) else f"{type(error).__name__}: {error}"[:500]
    asked = error.retry_after if isinstance(error, VendorUnavailable) else None
    wait = min(60, 2**attempts) if asked is None else asked
    # `outcome` is left as it stands: it may say which saved message this event became.
    values: dict[str, Any] = {"handled_at": now(), "outcome": "given up"} if given_up else {}
    with transaction(awake.engine) as session:
        session.execute(
            update(InboundEvent)
            .where(InboundEvent.id == event.id, InboundEvent.handled_at.is_(None))
            .values(attempts=attempts, error=reason, not_before=now() + timedelta(seconds=wait), **values)
        )
