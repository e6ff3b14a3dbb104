"""The watch over a champion, and over the world: drift.

two arms      the champion fell below the held back: the version's fault -> undo, at once
one stream    ratings of what stands fell: model or world? -> tell an operator, freeze promotions and nights
input         other languages, topics, lengths than before -> hold the rollout: its evidence was of another world
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from bot import rollouts
from bot.alerts import raise_alert
from bot.rollout_changes import Change, apply, take_turns
from bot.wiring import Awake
from core import drift, events, registry
from core.evidence import said
from core.redact import Redactor
from core.rollouts import Plan, anchor_weight
from core.settings import Settings
from core.tables import AdapterVersion, Assignment, Context, Message, Rollout, RolloutEvent, now

DRIFT = "drift"  # the actor in the audit trail
LEAST_PAST = 100  # ratings without which "what satisfaction was" is not known
PAST_DAYS = 28
SAMPLE = 400  # messages of a day whose mix is looked at
_EVERY_RATING = """
    SELECT DISTINCT ON (f.customer_id, date(f.given_at)) f.value, f.created_at
    FROM npllm.feedback f JOIN npllm.messages m ON m.id = f.message_id
    WHERE m.context = :context AND f.superseded_at IS NULL AND f.value IS NOT NULL
      AND f.created_at > now() - make_interval(days => :days) {of}
    ORDER BY f.customer_id, date(f.given_at), f.given_at
"""
# Of answers of what stands: a rollout compares its own arms, and a bad challenger in it is no bad world.
_STANDS = "AND (m.arm = 'champion' OR m.rollout_id IS NULL AND m.arm IS DISTINCT FROM 'holdback')"
_RATINGS = text(_EVERY_RATING.format(of=_STANDS))
_COUNT = text(f"SELECT count(*) FROM ({_EVERY_RATING.format(of='')}) ratings")


def look_after(session: Session, awake: Awake, context: str) -> None:
    """The champion against the held back while no rollout runs (whose units they are else), and the world always."""
    champion = registry.champion(session, context)
    between = rollouts.current(session, context) is None
    if between and champion is not None and (evidence := two_arm_evidence(session, context, champion.id)) is not None:
        if evidence >= drift.TWO_ARM_ALARM:
            reason = (
                f"It fell below the people held back: evidence {said(evidence)} (limit {drift.TWO_ARM_ALARM:,.0f})."
            )
            # Said of this champion while nothing ran: where a rollout began meanwhile, undo would take that one back.
            active = rollouts.current(session, context, lock=True)
            if active is None and registry.champion(session, context) is champion:
                rollouts.undo(session, context, actor=DRIFT, reason=reason)
            return
    row = session.get_one(Context, context)
    if row.frozen_reason is None and (evidence := one_stream_evidence(session, row)) is not None:
        if evidence >= drift.ONE_STREAM_ALARM:
            reason = (
                f"Satisfaction fell, whichever version answers: evidence {said(evidence)}"
                f" (limit {drift.ONE_STREAM_ALARM:,.0f}). Promotions and nights wait."
            )
            seen = row.watched_since
            take_turns(session, context)
            session.refresh(row)
            if row.frozen_reason is None and row.watched_since == seen:  # an operator may have ended one meanwhile
                freeze(session, row, actor=DRIFT, reason=reason)


def freeze(session: Session, row: Context, *, actor: str, reason: str) -> None:
    """No promotion and no night until an operator resumes."""
    row.frozen_reason = reason
    session.add(RolloutEvent(context=row.name, actor=actor, verb="freeze", reason=reason, after={"state": "frozen"}))
    events.record(session, "alert.raised", context=row.name, what="frozen", reason=reason)
    raise_alert(session, "rollout.frozen", context=row.name, state="frozen", actor=actor, reason=reason)


def two_arm_evidence(session: Session, context: str, champion_id: Any) -> float | None:
    """The highest of the two-arm detector since the champion came to serve; None where no rollout brought it there.

    What undid it once does not undo it again where an operator went back to it since.
    """
    rollout = session.scalar(
        select(Rollout)
        .where(Rollout.context == context, Rollout.version_id == champion_id, Rollout.state == "promoted")
        .order_by(Rollout.ended_at.desc())
        .limit(1)
    )
    if rollout is None:
        return None
    name = session.get_one(AdapterVersion, champion_id).name
    returned = session.scalar(
        select(func.max(RolloutEvent.at)).where(
            RolloutEvent.context == context, RolloutEvent.rollout_id.is_(None),
            RolloutEvent.after["champion"].astext == name,
        )
    )  # fmt: skip
    a = Assignment
    rows = session.execute(
        select(a.vote, a.vote_arm, a.vote_probability, a.holdback)
        .where(
            a.rollout_id == rollout.id, a.vote.is_not(None), a.vote_stage >= len(rollout.plan["stages"]),
            a.holdback > 0, *([a.voted_at >= returned] if returned else []),
        )
        .order_by(a.voted_at, a.customer_id)
    ).all()  # fmt: skip
    process = drift.two_arm(
        [row.vote for row in rows],
        [row.vote_arm != "holdback" for row in rows],
        [anchor_weight(row.vote_probability, row.holdback) for row in rows],
        historic=Plan.from_json(rollout.plan).historic,
    )
    return float(process.max()) if len(process) else 1.0


def one_stream_evidence(session: Session, row: Context) -> float | None:
    """The highest of the one-stream detector on the ratings since an operator (or a promotion) last looked.

    What satisfaction was is taken from the ratings before, or from the first hundred; None while there are too few.
    """
    ratings = sorted((at, value) for value, at in session.execute(_RATINGS, {"context": row.name, "days": PAST_DAYS}))
    since = row.watched_since or datetime.min.replace(tzinfo=now().tzinfo)
    past, fresh = [v for at, v in ratings if at < since], [v for at, v in ratings if at >= since]
    if len(past) < LEAST_PAST:
        past, fresh = fresh[:LEAST_PAST], fresh[LEAST_PAST:]
    if len(past) < LEAST_PAST:
        return None
    process = drift.one_stream(fresh, reference=float(np.mean(past)) - drift.SLACK)
    return float(process.max()) if len(process) else 1.0


def hold_on_shift(session: Session, settings: Settings, rollout: Rollout) -> None:
    """Hold a running rollout whose people ask for other things than before; looked at hourly, held once a day."""
    checked = datetime.fromisoformat(str(rollout.evidence.get("mix_checked_at", "2000-01-01T00:00:00+00:00")))
    if now() - checked < timedelta(hours=1):
        return
    evidence = {**rollout.evidence, "mix_checked_at": now().isoformat()}
    session.execute(update(Rollout).where(Rollout.id == rollout.id).values(evidence=evidence))
    held_today = session.scalar(
        select(func.count())
        .select_from(RolloutEvent)
        .where(
            RolloutEvent.rollout_id == rollout.id, RolloutEvent.verb == "hold", RolloutEvent.actor == DRIFT,
            RolloutEvent.at > now() - timedelta(days=1),
        )
    )  # fmt: skip
    moved = [shift for shift in input_shifts(session, settings, rollout.context) if shift.shifted]
    if moved and not held_today:
        told = ", ".join(f"{shift.trait} ({shift.psi:.2f})" for shift in moved)
        reason = f"People ask for other things than before: {told}; {drift.SHIFTED} is another population."
        change = Change("hold", DRIFT, reason, "held", "rollout.held", evidence=evidence)
        apply(session, session.get_one(Rollout, rollout.id, populate_existing=True), change)


def input_shifts(session: Session, settings: Settings, context: str) -> list[drift.Shift]:
    """Language, length, topic and redactions of the last day's messages, against the four weeks before."""
    day = now() - timedelta(days=1)
    before = _mix(session, settings, context, now() - timedelta(days=PAST_DAYS), day)
    return drift.shifts(before, _mix(session, settings, context, day, now()))


def _mix(
    session: Session, settings: Settings, context: str, start: datetime, end: datetime
) -> Mapping[str, Mapping[str, int]]:
    mixed = func.md5(func.cast(Message.id, Message.text.type))  # of all the time alike
    redact = Redactor.of(settings)
    asked = session.execute(
        select(Message.language, Message.text)
        .where(
            Message.context == context, Message.direction == "in", Message.created_at >= start,
            Message.created_at < end, Message.text != "",
        )
        .order_by(mixed)
        .limit(SAMPLE)
    ).all()  # fmt: skip
    found = select(Message.memories[0].astext).where(
        Message.context == context, Message.direction == "out", Message.created_at >= start, Message.created_at < end,
        func.jsonb_array_length(Message.memories) > 0,
    )  # fmt: skip
    return {
        "language": Counter(str(language) for language, _ in asked),
        "length": Counter(drift.length_of(said) for _, said in asked),
        "redacted": Counter(str(redact(said) != said) for _, said in asked),
        "topic": Counter(str(passage) for passage in session.scalars(found.order_by(mixed).limit(SAMPLE))),
    }


def votes_per_day(session: Session, context: str) -> float:
    """Rated answers a day, whoever gave them, over the last week: which preset they can carry."""
    count = session.scalar(_COUNT, {"context": context, "days": 7})
    return float(count or 0) / 7
