"""The hand on the lever: start, look at the evidence, advance, promote, roll back.

Every change is a compare-and-set on `row_version` with its audit row in the same transaction: of two controllers
or two operators one wins, and no state exists without a row that says who made it and why. Abort always wins.
"""

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from bot import units
from bot.alerts import raise_alert
from bot.rollout_changes import Change, apply, audit, crown, facts_of, note, quarantine
from bot.router import holdback_of
from core import events, registry
from core.errors import Conflict, NotFound
from core.explain import Fact, facts
from core.rollouts import ACTIVE, PRESETS, Decision, Mode, Plan, Stage, Stop, Votes, decide, weigh
from core.tables import AdapterVersion, Context, Rollout, RolloutEvent, now

CONTROLLER = "controller"
TAKE_BACK = timedelta(minutes=10)  # how long after a promotion `abort` still means it


def start(
    session: Session, name: str, plan: Plan, *, actor: str, against: str | None = None, reason: str = "",
    queue: bool = False,
) -> Rollout:  # fmt: skip
    """Begin a rollout of a version against the champion (or against `base`, or another version by name).

    Args:
        queue: where one is active, wait until it has ended; whoever waited before is superseded. Evidence is never
            carried over.

    Raises:
        Conflict: the context has a rollout already, or the version may not be served.
        NotFound: no such version.
    """
    version = registry.by_name(session, name)
    if version.state != "registered":
        raise Conflict(f"{name} is {version.state}: {'; '.join(map(str, version.reasons)) or 'see its run'}.",
                       "npllm rollout retry revives a quarantined version.")  # fmt: skip
    _take_turns(session, version.context)
    control = _control(session, version, against)
    active = current(session, version.context)
    if active is not None and not queue:
        raise Conflict(
            f"A rollout is {active.state} in '{version.context}'.", "Promote or abort it first, or --queue this one."
        )
    if active is not None and active.version_id == version.id:
        raise Conflict(f"{name} is rolling out already.", "npllm rollout status shows it.")
    begins = active is None
    if not begins:
        _supersede(session, version.context, name)
    rollout = Rollout(
        context=version.context,
        version_id=version.id,
        against_id=control.id if control else None,
        mode=plan.mode,
        plan=plan.to_json(),
        weight=_first_weight(plan) if begins else 0.0,
        salt=secrets.token_hex(8),
        state="running" if begins else "waiting",
        evidence={} if begins else {"against": against},
        slow_ms=units.slow_ms(session, version.context, control.name if control else "base"),
    )
    session.add(rollout)
    session.flush()
    _announce_start(session, rollout, version, control, "start" if begins else "queue", actor, reason)
    return rollout


def _take_turns(session: Session, context: str) -> None:
    """Of two that begin a rollout at once the second sees the first's, and is told."""
    session.execute(select(Context.name).where(Context.name == context).with_for_update(key_share=True))


def _control(session: Session, version: AdapterVersion, against: str | None) -> AdapterVersion | None:
    """What a version is compared with; None is the frozen base."""
    champion = registry.champion(session, version.context)
    if champion is not None and champion.id == version.id:
        raise Conflict(
            f"{version.name} already serves '{version.context}'.",
            "Start another version; npllm rollout undo takes this one back.",
        )
    if against is None:
        return champion
    control = None if against == "base" else _servable(session, version.context, against)
    if control is not None and control.id == version.id:
        raise Conflict(f"{version.name} cannot be compared with itself.", "Name another version, or base.")
    return control


def _servable(session: Session, context: str, name: str) -> AdapterVersion:
    """A version that may serve a context: its own (what employees may read is not for customers), and registered."""
    version = registry.by_name(session, name)
    if version.context != context:
        raise Conflict(f"{name} is a version of '{version.context}', not of '{context}'.", "Name one of its own.")
    if version.state == "quarantined":
        raise Conflict(f"{version.name} is quarantined.", "npllm rollout retry revives it.")
    if version.state != "registered":
        raise Conflict(f"{version.name} is {version.state} and is not served.", "npllm adapters show says why.")
    return version


def _first_weight(plan: Plan) -> float:
    """Blue-green begins in the shadow: nobody is served before the checks."""
    return 0.0 if plan.mode == "blue-green" else plan.stages[0].weight


def _announce_start(
    session: Session, rollout: Rollout, version: AdapterVersion, control: AdapterVersion | None, verb: str,
    actor: str, reason: str,
) -> None:  # fmt: skip
    after = facts_of(rollout) | {
        "version": version.name, "against": control.name if control else "base", "plan": rollout.plan["name"],
    }  # fmt: skip
    audit(session, rollout, verb, actor, reason, before={}, after=after)
    if rollout.state == "running":
        events.record(
            session, "rollout.started", context=rollout.context, rollout=str(rollout.id), actor=actor, **after
        )
        raise_alert(session, "rollout.started", context=rollout.context, actor=actor, reason=reason, **after)


def waiting(session: Session, context: str) -> Rollout | None:
    """The rollout that takes its turn next."""
    return session.scalar(select(Rollout).where(Rollout.context == context, Rollout.state == "waiting"))


def _supersede(session: Session, context: str, by: str) -> None:
    """The newest waits; an older one that waited never gets a turn."""
    if (older := waiting(session, context)) is not None:
        _leave_line(session, older, "supersede", CONTROLLER, f"{by} is newer")


def _leave_line(session: Session, rollout: Rollout, verb: str, actor: str, reason: str) -> Rollout:
    rollout.state, rollout.reason, rollout.ended_at = "superseded", reason, now()
    rollout.row_version += 1
    session.flush()
    audit(session, rollout, verb, actor, reason, {"state": "waiting"}, facts_of(rollout))
    return rollout


def next_in_line(session: Session, context: str) -> None:
    """Nothing runs: who waits begins, against the champion of now."""
    if waiting(session, context) is None:
        return
    _take_turns(session, context)
    if current(session, context) is not None or (rollout := waiting(session, context)) is None:
        return
    version = session.get_one(AdapterVersion, rollout.version_id)
    champion = registry.champion(session, context)
    if version.state != "registered" or (champion is not None and champion.id == version.id):
        reason = f"{version.name} is {version.state}" if version.state != "registered" else "it serves already"
        _leave_line(session, rollout, "supersede", CONTROLLER, reason)
        return
    control = _control(session, version, rollout.evidence.get("against"))
    values = {
        "state": "running", "weight": _first_weight(Plan.from_json(rollout.plan)), "evidence": {},
        "against_id": control.id if control else None, "started_at": func.now(), "stage_started_at": func.now(),
        "row_version": rollout.row_version + 1,
    }  # fmt: skip
    changed = session.execute(
        update(Rollout)
        .where(Rollout.id == rollout.id, Rollout.state == "waiting", Rollout.row_version == rollout.row_version)
        .values(**values)
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined]
        raise Conflict("The rollout changed meanwhile.")
    session.refresh(rollout)
    _announce_start(session, rollout, version, control, "start", CONTROLLER, "it was next in line")


def current(session: Session, context: str, *, lock: bool = False) -> Rollout | None:
    """The context's active rollout."""
    query = select(Rollout).where(Rollout.context == context, Rollout.state.in_(ACTIVE))
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return session.scalar(query)


def require_current(session: Session, context: str) -> Rollout:
    rollout = current(session, context)
    if rollout is None:
        registry.get_context(session, context)
        raise NotFound(f"No rollout is active in '{context}'.", "npllm rollout start VERSION begins one.")
    return rollout


def set_weight(session: Session, context: str, weight: float, *, actor: str, reason: str = "") -> Rollout:
    """Change the challenger's share now; its next assignments carry the new probability."""
    rollout = require_current(session, context)
    if rollout.mode == "blue-green":
        raise Conflict(
            "Blue-green has no shares: after its checks all but the held back get it.",
            "npllm rollout set-mode canary goes by shares.",
        )
    if not 0 < weight < 1:
        raise Conflict(f"A weight of {weight:.0%} leaves one arm without votes.", "Use promote or abort instead.")
    return apply(session, rollout, Change("set-weight", actor, reason, rollout.state, weight=weight))


def pause(session: Session, context: str, *, actor: str, reason: str = "") -> Rollout:
    """Stop advancing; the weight stays and the guards go on."""
    return apply(session, require_current(session, context), Change("pause", actor, reason, "paused"))


def resume(session: Session, context: str, *, actor: str, reason: str = "") -> Rollout | None:
    """Go on after a pause or a hold; a freeze (see bot/watch.py) ends too. None where only that was to be ended."""
    row = registry.get_context(session, context)
    thawed = row.frozen_reason is not None
    if thawed:
        before = {"state": "frozen", "reason": row.frozen_reason}
        row.frozen_reason, row.watched_since = None, now()
        note(session, context, "thaw", actor, reason, before, {"state": "thawed"})
    if thawed and current(session, context) is None:
        return None
    return apply(session, require_current(session, context), Change("resume", actor, reason, "running"))


def set_mode(session: Session, context: str, mode: Mode, *, actor: str, reason: str = "") -> Rollout:
    """Go on in another way. Stages already passed stay in the plan: what was seen in them stays evidence.

    `ab`: one stage of halves. `blue-green`: shadow and smoke checks, then all at once. `canary`: back to the plan's
    own steps, from the one that it left and at the share it had; a plan that began otherwise has none, and takes the
    ladder for its volume from here on. What an operator paused stays so.
    """
    rollout = require_current(session, context)
    plan = Plan.from_json(rollout.plan)
    now_at = plan.stages[rollout.stage]
    left = plan.left
    if plan.mode == "canary":
        left = (replace(now_at, weight=rollout.weight), *plan.stages[rollout.stage + 1 :])
    if mode == "ab":
        following: tuple[Stage, ...] = (replace(now_at, weight=0.5),)
    elif mode == "blue-green":
        following = (replace(now_at, weight=1.0),)
    else:
        ladder = PRESETS.get(plan.name, PRESETS["medium"]).stages
        following = left or tuple(stage for stage in ladder if stage.weight > rollout.weight) or ladder[-1:]
    plan = replace(plan, mode=mode, stages=plan.stages[: rollout.stage + 1] + following, left=left)
    stage = rollout.stage + 1
    weight = 0.0 if mode == "blue-green" else following[0].weight
    state = "paused" if rollout.state == "paused" else "running"
    change = Change("set-mode", actor, reason, state, "rollout.advanced", stage, weight, plan=plan)
    return apply(session, rollout, change)


def promote(session: Session, context: str, *, actor: str, full: bool = False, reason: str = "") -> Rollout:
    """On to the next stage by hand, or with `full` to all traffic at once (needs a reason; it is audited).

    As in Argo this is what ends a pause, too.
    """
    rollout = require_current(session, context)
    plan = Plan.from_json(rollout.plan)
    if full and not reason:
        raise Conflict("Promoting past the evidence needs a reason.", "Add --reason TEXT.")
    if not full and rollout.weight == 0:
        raise Conflict(
            "Its smoke and shadow checks are not over.", "Wait for them, or promote past them: --full --reason TEXT."
        )
    if full or rollout.stage + 1 == len(plan.stages):
        return crown(session, rollout, actor, reason or "promoted by hand", {})
    stage = rollout.stage + 1
    change = Change(
        "promote", actor, reason, "running", "rollout.advanced", stage=stage, weight=plan.stages[stage].weight
    )
    return apply(session, rollout, change)


def abort(session: Session, context: str, *, actor: str, reason: str = "") -> Rollout | None:
    """Stop the rollout and go to the stable version, in any state; None where there is nothing to stop (no error).

    Abort wins over a promotion that came a moment before it: within `TAKE_BACK` the champion of before serves again.
    Where nothing is active, who waits does not begin.
    """
    if (rollout := current(session, context, lock=True)) is not None:
        return _abort_active(session, rollout, actor, reason)
    registry.get_context(session, context)  # of another one it is not to be said that all is well
    promoted = _just_promoted(session, context)
    if promoted is None:
        return _withdraw(session, context, actor, reason)
    before = promoted.evidence.get("champion_before", "base")
    to = None if before == "base" else registry.by_name(session, before)
    _uncrown(session, context, to, "abort", actor, reason or "right after its promotion")
    return promoted


def abort_version(session: Session, name: str, *, actor: str, reason: str = "") -> Rollout:
    """Stop the rollout of this version and of no other, whether it is active or waits for its turn.

    Raises:
        Conflict: it has no rollout that could be stopped.
        NotFound: no such version.
    """
    version = registry.by_name(session, name)
    active = current(session, version.context, lock=True)
    stops = active or _just_promoted(session, version.context)
    if stops is None or stops.version_id != version.id:
        if (withdrawn := _withdraw(session, version.context, actor, reason, version.id)) is not None:
            return withdrawn
        stops = current(session, version.context)  # it may have begun meanwhile
    if stops is None or stops.version_id != version.id:
        raise Conflict(f"{name} has no rollout to abort.", "npllm rollout list shows what is active, and who waits.")
    return abort(session, version.context, actor=actor, reason=reason) or stops


def _withdraw(
    session: Session, context: str, actor: str, reason: str, version_id: uuid.UUID | None = None
) -> Rollout | None:
    """Who waits (only this version) does not begin. Nothing speaks against it: it may be started again."""
    _take_turns(session, context)
    next_one = waiting(session, context)
    if next_one is None or version_id not in (None, next_one.version_id):
        return None
    return _leave_line(session, next_one, "abort", actor, f"withdrawn by {actor}: {reason}".rstrip(": "))


def _abort_active(session: Session, rollout: Rollout, actor: str, reason: str) -> Rollout:
    quarantine(session, rollout.version_id, f"aborted by {actor}: {reason}".rstrip(": "))
    return apply(session, rollout, Change("abort", actor, reason, "aborted", "rollout.rolled_back", weight=0.0))


def _just_promoted(session: Session, context: str) -> Rollout | None:
    return session.scalar(
        select(Rollout)
        .join(Context, (Context.name == Rollout.context) & (Context.champion_id == Rollout.version_id))
        .where(Rollout.context == context, Rollout.state == "promoted", Rollout.ended_at > now() - TAKE_BACK)
        .order_by(Rollout.ended_at.desc())
        .limit(1)
    )


def undo(session: Session, context: str, *, actor: str, to: str | None = None, reason: str = "") -> str:
    """Back to an older version, or to the frozen base, at once; returns its name.

    Raises:
        NotFound: there is no earlier version to go to.
    """
    if (active := current(session, context, lock=True)) is not None:
        _abort_active(session, active, actor, reason or "undo")
    champion = registry.champion(session, context)
    target: AdapterVersion | None
    if to == "base":
        target = None
    elif to is not None:
        target = _servable(session, context, to if not to.isdigit() else f"{context}-v{to}")
    else:
        if champion is None and active is None:
            registry.get_context(session, context)
            raise NotFound(f"'{context}' is served by the frozen base already.", "Name one: --to-version N.")
        target = served_before(session, champion) if champion else None
    if target is champion:  # only the challenger was to be taken back, or nothing
        return target.name if target else "base"
    return _uncrown(session, context, target, "undo", actor, reason)


def served_before(session: Session, champion: AdapterVersion) -> AdapterVersion | None:
    """The latest champion before this one that may still serve; None is the frozen base.

    Not the version with the number before: that one may never have earned anybody's traffic.
    """
    promotions = session.scalars(
        select(Rollout)
        .where(Rollout.context == champion.context, Rollout.state == "promoted")
        .order_by(Rollout.ended_at.desc())
    ).all()
    since = next((n for n, one in enumerate(promotions) if one.version_id == champion.id), len(promotions))
    for promotion in promotions[since:]:
        before = promotion.evidence.get("champion_before", "base")
        if before == "base":
            return None
        version = registry.by_name(session, before)
        if version.state == "registered" and version.id != champion.id:
            return version
    return None


def _uncrown(session: Session, context: str, target: AdapterVersion | None, verb: str, actor: str, reason: str) -> str:
    """An older version (None: the frozen base) serves again; the champion that was is quarantined."""
    champion = registry.champion(session, context)
    registry.crown(session, context, target.id if target else None, expected=champion.id if champion else None)
    name = target.name if target else "base"
    before = {"champion": champion.name if champion else "base"}
    if champion is not None and champion.name != name:
        done = {"undo": "undone", "abort": "aborted"}[verb]
        quarantine(session, champion.id, f"{done} by {actor}: {reason}".rstrip(": "))
    session.get_one(Context, context).watched_since = now()
    note(session, context, verb, actor, reason, before, {"champion": name, "state": "undone"})
    events.record(
        session, "rollout.rolled_back", context=context, actor=actor, champion=name, verb=verb, reason=reason,
        version=before["champion"],
    )  # fmt: skip
    raise_alert(
        session, "rollout.rolled_back", context=context, state="undone", version=before["champion"], champion=name,
        actor=actor, reason=reason,
    )  # fmt: skip
    return name


def retry(session: Session, name: str, *, actor: str, reason: str = "") -> AdapterVersion:
    """Lift a quarantine, so that the version may be started again."""
    version = registry.by_name(session, name)
    if version.state != "quarantined":
        raise Conflict(f"{name} is {version.state}, not quarantined.", "npllm rollout start begins a rollout.")
    version.state = "registered"
    note(
        session,
        version.context,
        "retry",
        actor,
        reason,
        {"state": "quarantined"},
        {"state": "registered", "version": name},
    )
    return version


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
        total_elapsed=(now() - rollout.started_at).total_seconds(),
    )  # fmt: skip


def votes_of(session: Session, rollout: Rollout) -> Votes:
    """What a rollout has seen."""
    plan = Plan.from_json(rollout.plan)
    _, anchor = holdback_of(session, rollout, plan)
    return units.read_votes(
        session, rollout, anchor=anchor, blue_green=plan.mode == "blue-green", stages=len(plan.stages)
    )


def act(session: Session, rollout: Rollout, decision: Decision) -> Rollout:
    """Carry a decision out. Waiting writes the figures down, nothing else."""
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
        stage = rollout.stage + 1
        weight = plan.stages[stage].weight
        change = Change("advance", CONTROLLER, reason, "running", "rollout.advanced", stage, weight, evidence)
        return apply(session, rollout, change)
    expired = now() - rollout.started_at >= timedelta(hours=plan.expires_hours)
    if decision.action == "hold" and (rollout.state == "running" or (rollout.state == "paused" and expired)):
        return apply(session, rollout, Change("hold", CONTROLLER, reason, "held", "rollout.held", evidence=evidence))
    if decision.action == "resume" and _held_by(session, rollout) == CONTROLLER:  # not what a shift or a person held
        return apply(session, rollout, Change("resume", CONTROLLER, reason, "running", evidence=evidence))
    session.execute(
        update(Rollout).where(Rollout.id == rollout.id).values(evidence=evidence | {"reasons": decision.reasons})
    )
    return rollout


def roll_back(session: Session, rollout: Rollout, reason: str, evidence: dict[str, Any]) -> Rollout:
    """Weight 0, and the version is quarantined."""
    quarantine(session, rollout.version_id, reason)
    change = Change("rollback", CONTROLLER, reason, "rolled_back", "rollout.rolled_back", weight=0.0, evidence=evidence)
    return apply(session, rollout, change)


def _kept(rollout: Rollout) -> dict[str, Any]:
    """What of the last look is no figure of this one, and is kept."""
    return {name: rollout.evidence[name] for name in ("mix_checked_at",) if name in rollout.evidence}


def _held_by(session: Session, rollout: Rollout) -> str | None:
    """Who held it last."""
    held = select(RolloutEvent.actor).where(RolloutEvent.rollout_id == rollout.id, RolloutEvent.verb == "hold")
    return session.scalar(held.order_by(RolloutEvent.id.desc()).limit(1))
