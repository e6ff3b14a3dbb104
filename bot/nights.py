"""Asking for nights: when one is due, and by hand. The night itself happens in `learning`, in another process."""

import uuid
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import any_, func, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core import events, registry
from core.errors import BadInput, Conflict
from core.schedule import STRATEGIES, Schedule, schedule_of
from core.settings import Settings
from core.tables import ConsolidationRun, Context, Message, PrivacyAction, new_id, now

DEEP = "deep"
ENOUGH_FOR_DEEP = 2  # nights since the last deep one; learning one night's examples again from the base gains nothing
_FRESH = text("""
    SELECT count(*) FROM (
        SELECT i.message_id FROM npllm.annotation_items i JOIN npllm.annotations a ON a.item_id = i.id
        WHERE i.context = :context AND a.verdict IN ('correct', 'approve')
          AND NOT EXISTS (SELECT 1 FROM npllm.examples e WHERE e.message_id = i.message_id AND e.source = 'annotation'
                          AND e.dropped IS DISTINCT FROM 'the night is full')
        UNION
        SELECT m.id FROM npllm.messages m JOIN npllm.feedback f ON f.message_id = m.id
        WHERE m.context = :context AND m.direction = 'out' AND f.superseded_at IS NULL AND f.polarity = 'positive'
          AND m.consent AND m.deleted_at IS NULL
          AND NOT EXISTS (SELECT 1 FROM npllm.examples e WHERE e.message_id = m.id
                          AND e.dropped IS DISTINCT FROM 'the night is full')
          AND NOT EXISTS (SELECT 1 FROM npllm.feedback o WHERE o.message_id = m.id AND o.superseded_at IS NULL
                          AND o.polarity = 'negative')
          AND NOT EXISTS (SELECT 1 FROM npllm.annotation_items i JOIN npllm.annotations a ON a.item_id = i.id
                          WHERE i.message_id = m.id)
    ) fresh
""")


@dataclass(frozen=True)
class Outlook:
    """Whether a context would fall asleep now.

    Attributes:
        due: it would.
        why: in sentences, what it waits for, or what the night is for.
        strategy: of that night.
        rebuild: it learns everything again from the base, whatever the schedule says, because data was erased.
    """

    due: bool
    why: list[str]
    strategy: str
    night: date | None = None
    rebuild: bool = False


def request_due_nights(session: Session, settings: Settings) -> list[str]:
    """Claim tonight for every context that is due; returns run ids to enqueue.

    Scheduled runs that no worker took, and running ones whose worker died, are enqueued again.
    """
    due = [
        run.id
        for run in session.scalars(select(ConsolidationRun).where(ConsolidationRun.state.in_(("scheduled", "running"))))
        if run.state == "scheduled" or run.leased_until is None or run.leased_until < now()
    ]
    for context in session.scalars(select(Context).order_by(Context.name)).all():
        found = outlook(session, context, settings)
        if found.due and found.night is not None:
            options: dict[str, object] = {"strategy": found.strategy}
            if found.rebuild:
                options |= {"rebuild": True, "minimum": 1}
            run = claim(session, context.name, settings, found.night, sequence=0, requested_by="clock", **options)
            due += [run.id] if run else []
    return [str(run) for run in due]


def outlook(session: Session, context: Context, settings: Settings, at: datetime | None = None) -> Outlook:
    """What a context waits for before it sleeps, at an instant (now)."""
    at = at or now()
    schedule = schedule_of(settings, context.preset, context.overrides)
    rebuild = needs_rebuild(session, context.name)
    strategy = DEEP if rebuild else schedule.strategy
    waits: list[str] = []
    night = schedule.night_of(at)
    if night is None:
        waits.append(f"It is awake: its sleeping hours are {schedule.hours} ({schedule.timezone}).")
    else:
        if not rebuild and not schedule.is_due(night, _last_night(session, context.name)):
            return Outlook(False, ["It has slept already in this period."], strategy, night)
        if not rebuild and _is_deep(session, context.name, schedule, night):
            strategy = DEEP
    if (silence := _silence(session, context.name, at)) is not None and silence < schedule.idle_minutes:
        waits.append(f"Somebody wrote {silence:.0f} minutes ago; {schedule.idle_minutes:.0f} of silence are needed.")
    if not rebuild and (new := fresh_examples(session, context.name)) < schedule.minimum:
        waits.append(f"{new} answers were corrected or liked since the last night; {schedule.minimum} are needed.")
    if not rebuild and context.frozen_reason is not None:
        waits.append(f"Promotions and nights are frozen: {context.frozen_reason}")
    if waits:
        return Outlook(False, waits, strategy, night, rebuild)
    why = "Data was erased: everything that is left is learned again from the base." if rebuild else "A night is due."
    return Outlook(True, [why], strategy, night, rebuild)


def fresh_examples(session: Session, context: str) -> int:
    """Answers that people corrected, approved or liked and no night has looked at, or had room for; not all of them may
    be learned."""
    return int(session.scalar(_FRESH, {"context": context}) or 0)


def needs_rebuild(session: Session, context: str) -> bool:
    """Whether what somebody taught was erased and nothing was learned again from the base since."""
    taught = PrivacyAction.counts["examples"].as_integer() > 0
    erased = session.scalar(
        select(func.max(PrivacyAction.at)).where(
            PrivacyAction.verb == "erase", any_(PrivacyAction.contexts) == context,
            or_(func.cardinality(PrivacyAction.versions) > 0, taught),
        )
    )  # fmt: skip
    if erased is None:
        return False
    done = session.scalar(
        select(func.max(ConsolidationRun.created_at)).where(
            ConsolidationRun.context == context, ConsolidationRun.strategy == DEEP,
            ConsolidationRun.state.in_(("registered", "refused", "skipped")),
        )
    )  # fmt: skip
    return done is None or done < erased


def request_now(
    session: Session, context: str, settings: Settings, *, requested_by: str, **options: object
) -> uuid.UUID:
    """Ask for a night at once.

    Raises:
        BadInput: no such strategy.
        Conflict: one is waiting or running already.
        NotFound: no such context.
    """
    row = registry.get_context(session, context)
    if (strategy := options.get("strategy")) is not None and strategy not in STRATEGIES:
        raise BadInput(f"There is no strategy '{strategy}'.", f"Choose {', '.join(STRATEGIES)}.")
    active = session.scalar(
        select(ConsolidationRun).where(
            ConsolidationRun.context == context, ConsolidationRun.state.in_(("scheduled", "running"))
        )
    )
    if active is not None:
        raise Conflict(
            f"'{context}' is asleep already (run {active.id}, {active.stage}).", "npllm sleep status follows it."
        )
    schedule = schedule_of(settings, row.preset, row.overrides)
    tonight = schedule.night_of(now()) or now().astimezone(ZoneInfo(schedule.timezone)).date()
    taken = session.scalar(
        select(func.max(ConsolidationRun.sequence)).where(
            ConsolidationRun.context == context, ConsolidationRun.night == tonight
        )
    )
    sequence = 1 if taken is None else taken + 1  # 0 is the clock's own
    run = claim(session, context, settings, tonight, sequence=sequence, requested_by=requested_by, **options)
    if run is None:
        raise Conflict(f"Another run of '{context}' was asked for at the same moment.", "npllm sleep status shows it.")
    return run.id


def claim(
    session: Session, context: str, settings: Settings, night: date, *, sequence: int, requested_by: str,
    **options: object,
) -> ConsolidationRun | None:  # fmt: skip
    """Make the row of one night; None where it exists already, or another run of the context is active."""
    row = registry.get_context(session, context)
    schedule = schedule_of(settings, row.preset, row.overrides)
    run_id = new_id()
    made = session.execute(
        insert(ConsolidationRun)
        .values(
            id=run_id, context=context, night=night, sequence=sequence, requested_by=requested_by,
            strategy=str(options.get("strategy") or schedule.strategy),
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


def _last_night(session: Session, context: str) -> date | None:
    """The newest of the clock's nights that came to a result; one that failed or had too little is owed still."""
    return session.scalar(
        select(func.max(ConsolidationRun.night)).where(
            ConsolidationRun.context == context, ConsolidationRun.sequence == 0,
            ConsolidationRun.state.not_in(("failed", "skipped")),
        )
    )  # fmt: skip


def _is_deep(session: Session, context: str, schedule: Schedule, night: date) -> bool:
    ended = ConsolidationRun.state.in_(("registered", "refused"))
    last = session.execute(
        select(func.max(ConsolidationRun.night), func.max(ConsolidationRun.created_at)).where(
            ConsolidationRun.context == context, ConsolidationRun.strategy == DEEP, ended
        )
    ).one()
    if not schedule.is_deep(night, last[0]):
        return False
    # Refused ones too: only a deep night learns what they had to teach.
    since = select(func.count()).select_from(ConsolidationRun).where(ConsolidationRun.context == context, ended)
    if last[1] is not None:
        since = since.where(ConsolidationRun.created_at > last[1])
    return (session.scalar(since) or 0) >= ENOUGH_FOR_DEEP


def _silence(session: Session, context: str, at: datetime) -> float | None:
    """Minutes since somebody wrote; None where nobody ever did."""
    latest = session.scalar(
        select(Message.created_at).where(Message.context == context).order_by(Message.created_at.desc()).limit(1)
    )
    return None if latest is None else (at - latest) / timedelta(minutes=1)
