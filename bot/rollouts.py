"""The hand on the lever: start, look at the evidence, advance, promote, roll back.

Every change is a compare-and-set on `row_version` with its audit row in the same transaction: of two controllers
or two operators one wins, and no state exists without a row that says who made it and why. Abort always wins.
"""

import logging
import secrets
import uuid
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from bot import units
from bot.router import Served, holdback_of, read_routes
from bot.wiring import Awake
from core import events, registry
from core.db import transaction
from core.errors import Conflict, NotFound, NpllmError
from core.explain import Fact, facts
from core.rollouts import ACTIVE, Decision, Plan, decide, weigh
from core.tables import AdapterVersion, Context, Rollout, RolloutEvent, now

log = logging.getLogger(__name__)

CONTROLLER = "controller"
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


def start(
    session: Session, name: str, plan: Plan, *, actor: str, against: str | None = None, reason: str = ""
) -> Rollout:
    """Begin a rollout of a version against the champion (or against `base`, or another version by name).

    Raises:
        Conflict: the context has a rollout already, or the version may not be served.
        NotFound: no such version.
    """
    version = registry.by_name(session, name)
    if version.state != "registered":
        raise Conflict(f"{name} is {version.state}: {'; '.join(map(str, version.reasons)) or 'see its run'}.",
                       "npllm rollout retry revives a quarantined version.")  # fmt: skip
    active = current(session, version.context)
    if active is not None:
        raise Conflict(f"A rollout is {active.state} in '{version.context}'.", "Promote or abort it first.")
    champion = registry.champion(session, version.context)
    control = champion
    if against is not None:
        control = None if against == "base" else registry.by_name(session, against)
    if control is not None and control.id == version.id:
        raise Conflict(f"{name} already serves '{version.context}'.", "Start another version, or name --against base.")
    rollout = Rollout(
        context=version.context, version_id=version.id, against_id=control.id if control else None, mode=plan.mode,
        plan=plan.to_json(), weight=plan.stages[0].weight, salt=secrets.token_hex(8),
        slow_ms=units.slow_ms(session, version.context, control.name if control else "base"),
    )  # fmt: skip
    session.add(rollout)
    session.flush()
    after = _facts(rollout) | {
        "version": version.name,
        "against": control.name if control else "base",
        "plan": plan.name,
    }
    _audit(session, rollout, "start", actor, reason, before={}, after=after)
    events.record(session, "rollout.started", context=rollout.context, rollout=str(rollout.id), actor=actor, **after)
    return rollout


def current(session: Session, context: str, *, lock: bool = False) -> Rollout | None:
    """The context's active rollout."""
    query = select(Rollout).where(Rollout.context == context, Rollout.state.in_(ACTIVE))
    return session.scalar(query.with_for_update() if lock else query)


def require_current(session: Session, context: str) -> Rollout:
    rollout = current(session, context)
    if rollout is None:
        raise NotFound(f"No rollout is active in '{context}'.", "npllm rollout start VERSION begins one.")
    return rollout


def set_weight(session: Session, context: str, weight: float, *, actor: str, reason: str = "") -> Rollout:
    """Change the challenger's share now; its next assignments carry the new probability."""
    rollout = require_current(session, context)
    if not 0 < weight < 1:
        raise Conflict(f"A weight of {weight:.0%} leaves one arm without votes.", "Use promote or abort instead.")
    return apply(session, rollout, Change("set-weight", actor, reason, rollout.state, weight=weight))


def pause(session: Session, context: str, *, actor: str, reason: str = "") -> Rollout:
    """Stop advancing; the weight stays and the guards go on."""
    return apply(session, require_current(session, context), Change("pause", actor, reason, "paused"))


def resume(session: Session, context: str, *, actor: str, reason: str = "") -> Rollout:
    return apply(session, require_current(session, context), Change("resume", actor, reason, "running"))


def promote(session: Session, context: str, *, actor: str, full: bool = False, reason: str = "") -> Rollout:
    """On to the next stage by hand, or with `full` to all traffic at once (needs a reason; it is audited)."""
    rollout = require_current(session, context)
    plan = Plan.from_json(rollout.plan)
    if full and not reason:
        raise Conflict("Promoting past the evidence needs a reason.", "Add --reason TEXT.")
    if full or rollout.stage + 1 == len(plan.stages):
        return _crown(session, rollout, actor, reason or "promoted by hand", {})
    stage = rollout.stage + 1
    change = Change(
        "promote", actor, reason, "running", "rollout.advanced", stage=stage, weight=plan.stages[stage].weight
    )
    return apply(session, rollout, change)


def abort(session: Session, context: str, *, actor: str, reason: str = "") -> Rollout | None:
    """Stop the rollout and go to the stable version, in any state; None where none is active (no error)."""
    rollout = current(session, context, lock=True)
    if rollout is None:
        return None
    _quarantine(session, rollout.version_id, f"aborted by {actor}: {reason}".rstrip(": "))
    return apply(session, rollout, Change("abort", actor, reason, "aborted", "rollout.rolled_back", weight=0.0))


def undo(session: Session, context: str, *, actor: str, to: str | None = None, reason: str = "") -> str:
    """Back to an older version, or to the frozen base, at once; returns its name.

    Raises:
        NotFound: there is no earlier version to go to.
    """
    abort(session, context, actor=actor, reason=reason or "undo")
    champion = registry.champion(session, context)
    target: AdapterVersion | None
    if to == "base":
        target = None
    elif to is not None:
        target = registry.by_name(session, to if not to.isdigit() else f"{context}-v{to}")
        if target.state not in ("registered", "retired"):
            raise Conflict(f"{target.name} is {target.state}.", "npllm rollout retry revives it.")
    else:
        target = session.scalar(
            select(AdapterVersion)
            .where(
                AdapterVersion.context == context, AdapterVersion.state == "registered",
                AdapterVersion.number < (champion.number if champion else 0),
            )
            .order_by(AdapterVersion.number.desc())
            .limit(1)
        )  # fmt: skip
        if champion is None:
            raise NotFound(f"'{context}' is served by the frozen base already.", "Name one: --to-version N.")
    registry.crown(session, context, target.id if target else None, expected=champion.id if champion else None)
    name = target.name if target else "base"
    if champion is not None:
        _quarantine(session, champion.id, f"undone by {actor}: {reason}".rstrip(": "))
    _note(
        session, context, "undo", actor, reason, {"champion": champion.name if champion else "base"}, {"champion": name}
    )
    events.record(session, "rollout.rolled_back", context=context, actor=actor, champion=name, verb="undo")
    return name


def retry(session: Session, name: str, *, actor: str, reason: str = "") -> AdapterVersion:
    """Lift a quarantine, so that the version may be started again."""
    version = registry.by_name(session, name)
    if version.state != "quarantined":
        raise Conflict(f"{name} is {version.state}, not quarantined.", "npllm rollout start begins a rollout.")
    version.state = "registered"
    _note(
        session,
        version.context,
        "retry",
        actor,
        reason,
        {"state": "quarantined"},
        {"state": "registered", "version": name},
    )
    return version


def guard_all(awake: Awake) -> None:
    """Act on every active rollout's evidence, and have the model server keep what is live."""
    with transaction(awake.engine) as session:
        contexts = list(session.scalars(select(Context.name).order_by(Context.name)))
    live: list[Served] = []
    for context in contexts:
        try:
            with transaction(awake.engine) as session:
                rollout = current(session, context)
                if rollout is not None:
                    act(session, rollout, look(session, rollout))
        except Conflict as error:
            log.info("%s", error)  # somebody else was quicker
        with transaction(awake.engine) as session:
            routes = read_routes(session, context, holdback=awake.settings.holdback_share)
        served = (routes.champion, routes.challenger, routes.control, routes.holdback)
        live += [one for one in served if one is not None]
    try:
        awake.models.keep_only(live)
    except NpllmError as error:
        log.warning("Versions could not be kept loaded: %s", error)


def look(session: Session, rollout: Rollout) -> Decision:
    """What the evidence says of a rollout now."""
    plan = Plan.from_json(rollout.plan)
    _, anchor = holdback_of(session, rollout, plan)
    votes = units.read_votes(
        session, rollout, anchor=anchor, blue_green=plan.mode == "blue-green", stages=len(plan.stages)
    )
    return decide(
        plan,
        rollout.stage,
        votes,
        state=rollout.state,
        elapsed=(now() - rollout.stage_started_at).total_seconds(),
        total_elapsed=(now() - rollout.started_at).total_seconds(),
    )


def explain(session: Session, rollout: Rollout) -> list[Fact]:
    """Every figure with its limit, and what would change the decision; many looks' work, so on request only."""
    plan = Plan.from_json(rollout.plan)
    _, anchor = holdback_of(session, rollout, plan)
    votes = units.read_votes(
        session, rollout, anchor=anchor, blue_green=plan.mode == "blue-green", stages=len(plan.stages)
    )
    return facts(
        plan, rollout.stage, votes, weigh(plan, rollout.stage, votes),
        elapsed=(now() - rollout.stage_started_at).total_seconds(),
        total_elapsed=(now() - rollout.started_at).total_seconds(),
    )  # fmt: skip


def act(session: Session, rollout: Rollout, decision: Decision) -> Rollout:
    """Carry a decision out. Waiting writes the figures down, nothing else."""
    plan, reason = Plan.from_json(rollout.plan), " ".join(decision.reasons)
    evidence = decision.figures
    if decision.action == "rollback":
        _quarantine(session, rollout.version_id, reason)
        change = Change(
            "rollback", CONTROLLER, reason, "rolled_back", "rollout.rolled_back", weight=0.0, evidence=evidence
        )
        return apply(session, rollout, change)
    if decision.action == "promote":
        return _crown(session, rollout, CONTROLLER, reason, evidence)
    if decision.action == "advance":
        stage = rollout.stage + 1
        weight = plan.stages[stage].weight
        change = Change("advance", CONTROLLER, reason, "running", "rollout.advanced", stage, weight, evidence)
        return apply(session, rollout, change)
    if decision.action == "hold" and rollout.state == "running":
        return apply(session, rollout, Change("hold", CONTROLLER, reason, "held", "rollout.held", evidence=evidence))
    if decision.action == "resume":
        return apply(session, rollout, Change("resume", CONTROLLER, reason, "running", evidence=evidence))
    session.execute(
        update(Rollout).where(Rollout.id == rollout.id).values(evidence=evidence | {"reasons": decision.reasons})
    )
    return rollout


def apply(session: Session, rollout: Rollout, change: Change) -> Rollout:
    """Compare-and-set with its audit row.

    Raises:
        Conflict: the rollout changed since it was read, or has ended (only abort may then say so quietly).
    """
    before = _facts(rollout)
    values: dict[str, Any] = {"state": change.state, "row_version": rollout.row_version + 1}
    if change.stage is not None:
        values |= {"stage": change.stage, "stage_started_at": func.now()}
    if change.weight is not None:
        values["weight"] = change.weight
    if change.evidence is not None:
        values["evidence"] = change.evidence
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
    after = _facts(rollout)
    _audit(session, rollout, change.verb, change.actor, change.reason, before, after, change.evidence)
    if change.event:
        events.record(
            session, change.event, context=rollout.context, rollout=str(rollout.id), actor=change.actor,
            reason=change.reason, **after,
        )  # fmt: skip
    return rollout


def _crown(session: Session, rollout: Rollout, actor: str, reason: str, evidence: dict[str, Any]) -> Rollout:
    champion = registry.champion(session, rollout.context)
    registry.crown(session, rollout.context, rollout.version_id, expected=champion.id if champion else None)
    change = Change("promote", actor, reason, "promoted", "rollout.promoted", weight=1.0, evidence=evidence)
    return apply(session, rollout, change)


def _quarantine(session: Session, version_id: uuid.UUID, reason: str) -> None:
    """A version that was rolled back does not come back by itself: only `retry` revives it."""
    version = session.get_one(AdapterVersion, version_id)
    version.state, version.reasons = "quarantined", [*version.reasons, reason]


def _facts(rollout: Rollout) -> dict[str, Any]:
    return {"state": rollout.state, "stage": rollout.stage, "weight": rollout.weight}


def _audit(
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


def _note(
    session: Session, context: str, verb: str, actor: str, reason: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    """An audit row about a context's champion, outside any rollout."""
    session.add(RolloutEvent(context=context, actor=actor, verb=verb, reason=reason, before=before, after=after))
