"""The event log: past tense, append-only, in order of `id`."""

import uuid
from collections.abc import Iterator
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.tables import Event

EventType = Literal[
    "interaction.received",
    "embedding.generated",
    "reply.sent",
    "reply.failed",
    "feedback.recorded",
    "handover.requested",
    "handover.taken",
    "handover.returned",
    "annotation.submitted",
    "learning.triggered",
    "consolidation.scheduled",
    "consolidation.completed",
    "version.registered",
    "version.retired",
    "version.left",
    "rollout.started",
    "rollout.advanced",
    "rollout.held",
    "rollout.promoted",
    "rollout.rolled_back",
    "alert.raised",
]


def record(
    session: Session,
    type: EventType,
    *,
    context: str | None = None,
    channel: str | None = None,
    conversation: uuid.UUID | None = None,
    **data: Any,
) -> None:
    """Append one event, in the transaction of what it tells of."""
    session.add(Event(type=type, context=context, channel=channel, conversation=conversation, data=data))


def listing(session: Session, *, since: int = 0, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Events after `since`, oldest first, as `npllm events list` prints them."""
    query = select(Event).where(Event.id > since).order_by(Event.id)
    for event in session.scalars(query.limit(limit) if limit else query):
        yield {
            "id": event.id,
            "type": event.type,
            "at": event.at.isoformat(),
            "context": event.context,
            "channel": event.channel,
            "conversation": str(event.conversation) if event.conversation else None,
            "data": event.data,
        }
