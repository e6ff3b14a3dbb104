"""The hand on the lever: what an operator does to a rollout, and to a champion. How one begins is in
`bot/rollout_line.py`, what the evidence does to it in `bot/rollout_look.py`.

Every change takes the context's turn (`take_turns`) and then looks: of two controllers or two operators the second
sees what the first did. It is a compare-and-set on `row_version` with its audit row in the same transaction, so no
state exists without a row that says who made it and why. Abort always wins.
"""

import uuid
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from bot.alerts import raise_alert
from bot.rollout_changes import Change, apply, crown, leave_line, next_weight, note, quarantine, take_turns
from core import events, registry
from core.errors import Conflict, NotFound
from core.rollouts import ACTIVE, PRESETS, Mode, Plan, Stage
from core.tables import AdapterVersion, Context, Rollout, now

CONTROLLER = "controller"
TAKE_BACK = timedelta(minutes=10)  # how long after a promotion `abort` still means it


def current(session: Session, context: str, *, lock: bool = False) -> Rollout | None:
    """The context's active rollout.

    Args:
        lock: before it is changed: until the transaction's end none begins, changes or ends but by it.
    """
    query = select(Rollout).where(Rollout.context == context, Rollout.state.in_(ACTIVE))
    if lock:
        take_turns(session, context)
        query = query.execution_options(populate_existing=True)
    return session.scalar(query)


def require_current(session: Session, context: str) -> Rollout:
    """The active rollout, about to be changed.

    Raises:
        NotFound: there is none.
    """
    rollout = current(session, context, lock=True)
    if rollout is None:
        registry.get_context(session, context)
        raise NotFound(f"No rollout is active in '{context}'.", "npllm rollout start VERSION begins one.")
    return rollout


def waiting(session: Session, context: str) -> Rollout | None:
    """The rollout that takes its turn next."""
    return session.scalar(select(Rollout).where(Rollout.context == context, Rollout.state == "waiting"))


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
    take_turns(session, context)
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
    if mode == rollout.mode:
        return rollout  # its step does not begin anew: that would cost it the step's votes, or blue-green its traffic
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
    stage, weight = rollout.stage + 1, next_weight(rollout, plan)
    return apply(session, rollout, Change("promote", actor, reason, "running", "rollout.advanced", stage, weight))


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
        promoted = _just_promoted(session, version.context)
        if promoted is not None and promoted.version_id == version.id:
            raise Conflict(
                f"{name} was promoted, and the next rollout is compared with it.",
                "npllm rollout undo ends that rollout, and a second one takes this back.",
            )
        raise Conflict(f"{name} has no rollout to abort.", "npllm rollout list shows what is active, and who waits.")
    return abort(session, version.context, actor=actor, reason=reason) or stops


def _withdraw(
    session: Session, context: str, actor: str, reason: str, version_id: uuid.UUID | None = None
) -> Rollout | None:
    """Who waits (only this version) does not begin. Nothing speaks against it: it may be started again."""
    next_one = waiting(session, context)
    if next_one is None or version_id not in (None, next_one.version_id):
        return None
    return leave_line(session, next_one, "abort", actor, f"withdrawn by {actor}: {reason}".rstrip(": "))


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
    """One step back, at once; returns the name of who serves now.

    While a rollout runs that step is the rollout itself, as in Argo: it ends as `abort` ends it, and the champion
    stays. Else it is the champion's. To a version that is named, or to the frozen base, it is both.

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
        target = servable(session, context, to if not to.isdigit() else f"{context}-v{to}")
    else:
        if active is not None:
            target = champion
        elif champion is None:
            registry.get_context(session, context)
            raise NotFound(f"'{context}' is served by the frozen base already.", "Name one: --to-version N.")
        else:
            target = served_before(session, champion)
    if target is champion:
        return target.name if target else "base"
    return _uncrown(session, context, target, "undo", actor, reason)


def servable(session: Session, context: str, name: str) -> AdapterVersion:
    """A version that may serve a context: its own (what employees may read is not for customers), and registered."""
    version = registry.by_name(session, name)
    if version.context != context:
        raise Conflict(f"{name} is a version of '{version.context}', not of '{context}'.", "Name one of its own.")
    if version.state == "quarantined":
        raise Conflict(f"{version.name} is quarantined.", "npllm rollout retry revives it.")
    if version.state != "registered":
        raise Conflict(f"{version.name} is {version.state} and is not served.", "npllm adapters show says why.")
    return version


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
    take_turns(session, version.context)
    session.refresh(version)  # an erasure may have retired it meanwhile
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
