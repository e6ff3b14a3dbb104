"""One change of a rollout's state: a compare-and-set on `row_version`, and its audit row in the same transaction.

Of two controllers or two operators one wins, and no state exists without a row that says who made it and why. Locks
are taken in one order, so that nobody waits for who waits for them: the context's row (`take_turns`), its rollouts,
their versions.
"""

import uuid
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from bot.alerts import raise_alert
from core import events, registry
from core.errors import Conflict
from core.rollouts import ACTIVE, Plan
from core.tables import AdapterVersion, Context, Rollout, RolloutEvent, now

EventOf = Literal["rollout.started", "rollout.advanced", "rollout.held", "rollout.promoted", "rollout.rolled_back"]


@dataclass(frozen=True)
class Change:
    """A new state for a rollout and who wants it."""

    verb: str
    actor: str
    reason: str
    state: str
    event: EventOf | None = None
    stage: int | None = None
    weight: float | None = None
    evidence: dict[str, Any] | None = None
    plan: Plan | None = None


def apply(session: Session, rollout: Rollout, change: Change) -> Rollout:
    """Compare-and-set with its audit row.

    Raises:
        Conflict: the rollout changed since it was read, or has ended (only abort may then say so quietly).
    """
    before = facts_of(rollout)
    values: dict[str, Any] = {"state": change.state, "row_version": rollout.row_version + 1}
    if change.stage is not None:
        values |= {"stage": change.stage, "stage_started_at": func.now()}
    if change.weight is not None:
        values["weight"] = change.weight
    if change.evidence is not None:
        values["evidence"] = change.evidence
    if change.plan is not None:
        values |= {"plan": change.plan.to_json(), "mode": change.plan.mode}
    if change.state not in ACTIVE:
        values |= {"ended_at": func.now(), "reason": change.reason}
    changed = session.execute(
        update(Rollout)
        .where(Rollout.id == rollout.id, Rollout.row_version == rollout.row_version, Rollout.state.in_(ACTIVE))
        .values(**values)
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined]
        raise Conflict("The rollout changed meanwhile.", "Look at `npllm rollout status` and try again.")
    session.refresh(rollout)
    after = facts_of(rollout)
    audit(session, rollout, change.verb, change.actor, change.reason, before, after, change.evidence)
    if change.event:
        events.record(
            session, change.event, context=rollout.context, rollout=str(rollout.id), actor=change.actor,
            reason=change.reason, **after,
        )  # fmt: skip
    if before["state"] != after["state"]:  # on changes of state only: a rollout that advances tells nobody
        version = session.get_one(AdapterVersion, rollout.version_id).name
        kind = change.event or f"rollout.{change.state}"
        raise_alert(
            session, kind, context=rollout.context, version=version, actor=change.actor, reason=change.reason,
            rollout=str(rollout.id), **after,
        )  # fmt: skip
    return rollout


def next_weight(rollout: Rollout, plan: Plan) -> float:
    """The share in the plan's next step; to the same people not less than they have, where an operator set more."""
    here, following = plan.stages[rollout.stage], plan.stages[rollout.stage + 1]
    return following.weight if following.audience != here.audience else max(following.weight, rollout.weight)


def crown(session: Session, rollout: Rollout, actor: str, reason: str, evidence: dict[str, Any]) -> Rollout:
    """The challenger is champion."""
    champion = registry.champion(session, rollout.context)
    evidence = {**evidence, "champion_before": champion.name if champion else "base"}
    change = Change("promote", actor, reason, "promoted", "rollout.promoted", weight=1.0, evidence=evidence)
    apply(session, rollout, change)
    registry.crown(session, rollout.context, rollout.version_id, expected=champion.id if champion else None)
    session.get_one(Context, rollout.context).watched_since = now()
    return rollout


def quarantine(session: Session, version_id: uuid.UUID, reason: str) -> None:
    """A version that was rolled back does not come back by itself: only `retry` revives it."""
    version = session.get_one(AdapterVersion, version_id)
    version.state, version.reasons = "quarantined", [*version.reasons, reason]


def take_turns(session: Session, context: str) -> None:
    """Whoever changes a context's rollouts or its champion comes one after another; what is read from here on holds."""
    session.execute(select(Context.name).where(Context.name == context).with_for_update(key_share=True))


def take_turn_of(session: Session, rollout: Rollout) -> None:
    """The same for a rollout that was read, and looked at, before.

    Raises:
        Conflict: it changed since.
    """
    take_turns(session, rollout.context)
    if session.scalar(select(Rollout.row_version).where(Rollout.id == rollout.id)) != rollout.row_version:
        raise Conflict("The rollout changed meanwhile.", "Look at `npllm rollout status` and try again.")


def leave_line(session: Session, rollout: Rollout, verb: str, actor: str, reason: str) -> Rollout:
    """Who waited does not begin."""
    rollout.state, rollout.reason, rollout.ended_at = "superseded", reason, now()
    rollout.row_version += 1
    session.flush()
    audit(session, rollout, verb, actor, reason, {"state": "waiting"}, facts_of(rollout))
    return rollout


def facts_of(rollout: Rollout) -> dict[str, Any]:
    return {"state": rollout.state, "stage": rollout.stage, "weight": rollout.weight}


def audit(
    session: Session,
    rollout: Rollout,
    verb: str,
    actor: str,
    reason: str,
    before: dict[str, Any],
    after: dict[str, Any],
    evidence: dict[str, Any] | None = None,
) -> None:
    session.add(
        RolloutEvent(
            rollout_id=rollout.id, context=rollout.context, actor=actor, verb=verb, reason=reason, before=before,
            after=after, evidence=evidence or {},
        )
    )  # fmt: skip


def note(
    session: Session, context: str, verb: str, actor: str, reason: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    """An audit row about a context's champion, outside any rollout."""
    session.add(RolloutEvent(context=context, actor=actor, verb=verb, reason=reason, before=before, after=after))
