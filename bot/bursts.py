"""Quick messages in a row are one turn: people write "oi", "quanto custa" and "o de casal?" and mean one question.

The waiting happens in the ledger: a worker that comes too early leaves, and is called again when the person has been
quiet for DEBOUNCE_SECONDS (or has written for four times as long). Nobody sleeps. The website's visitors wait in
front of a page, and are answered at once.
"""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.tables import InboundEvent

MOST = 20  # messages answered together
PATIENCE = 4  # pauses; somebody who does not stop writing is answered all the same


def next_events(session: Session, lane: str, pause: float) -> tuple[list[InboundEvent], float]:
    """The lane's oldest unhandled event, and the messages that came right behind it; what changes them or takes them
    back goes before them.

    Returns:
        (events, 0), or (none, seconds until it is worth looking again; 0 where nothing is due).
    """
    rows = session.execute(
        select(InboundEvent, func.now())
        .where(InboundEvent.lane == lane, InboundEvent.handled_at.is_(None))
        .order_by(InboundEvent.id)
        .limit(MOST)
    ).all()
    if not rows:
        return [], 0.0
    events, now = [event for event, _ in rows], rows[0][1]
    if changes := [one for one in events if one.kind in ("edit", "delete") and (one.not_before or now) <= now]:
        return changes[:1], 0.0  # before what it is about is answered
    first = events[0]
    if first.not_before is not None and first.not_before > now:
        return [], 0.0  # the lane waits for its oldest event: order is kept
    burst = _burst(events, pause)
    if len(burst) < len(events) or not _may_wait(first, pause) or len(burst) == MOST:
        return burst, 0.0
    quiet, since = (now - burst[-1].received_at).total_seconds(), (now - first.received_at).total_seconds()
    wait = min(pause - quiet, PATIENCE * pause - since)
    return ([], wait) if wait > 0 else (burst, 0.0)


def _may_wait(event: InboundEvent, pause: float) -> bool:
    return pause > 0 and event.kind == "message" and event.source != "web"


def _burst(events: Sequence[InboundEvent], pause: float) -> list[InboundEvent]:
    burst = [events[0]]
    for event in events[1:] if _may_wait(events[0], pause) else ():
        gap = (event.received_at - burst[-1].received_at).total_seconds()
        if event.kind != "message" or event.source != burst[0].source or gap > pause:
            break
        burst.append(event)
    return burst
