"""A look at a rollout's evidence, and what is done about it: advance, hold, roll back, promote, or wait."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from bot import units
from bot.alerts import raise_alert
from bot.rollout_changes import Change, apply, audit, crown, facts_of, next_weight, quarantine, take_turn_of
from bot.rollouts import CONTROLLER
from bot.router import holdback_of
from core import registry
from core.explain import Fact, facts
from core.rollouts import Decision, Plan, Stop, Votes, decide, overdue, weigh
from core.tables import AdapterVersion, Rollout, RolloutEvent, now


def look(session: Session, rollout: Rollout, stops: Sequence[Stop] = ()) -> Decision:
    """What the evidence says of a rollout now.

    Args:
        stops: what was found wrong with the challenger itself.
    """
    plan = Plan.from_json(rollout.plan)
    votes = votes_of(session, rollout)
    return decide(
        plan,
        rollout.stage,
        replace(votes, stops=stops),
        state=rollout.state,
        elapsed=(now() - rollout.stage_started_at).total_seconds(),
        total_elapsed=(now() - rollout.started_at).total_seconds(),
    )


def explain(session: Session, rollout: Rollout) -> list[Fact]:
    """Every figure with its limit, and what would change the decision; many looks' work, so on request only."""
    plan, votes = Plan.from_json(rollout.plan), votes_of(session, rollout)
    return facts(
        plan, rollout.stage, votes, weigh(plan, rollout.stage, votes),
        elapsed=(now() - rollout.stage_started_at).total_seconds(),
        total_elapsed=(now() - rollout.started_at).total_seconds(), weight=rollout.weight,
    )  # fmt: skip


def votes_of(session: Session, rollout: Rollout) -> Votes:
    """What a rollout has seen."""
    plan = Plan.from_json(rollout.plan)
    _, anchor = holdback_of(session, rollout, plan)
    return units.read_votes(
        session, rollout, anchor=anchor, blue_green=plan.mode == "blue-green", stages=len(plan.stages)
    )


def act(session: Session, rollout: Rollout, decision: Decision) -> Rollout:
    """Carry a decision out. Waiting writes the figures down, nothing else.

    Raises:
        Conflict: the rollout changed since it was looked at.
    """
    take_turn_of(session, rollout)
    plan, reason = Plan.from_json(rollout.plan), " ".join(decision.reasons)
    evidence = {**decision.figures, **_kept(rollout)}
    if decision.action == "rollback":
        return roll_back(session, rollout, reason, evidence)
    frozen = registry.get_context(session, rollout.context).frozen_reason
    if frozen is not None and decision.action in ("advance", "promote"):
        decision = replace(decision, action="wait", reasons=[f"Promotions are frozen: {frozen}"])
    if decision.action == "promote":
        return crown(session, rollout, CONTROLLER, reason, evidence)
    if decision.action == "advance":
        stage, weight = rollout.stage + 1, next_weight(rollout, plan)
        change = Change("advance", CONTROLLER, reason, "running", "rollout.advanced", stage, weight, evidence)
        return apply(session, rollout, change)
    expired = now() - rollout.started_at >= timedelta(hours=plan.expires_hours)
    if expired and rollout.state == "held" and not evidence.get("overdue"):
        _tell_again(session, rollout, overdue(plan))
    evidence["overdue"] = expired
    if decision.action == "hold" and (rollout.state == "running" or (rollout.state == "paused" and expired)):
        return apply(session, rollout, Change("hold", CONTROLLER, reason, "held", "rollout.held", evidence=evidence))
    if decision.action == "resume" and _held_by(session, rollout) == CONTROLLER:  # not what a shift or a person held
        return apply(session, rollout, Change("resume", CONTROLLER, reason, "running", evidence=evidence))
    session.execute(
        update(Rollout).where(Rollout.id == rollout.id).values(evidence=evidence | {"reasons": decision.reasons})
    )
    return rollout


def _tell_again(session: Session, rollout: Rollout, reason: str) -> None:
    """Whoever was told when it was held may have forgotten it."""
    audit(session, rollout, "expire", CONTROLLER, reason, facts_of(rollout), facts_of(rollout))
    version = session.get_one(AdapterVersion, rollout.version_id).name
    raise_alert(
        session, "rollout.held", context=rollout.context, version=version, actor=CONTROLLER, reason=reason,
        rollout=str(rollout.id), **facts_of(rollout),
    )  # fmt: skip


def roll_back(session: Session, rollout: Rollout, reason: str, evidence: dict[str, Any]) -> Rollout:
    """Weight 0, and the version is quarantined."""
    quarantine(session, rollout.version_id, reason)
    change = Change("rollback", CONTROLLER, reason, "rolled_back", "rollout.rolled_back", weight=0.0, evidence=evidence)
    return apply(session, rollout, change)


def _kept(rollout: Rollout) -> dict[str, Any]:
    """What of the last look is no figure of this one, and is kept."""
    return {name: rollout.evidence[name] for name in ("mix_checked_at", "overdue") if name in rollout.evidence}


def _held_by(session: Session, rollout: Rollout) -> str | None:
    """Who held it last."""
    held = select(RolloutEvent.actor).where(RolloutEvent.rollout_id == rollout.id, RolloutEvent.verb == "hold")
    return session.scalar(held.order_by(RolloutEvent.id.desc()).limit(1))
