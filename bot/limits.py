"""What holds a message back: a paused channel, the vendor's rates, its 24-hour window.

Nothing sleeps here: the outbox is told how long to wait, and the clock comes back to it.
"""

import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import redis
from sqlalchemy import exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from bot.wiring import Awake
from core import events
from core.messages import Limits
from core.tables import ChannelPause, Conversation, Message, OutboxItem, now

log = logging.getLogger(__name__)

DELIVERED_FOR = timedelta(days=7)  # how long Meta tries to deliver a webhook
STOPPED = timedelta(minutes=5)  # then one message tries whether somebody mended it


def seconds_to_wait(awake: Awake, session: Session, row: OutboxItem, limits: Limits) -> float:
    """How long this message has to wait before it may be sent; 0: it may go now."""
    paused = session.get(ChannelPause, row.channel)
    if paused is not None and (left := (paused.until - now()).total_seconds()) > 0:
        return left
    if limits.pair_seconds and (left := _pair_wait(session, row, limits)) > 0:
        return left
    return _second_is_full(awake, row.channel, limits.per_second) if limits.per_second else 0.0


def pause(session: Session, channel: str, until: datetime, reason: str) -> None:
    """Nothing more leaves by this channel until then; said once, where somebody looks."""
    log.error("The channel %s is paused until %s: %s", channel, until.isoformat(timespec="minutes"), reason)
    known = session.get(ChannelPause, channel)
    statement = insert(ChannelPause).values(channel=channel, until=until, reason=reason)
    again: dict[str, Any] = {"until": until, "reason": reason}
    if known is None or known.until < now() - STOPPED:
        again["since"] = now()
        events.record(
            session, "alert.raised", channel=channel, what="channel paused", until=until.isoformat(), reason=reason
        )
    session.execute(statement.on_conflict_do_update(index_elements=["channel"], set_=again))


def tomorrow(timezone: str) -> datetime:
    """The next midnight of the business."""
    local = now().astimezone(ZoneInfo(timezone)) + timedelta(days=1)
    return local.replace(hour=0, minute=5, second=0, microsecond=0)


def outside_window(session: Session, row: OutboxItem, limits: Limits) -> bool:
    """Whether the person's last message on this lane was written longer ago than the vendor's window."""
    if limits.window is None:
        return False
    theirs = select(Conversation.id).where(Conversation.lane == row.lane)
    since = now() - limits.window
    inside = exists().where(
        Message.conversation_id.in_(theirs), Message.direction == "in",
        Message.created_at >= since,  # never before it was written: so the older months are not read
        func.coalesce(Message.sent_at, Message.created_at) >= since,
    )  # fmt: skip
    return not session.scalar(select(inside))


def written_at(told: datetime | None, received: datetime) -> datetime:
    """When a message was written, as far as the vendor's word for it can be believed: not after it reached us, nor
    longer before than any vendor tries to deliver."""
    return told if told is not None and received - DELIVERED_FOR <= told <= received else received


def pair_wait(sent: Sequence[datetime], at: datetime, seconds: float, burst: int) -> float:
    """Seconds until one more message may go to a person who was sent these, oldest first.

    A bucket: one message per `seconds` in the long run, `burst` at once.
    """
    left = float(burst)
    for moment, following in pairwise([*sent, at]):
        left = min(float(burst), left - 1 + (following - moment).total_seconds() / seconds)
    return max(0.0, (1 - left) * seconds)


def _pair_wait(session: Session, row: OutboxItem, limits: Limits) -> float:
    since = now() - timedelta(seconds=limits.pair_seconds * limits.pair_burst)
    sent: Any = session.scalars(
        select(OutboxItem.sent_at)
        .where(OutboxItem.lane == row.lane, OutboxItem.sent_at > since)
        .order_by(OutboxItem.sent_at)
    ).all()
    return pair_wait(sent, now(), limits.pair_seconds, limits.pair_burst)


def _second_is_full(awake: Awake, channel: str, per_second: float) -> float:
    """0 where this second has room for one more; counted in Redis, and not at all while Redis is away."""
    second = int(time.time())
    key = f"npllm:sent:{channel}:{second}"
    try:
        with awake.redis.pipeline(transaction=False) as pipeline:
            pipeline.incr(key)
            pipeline.expire(key, 5)
            count, _ = pipeline.execute()
    except redis.RedisError:
        return 0.0  # the vendor's own 429 is still obeyed
    return 0.0 if count <= max(1.0, per_second) else second + 1 - time.time()
