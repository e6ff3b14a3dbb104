"""Sending what the outbox holds: each part once, in order, and a look-up before anything is sent again.

    pending  -> sending  -> sent
                         -> pending   the vendor asked us to wait (not_before)
                         -> unknown   no answer came: it may have been sent
                         -> failed    refused for good, or too many tries
    unknown  -> sent                  found at the vendor, or its status webhook came
             -> pending               looked up, and not there
             -> failed                looked up often, and never there
    any      -> sent                  its status webhook came after all

A row that is `sending` when its holder died is treated as unknown: whoever takes it looks before sending.

Where nobody can be asked (Meta), or nobody answers for a quarter of an hour, a row stays `unknown`, its delivery
says so too, and an alert is raised: it is never sent again, and a late status still settles it. On Meta the messages
behind it do not wait for that: the person must not pay for what the network did.
"""

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from bot import signals
from bot.lanes import Lease
from bot.wiring import Awake, ChannelClient
from core import events
from core.db import transaction
from core.errors import DoorClosed, NpllmError, Unavailable, VendorUnavailable
from core.messages import InboundStatus, Outgoing
from core.tables import Conversation, Message, OutboxItem, now

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 8
FIRST_WAIT = 2.0  # seconds; doubled with every attempt
UNKNOWN_WAIT = 5.0  # before a look-up: the vendor may still be writing it
CLOSED_WAIT = 60.0  # while a channel's secrets are not set
GIVE_UP_UNKNOWN = timedelta(minutes=15)  # how long a status webhook, or a look-up that works, is waited for
NOBODY_KNOWS = "unknown"  # as `delivery`: given up, and alerted
WAITING = ("pending", "sending", "unknown")
DELIVERY_RANK = {
    "accepted": 0, "scheduled": 0, "queued": 0, "sending": 1, "warning": 1, "sent": 2, "delivered": 3,
    "partially_delivered": 3, "read": 4, "played": 5, "failed": 9, "undelivered": 9, "canceled": 9, "deleted": 9,
}  # fmt: skip


@dataclass(frozen=True)
class Due:
    """One row to act on, out of its transaction."""

    id: str
    outgoing: Outgoing
    channel: str
    state: str
    look_first: bool
    attempts: int
    created_at: datetime


def deliver(awake: Awake, lane: str, lease: Lease) -> float | None:
    """Send what waits on a lane, in order; returns the seconds until the next try, None when nothing waits."""
    while True:
        with transaction(awake.engine) as session:
            lease.fence(session)
            row = _first_waiting(session, lane, awake.channels)
            if row is None:
                return None
            wait = (row.not_before - now()).total_seconds()
            if wait > 0:
                return wait  # order matters: the parts behind it wait too
            due = _claim(row)
        _act(awake, due, lease)


def _first_waiting(session: Session, lane: str, channels: Mapping[str, ChannelClient]) -> OutboxItem | None:
    mute = [name for name, client in channels.items() if not client.supports_lookup]
    query = select(OutboxItem).where(
        OutboxItem.lane == lane, OutboxItem.state.in_(WAITING), OutboxItem.delivery.is_distinct_from(NOBODY_KNOWS),
        or_(OutboxItem.state != "unknown", OutboxItem.channel.not_in(mute), OutboxItem.not_before <= now()),
    )  # fmt: skip
    return session.scalar(query.order_by(OutboxItem.message_id, OutboxItem.part).limit(1))


def _claim(row: OutboxItem) -> Due:
    look_first = row.state in ("sending", "unknown")
    if not look_first:
        row.state = "sending"
        row.attempts += 1
    return Due(
        id=str(row.id),
        outgoing=Outgoing(
            our_id=str(row.id),
            address=row.payload["address"],
            text=row.payload["text"],
            buttons=tuple((key, title) for key, title in row.payload.get("buttons", [])),
            extra=row.payload.get("extra", {}),
        ),
        channel=row.channel,
        state=row.state,
        look_first=look_first,
        attempts=row.attempts,
        created_at=row.created_at,
    )


def _act(awake: Awake, due: Due, lease: Lease) -> None:
    try:
        client = awake.channel(due.channel)
        if not due.look_first:
            found: str | None = client.send(due.outgoing)
        elif client.supports_lookup:
            found = client.lookup(due.outgoing, due.created_at - timedelta(minutes=1))
        elif due.state == "unknown":
            _nobody_knows(awake, due, lease, "no answer, no status, and no look-up")
            return
        else:  # its sender died
            _set(awake, due, lease, state="unknown", wait=GIVE_UP_UNKNOWN.total_seconds())
            return
    except DoorClosed as error:
        state = "unknown" if due.look_first else "pending"
        _set(awake, due, lease, state=state, wait=CLOSED_WAIT, error=error.message)
    except Exception as error:
        if due.look_first:
            _stay_unknown(awake, due, lease, error)
        elif isinstance(error, VendorUnavailable):
            _not_now(awake, due, lease, error)
        elif isinstance(error, Unavailable):
            _failed(awake, due, lease, str(error))
        else:  # a bug, or an answer that nobody expected: it may have been sent
            log.exception("A message could not be sent")
            reason = f"{type(error).__name__} while sending."
            _not_now(awake, due, lease, VendorUnavailable(reason, outcome_unknown=True))
    else:
        if found:
            _sent(awake, due, lease, found)
        elif due.attempts >= MAX_ATTEMPTS:
            _failed(awake, due, lease, f"The vendor does not have it after {due.attempts} tries.")
        else:
            _set(awake, due, lease, state="pending", wait=0.0)


def _sent(awake: Awake, due: Due, lease: Lease, provider_id: str) -> None:
    # Not fenced: it was sent, whoever holds the lane now must know.
    with transaction(awake.engine) as session:
        row = session.get_one(OutboxItem, due.id, with_for_update=True)
        if row.state != "sent":
            mark_sent(session, row, provider_id)


def mark_sent(session: Session, row: OutboxItem, provider_id: str) -> None:
    """The vendor has this part: it may be rated from now on."""
    signals.lock_target(session, row.channel, provider_id)
    row.state, row.provider_message_id, row.sent_at, row.error = "sent", provider_id, now(), None
    session.flush()
    message = session.get_one(Message, row.message_id)
    if row.part == 1:
        message.provider_message_id = provider_id
    events.record(
        session,
        "reply.sent",
        context=message.context,
        channel=row.channel,
        conversation=row.conversation_id,
        message=str(message.id),
        provider_message_id=provider_id,
        kind=row.kind,
        part=row.part,
        parts=row.parts,
        version=message.version,
        in_reply_to=str(row.in_reply_to) if row.in_reply_to else None,
    )
    signals.resolve_orphans(session, row.channel, provider_id)


def _not_now(awake: Awake, due: Due, lease: Lease, error: VendorUnavailable) -> None:
    if error.outcome_unknown:
        wait = UNKNOWN_WAIT if awake.channel(due.channel).supports_lookup else GIVE_UP_UNKNOWN.total_seconds()
        _set(awake, due, lease, state="unknown", wait=wait, error=error.message)
    elif due.attempts >= MAX_ATTEMPTS:
        _failed(awake, due, lease, f"{error.message} Gave up after {due.attempts} tries.")
    else:
        wait = error.retry_after if error.retry_after is not None else FIRST_WAIT * 2 ** (due.attempts - 1)
        _set(awake, due, lease, state="pending", wait=wait, error=error.message)


def _stay_unknown(awake: Awake, due: Due, lease: Lease, error: Exception) -> None:
    """A look-up that failed: it is asked again, and a status webhook may still tell."""
    if datetime.now(UTC) - due.created_at > GIVE_UP_UNKNOWN:
        _nobody_knows(awake, due, lease, "no answer, no status, and no look-up that worked")
        return
    asked = error.retry_after if isinstance(error, VendorUnavailable) else None
    reason = error.message if isinstance(error, NpllmError) else type(error).__name__
    _set(awake, due, lease, state="unknown", wait=UNKNOWN_WAIT if asked is None else asked, error=reason)


def _nobody_knows(awake: Awake, due: Due, lease: Lease, why: str) -> None:
    """The end of asking: not sent again, not called failed, and somebody is told."""
    reason = f"Nobody knows whether it was sent: {why}."
    log.error("%s", reason)
    with transaction(awake.engine) as session:
        lease.fence(session)
        row = session.get_one(OutboxItem, due.id, with_for_update=True)
        if row.state == "sent":
            return
        row.state, row.delivery, row.error = "unknown", NOBODY_KNOWS, reason
        events.record(
            session, "alert.raised", channel=row.channel, conversation=row.conversation_id, reason=reason,
            message=str(row.message_id), part=row.part,
        )  # fmt: skip


def _set(awake: Awake, due: Due, lease: Lease, *, state: str, wait: float, error: str | None = None) -> None:
    with transaction(awake.engine) as session:
        lease.fence(session)
        row = session.get_one(OutboxItem, due.id, with_for_update=True)
        if row.state == "sent":
            return  # its status webhook was quicker
        row.state, row.not_before = state, now() + timedelta(seconds=wait)
        row.error = error or row.error


def _failed(awake: Awake, due: Due, lease: Lease, reason: str) -> None:
    log.error("A message could not be sent: %s", reason)
    with transaction(awake.engine) as session:
        lease.fence(session)
        row = session.get_one(OutboxItem, due.id, with_for_update=True)
        if row.state == "sent":
            return
        row.state, row.error = "failed", reason
        events.record(
            session, "reply.failed", channel=row.channel, conversation=row.conversation_id, part=row.part,
            message=str(row.message_id), reason=reason,
        )  # fmt: skip


def withdraw(session: Session, customer_id: uuid.UUID) -> None:
    """Nothing that still waits is sent to a person who opted out."""
    theirs = select(Conversation.id).where(Conversation.customer_id == customer_id)
    session.execute(
        update(OutboxItem)
        .where(OutboxItem.state == "pending", OutboxItem.conversation_id.in_(theirs))
        .values(state="failed", error="The person opted out.")
    )


def record_status(session: Session, status: InboundStatus) -> None:
    """A delivery report: never downgraded; it also settles an unknown outcome."""
    row = None
    if status.our_id:
        try:
            row = session.get(OutboxItem, uuid.UUID(status.our_id), with_for_update=True)
        except ValueError:
            pass
    if row is None:
        row = session.scalar(
            select(OutboxItem)
            .where(OutboxItem.channel == status.channel, OutboxItem.provider_message_id == status.provider_message_id)
            .with_for_update()
        )
    if row is None:
        log.info("A status for a message that is not ours: %s", status.delivery)
        return
    if row.state != "sent" and DELIVERY_RANK.get(status.delivery, 0) < 9:
        mark_sent(session, row, status.provider_message_id)
    if DELIVERY_RANK.get(status.delivery, -1) > DELIVERY_RANK.get(row.delivery or "", -1):
        row.delivery = status.delivery
        if status.error:
            row.error = f"vendor error {status.error}"
