"""Asking for nights: when one is due, and by hand. The night itself happens in `learning`, in another process."""

import uuid
from datetime import datetime, timedelta
from datetime import time as clock_time
from zoneinfo import ZoneInfo

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core import events
from core.errors import Conflict, NotFound, SettingError
from core.settings import Settings
from core.tables import ConsolidationRun, Context, Message, new_id, now

ABANDONED = timedelta(seconds=60)  # a running night without a heartbeat for so long has lost its worker


def request_due_nights(session: Session, settings: Settings) -> list[str]:
    """Claim tonight for every context that is quiet and inside its sleeping hours; returns run ids to enqueue.

    Scheduled runs that no worker took, and running ones whose worker died, are enqueued again.
    """
    due = [
        run.id
        for run in session.scalars(select(ConsolidationRun).where(ConsolidationRun.state.in_(("scheduled", "running"))))
        if run.state == "scheduled" or run.leased_until is None or run.leased_until < now()
    ]
    local = datetime.now(ZoneInfo(settings.timezone))
    if in_hours(settings.sleep_hours, local.time()):
        for context in session.scalars(select(Context.name).order_by(Context.name)):
            if is_quiet(session, context, settings.sleep_idle_minutes):
                run = claim(session, context, settings, sequence=0, requested_by="clock")
                due += [run.id] if run else []
    return [str(run) for run in due]


def request_now(
    session: Session, context: str, settings: Settings, *, requested_by: str, **options: object
) -> uuid.UUID:
    """Ask for a night at once.

    Raises:
        Conflict: one is waiting or running already.
        NotFound: no such context.
    """
    if session.get(Context, context) is None:
        raise NotFound(f"There is no context '{context}'.", "The contexts are: customers, employees.")
    active = session.scalar(
        select(ConsolidationRun).where(
            ConsolidationRun.context == context, ConsolidationRun.state.in_(("scheduled", "running"))
        )
    )
    if active is not None:
        raise Conflict(
            f"'{context}' is asleep already (run {active.id}, {active.stage}).", "npllm sleep status follows it."
        )
    tonight = datetime.now(ZoneInfo(settings.timezone)).date()
    taken = session.scalar(
        select(func.max(ConsolidationRun.sequence)).where(
            ConsolidationRun.context == context, ConsolidationRun.night == tonight
        )
    )
    sequence = 1 if taken is None else taken + 1  # 0 is the clock's own
    run = claim(session, context, settings, sequence=sequence, requested_by=requested_by, **options)
    if run is None:
        raise Conflict(f"Another run of '{context}' was asked for at the same moment.", "npllm sleep status shows it.")
    return run.id


def claim(
    session: Session, context: str, settings: Settings, *, sequence: int, requested_by: str, **options: object
) -> ConsolidationRun | None:
    """Make the row of one night; None where it exists already, or another run of the context is active."""
    night = datetime.now(ZoneInfo(settings.timezone)).date()
    run_id = new_id()
    made = session.execute(
        insert(ConsolidationRun)
        .values(
            id=run_id, context=context, night=night, sequence=sequence, requested_by=requested_by,
            strategy=str(options.get("strategy") or settings.sleep_strategy),
            seed=int(night.strftime("%Y%m%d")) * 100 + sequence, options=dict(options),
        )
        .on_conflict_do_nothing()
        .returning(ConsolidationRun.id)
    )  # fmt: skip
    if made.first() is None:
        return None
    events.record(
        session, "consolidation.scheduled", context=context, run=str(run_id), night=str(night), by=requested_by
    )
    return session.get_one(ConsolidationRun, run_id)


def in_hours(hours: str, at: clock_time) -> bool:
    """Whether a time of day lies in '22:00-06:00' (which may go past midnight).

    Raises:
        SettingError: it is no such range.
    """
    try:
        start, end = (clock_time.fromisoformat(part.strip()) for part in hours.split("-"))
    except ValueError:
        raise SettingError(f"SLEEP_HOURS is '{hours}'.", "Write a range such as 02:00-06:00.") from None
    return start <= at < end if start <= end else at >= start or at < end


def is_quiet(session: Session, context: str, minutes: float) -> bool:
    """Whether nobody has written for so long."""
    latest = session.scalar(
        select(Message.created_at).where(Message.context == context).order_by(Message.created_at.desc()).limit(1)
    )
    return latest is None or now() - latest > timedelta(minutes=minutes)
