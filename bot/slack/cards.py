"""The reviewers' channel in Slack: a card for each of the most urgent items, until somebody decided it.

new -> sending -> open -> done     the card says who decided what
               -> unknown to us whether it was posted: looked up by its id before it is posted again
open, done -> gone                 the item was erased: the card is deleted
"""

import logging
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from bot.lanes import Lease, lease
from bot.slack import forms
from bot.wiring import Awake
from core.db import transaction
from core.errors import NpllmError, VendorUnavailable
from core.messages import Outgoing
from core.tables import Annotation, AnnotationItem, ReviewCard, now
from integrations.slack.client import escaped
from integrations.slack.desk import place

log = logging.getLogger(__name__)

LANE = "cards/slack"
MOST = 5  # open cards at a time: a channel is read from its end
AT_ONCE = 3  # calls of one look; Slack allows about one a second and channel
FIRST_WAIT = 5.0  # seconds until Slack is asked again


@dataclass(frozen=True)
class Due:
    """One card to act on, out of its transaction."""

    id: uuid.UUID
    shown: str
    ts: str | None
    item: AnnotationItem | None
    decided: Annotation | None
    created_at: datetime


def show(awake: Awake) -> None:
    """Bring the channel up to date: post, mark as decided, delete. One worker at a time."""
    if not awake.settings.slack_review_channel or "slack" not in awake.channels:
        return
    with lease(awake.engine, awake.heartbeat, LANE) as held:
        if held is None:
            return
        for due in _due(awake, held)[:AT_ONCE]:
            try:
                _act(awake, due, held)
            except VendorUnavailable as error:
                shown = "sending" if error.outcome_unknown and due.shown == "new" else due.shown
                wait = FIRST_WAIT if error.retry_after is None else error.retry_after
                _set(awake, due, held, shown=shown, wait=wait, error=error.message)
                return  # what comes behind it would be told the same
            except NpllmError as error:
                log.error("A review card could not be shown: %s", error)
                ends = "failed" if due.shown in ("new", "sending") else "done" if due.item else "gone"
                _set(awake, due, held, shown=ends, error=str(error))


def _due(awake: Awake, held: Lease) -> list[Due]:
    with transaction(awake.engine) as session:
        held.fence(session)
        _add(session, awake)
        query = (
            select(ReviewCard, AnnotationItem)
            .outerjoin(AnnotationItem, AnnotationItem.id == ReviewCard.item_id)
            .where(
                ReviewCard.not_before <= now(),
                or_(
                    ReviewCard.shown.in_(("new", "sending")),
                    (ReviewCard.shown == "open") & (AnnotationItem.state == "done"),
                    ReviewCard.shown.in_(("open", "done")) & ReviewCard.item_id.is_(None),
                ),
            )
            .order_by(ReviewCard.created_at)
        )
        return [
            Due(card.id, card.shown, card.ts, item, _decision(session, item), card.created_at)
            for card, item in session.execute(query)
        ]


def _add(session: Session, awake: Awake) -> None:
    """A card for the most urgent item without one, while there is room in the channel."""
    waiting = ReviewCard.shown.in_(("new", "sending", "open"))
    if (session.scalar(select(func.count()).where(waiting)) or 0) >= MOST:
        return
    urgent = (
        select(AnnotationItem.id)
        .where(
            AnnotationItem.state == "open",
            ~select(ReviewCard.id).where(ReviewCard.item_id == AnnotationItem.id).exists(),
        )
        .order_by(AnnotationItem.priority.desc(), AnnotationItem.id)
        .limit(1)
    )
    if (item := session.scalar(urgent)) is not None:
        _, channel = place(awake.settings.slack_review_channel or "")
        session.add(ReviewCard(item_id=item, channel=channel))
        session.flush()


def _decision(session: Session, item: AnnotationItem | None) -> Annotation | None:
    if item is None or item.state != "done":
        return None
    latest = select(Annotation).where(Annotation.item_id == item.id).order_by(Annotation.created_at.desc())
    return session.scalar(latest.limit(1))


def _act(awake: Awake, due: Due, held: Lease) -> None:
    client: Any = awake.channel("slack")
    team, channel = place(awake.settings.slack_review_channel or "")
    language = awake.settings.language
    if due.shown == "sending":
        # Whoever sent it did not hear back. Only the reviewers' channel is looked through, by the card's own id.
        sought = Outgoing(str(due.id), {"team": team, "channel": channel}, "")
        found = client.lookup(sought, due.created_at - timedelta(minutes=1))
        _set(awake, due, held, shown="open" if found else "new", ts=found.partition(":")[2] if found else None)
    elif due.shown == "new" and (due.item is None or due.item.state == "done"):
        _set(awake, due, held, shown="gone")
    elif due.shown == "new":
        assert due.item is not None
        _set(awake, due, held, shown="sending")
        answer = client.call(
            "chat.postMessage", team=team, channel=channel, text=forms.WORDS[language]["review"],
            blocks=forms.card(language, due.item), unfurl_links=False,
            metadata={"event_type": "npllm_review_card", "event_payload": {"id": str(due.id)}},
        )  # fmt: skip
        _set(awake, due, held, shown="open", ts=str(answer.get("ts")))
    elif due.item is None:
        client.call("chat.delete", team=team, channel=channel, ts=due.ts)
        _set(awake, due, held, shown="gone", ts=due.ts)
    else:
        said = forms.decided(language, due.item, due.decided)
        client.call(
            "chat.update", team=team, channel=channel, ts=due.ts, text=escaped(said), blocks=[forms.section(said)]
        )
        _set(awake, due, held, shown="done", ts=due.ts)


def _set(
    awake: Awake, due: Due, held: Lease, *, shown: str, ts: str | None = None, wait: float = 0.0,
    error: str | None = None,
) -> None:  # fmt: skip
    with transaction(awake.engine) as session:
        held.fence(session)
        card = session.get_one(ReviewCard, due.id, with_for_update=True)
        card.shown, card.ts, card.error = shown, ts or card.ts, error
        card.not_before = now() + timedelta(seconds=wait)
