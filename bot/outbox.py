"""Sending what the outbox holds: each part once, in order, and a look-up before anything is sent again.

    pending  -> sending  -> sent
                         -> pending   the vendor asked us to wait (not_before)
                         -> unknown   no answer came: it may have been sent
                         -> failed    refused for good, or too many tries
    unknown  -> sent                  found at the vendor, or its status webhook came
             -> pending               looked up, and not there
             -> failed                looked up often, and never there
    any      -> sent                  its status webhook came after all

What a refusal asks for (`core.errors.Action`) is done here; how long a message has to wait before it may go,
bot/limits.py says.

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
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from bot import limits, signals
from bot.lanes import Lease
from bot.wiring import Awake, ChannelClient
from core import events
from core.db import transaction
from core.errors import Action, DoorClosed, NpllmError, Unavailable, VendorUnavailable
from core.messages import InboundStatus, Outgoing
from core.tables import Conversation, Customer, Message, OutboxItem, new_id, now
from core.text import length, split_text

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 8
FIRST_WAIT = 2.0  # seconds; doubled with every attempt
UNKNOWN_WAIT = 5.0  # before a look-up: the vendor may still be writing it
CLOSED_WAIT = 60.0  # while a channel's secrets are not set
GIVE_UP_UNKNOWN = timedelta(minutes=15)  # how long a status webhook, or a look-up that works, is waited for
NOBODY_KNOWS = "unknown"  # as `delivery`: given up, and alerted
OPTED_OUT = "The person opted out."
RETRY_WAIT = 60.0  # seconds before what the vendor took and could not deliver is tried once more
AGAIN = ":again"  # the kind of such a second try
WAITING = ("pending", "sending", "unknown")
DELIVERY_RANK = {
    "accepted": 0, "scheduled": 0, "queued": 0, "sending": 1, "warning": 1, "sent": 2, "delivered": 3,
    "partially_delivered": 3, "read": 4, "played": 5, "failed": 9, "undelivered": 9, "canceled": 9, "deleted": 9,
}  # fmt: skip
UNDELIVERED = ("failed", "undelivered")


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
            if row.state == "pending" and (wait := _held_back(awake, session, row)) > 0:
                row.not_before = now() + timedelta(seconds=wait)
                return wait
            due = _claim(row) if row.state in WAITING else None
        if due is not None:
            _act(awake, due, lease)


def _first_waiting(session: Session, lane: str, channels: Mapping[str, ChannelClient]) -> OutboxItem | None:
    mute = [name for name, client in channels.items() if not client.supports_lookup]
    query = select(OutboxItem).where(
        OutboxItem.lane == lane, OutboxItem.state.in_(WAITING), OutboxItem.delivery.is_distinct_from(NOBODY_KNOWS),
        or_(OutboxItem.state != "unknown", OutboxItem.channel.not_in(mute), OutboxItem.not_before <= now()),
    )  # fmt: skip
    return session.scalar(query.order_by(OutboxItem.message_id, OutboxItem.part).limit(1))


def _held_back(awake: Awake, session: Session, row: OutboxItem) -> float:
    """Seconds until it may be sent. Outside the vendor's window it becomes the template, or fails."""
    client = awake.channels.get(row.channel)
    if client is None:
        return 0.0  # `_act` knows what to do about a closed channel
    if not row.payload.get("template") and limits.outside_window(session, row, client.limits):
        _outside_window(session, row, has_template=client.limits.template)
        if row.state == "failed":
            return 0.0
    return limits.seconds_to_wait(awake, session, row, client.limits)


def _outside_window(session: Session, row: OutboxItem, *, has_template: bool) -> None:
    """One template opens the conversation again; what else waits for this person is not sent."""
    conversation = session.get_one(Conversation, row.conversation_id)
    wanted = session.get_one(Customer, conversation.customer_id).no_templates_at is None
    if has_template and wanted and row.part == 1 and row.kind == "answer":
        row.payload = {**row.payload, "template": True}
    else:
        _fail(session, row, "Outside the vendor's 24-hour window, where only a template may be sent.")


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
            template=bool(row.payload.get("template")),
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
            _refused(awake, due, lease, error)
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
            _send_after_all(awake, due, lease)


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


def _refused(awake: Awake, due: Due, lease: Lease, error: Unavailable) -> None:
    """The vendor said no: what its code asks for is done."""
    with transaction(awake.engine) as session:
        lease.fence(session)
        row = session.get_one(OutboxItem, due.id, with_for_update=True)
        if row.state == "sent":
            return  # its status webhook was quicker
        if error.action in ("stop", "tomorrow"):
            row.state, row.attempts, row.error = "pending", row.attempts - 1, str(error)
            _pause(awake, session, row, error.action, str(error))
        elif error.action == "template" and not row.payload.get("template"):
            row.state = "pending"
            _outside_window(session, row, has_template=awake.channel(row.channel).limits.template)
        elif error.action == "text_only" and row.payload.get("buttons"):
            log.error("A message goes without its buttons: %s", error)
            row.state, row.payload = "pending", {**row.payload, "buttons": []}
        elif error.action == "split" and len(row.payload["text"]) > 1:
            log.error("A message was too long for its vendor, and is split: %s", error)
            _split(session, row)
        else:
            if error.action == "opt_out":
                _opt_out(session, row)
            _fail(session, row, str(error))
            if _is_somebodys(error.action, row):
                _alert(session, row, str(error))


def _is_somebodys(action: Action | None, row: OutboxItem) -> bool:
    """Whether somebody should look. Without buttons to leave out it is the template that is broken, and so it is where
    the vendor asks for a template instead of the template."""
    return action in ("alert", "text_only") or (action == "template" and bool(row.payload.get("template")))


def _alert(session: Session, row: OutboxItem, reason: str) -> None:
    events.record(
        session, "alert.raised", channel=row.channel, conversation=row.conversation_id, what="message refused",
        message=str(row.message_id), reason=reason,
    )  # fmt: skip


def _pause(awake: Awake, session: Session, row: OutboxItem, action: Action, reason: str) -> None:
    tomorrow = limits.tomorrow(awake.settings.timezone)
    limits.pause(session, row.channel, tomorrow if action == "tomorrow" else now() + limits.STOPPED, reason)


def _opt_out(session: Session, row: OutboxItem) -> None:
    """The person told the vendor, not us."""
    customer = session.get_one(Conversation, row.conversation_id).customer_id
    session.execute(
        update(Customer).where(Customer.id == customer, Customer.opted_out_at.is_(None)).values(opted_out_at=now())
    )
    withdraw(session, customer)


def _split(session: Session, row: OutboxItem) -> None:
    """Two rows of one; the parts behind them move up by one."""
    text = row.payload["text"]
    first, *rest = split_text(text, (length(text) + 1) // 2)
    later = select(OutboxItem).where(
        OutboxItem.message_id == row.message_id, OutboxItem.kind == row.kind, OutboxItem.part >= row.part
    )
    for other in session.scalars(later.order_by(OutboxItem.part.desc())):
        if other.id != row.id:
            other.part += 1
        other.parts += 1
        session.flush()
    second = {**row.payload, "text": "\n".join(rest), "extra": {}}  # what was shown already is the first one's
    session.add(
        OutboxItem(
            message_id=row.message_id, conversation_id=row.conversation_id, in_reply_to=row.in_reply_to, kind=row.kind,
            part=row.part + 1, parts=row.parts, channel=row.channel, lane=row.lane, payload=second,
        )
    )  # fmt: skip
    row.state, row.payload = "pending", {**row.payload, "text": first, "buttons": []}


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


def _send_after_all(awake: Awake, due: Due, lease: Lease) -> None:
    """Looked up, and the vendor does not have it."""
    with transaction(awake.engine) as session:
        wants_nothing = _wants_nothing(session, session.get_one(OutboxItem, due.id))
    if wants_nothing:
        _failed(awake, due, lease, OPTED_OUT)
    else:
        _set(awake, due, lease, state="pending", wait=0.0)


def _set(awake: Awake, due: Due, lease: Lease, *, state: str, wait: float, error: str | None = None) -> None:
    with transaction(awake.engine) as session:
        lease.fence(session)
        row = session.get_one(OutboxItem, due.id, with_for_update=True)
        if row.state == "sent":
            return  # its status webhook was quicker
        row.state, row.not_before = state, now() + timedelta(seconds=wait)
        row.error = error or row.error


def _failed(awake: Awake, due: Due, lease: Lease, reason: str) -> None:
    with transaction(awake.engine) as session:
        lease.fence(session)
        row = session.get_one(OutboxItem, due.id, with_for_update=True)
        if row.state != "sent":
            _fail(session, row, reason)


def _fail(session: Session, row: OutboxItem, reason: str) -> None:
    log.error("A message could not be sent: %s", reason)
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
        .values(state="failed", error=OPTED_OUT)
    )


def _wants_nothing(session: Session, row: OutboxItem) -> bool:
    """Whether the person opted out after this was sent for the first time: `withdraw` saw nothing waiting."""
    customer = session.get_one(Conversation, row.conversation_id).customer_id
    return session.get_one(Customer, customer).opted_out_at is not None


def record_status(awake: Awake, session: Session, status: InboundStatus) -> None:
    """A delivery report: never downgraded; it also settles an unknown outcome, and may ask for another try."""
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
    before = DELIVERY_RANK.get(row.delivery or "", -1)
    if DELIVERY_RANK.get(status.delivery, -1) > before:
        row.delivery = status.delivery
        if status.error:
            row.error = f"vendor error {status.error}"
        if DELIVERY_RANK[status.delivery] == 9 and row.state == "unknown":
            row.state = "failed"
        if status.delivery in UNDELIVERED or (status.action and DELIVERY_RANK[status.delivery] == 9):
            row.error = row.error or "vendor error without a code"
            _undelivered(awake, session, row, status.action, has_it=before >= DELIVERY_RANK["delivered"])


def _undelivered(awake: Awake, session: Session, row: OutboxItem, action: Action | None, *, has_it: bool) -> None:
    """The vendor took it and could not deliver it. What may help is tried once, as a message of its own; never where
    the vendor had told before that the person has it."""
    client = awake.channels.get(row.channel)
    again: dict[str, Any] | None = None
    later = now()
    if action in ("stop", "tomorrow"):
        _pause(awake, session, row, action, str(row.error))
        again = row.payload
    elif action == "retry":
        again, later = row.payload, now() + timedelta(seconds=RETRY_WAIT)
    elif action == "template" and client is not None and client.limits.template and not row.payload.get("template"):
        again = {**row.payload, "template": True, "buttons": []} if row.part == 1 and row.kind == "answer" else None
    elif action == "text_only" and row.payload.get("buttons"):
        again = {**row.payload, "buttons": []}
    elif action == "opt_out":
        _opt_out(session, row)
    elif _is_somebodys(action, row):
        _alert(session, row, str(row.error))
    if again is None or has_it or row.kind.endswith(AGAIN) or _wants_nothing(session, row):
        log.error("A message did not arrive: %s", row.error)
        events.record(
            session, "reply.failed", channel=row.channel, conversation=row.conversation_id, part=row.part,
            message=str(row.message_id), reason=row.error,
        )  # fmt: skip
        return
    session.execute(
        insert(OutboxItem)
        .values(
            id=new_id(), message_id=row.message_id, conversation_id=row.conversation_id, in_reply_to=row.in_reply_to,
            kind=f"{row.kind}{AGAIN}", part=row.part, parts=row.parts, channel=row.channel, lane=row.lane,
            payload=again, not_before=later,
        )
        .on_conflict_do_nothing()
    )  # fmt: skip
