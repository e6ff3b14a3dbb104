"""How a rollout begins: at once, or after it has waited in line for its turn (one may wait: the newest)."""

import secrets

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from bot import units
from bot.alerts import raise_alert
from bot.rollout_changes import audit, facts_of, leave_line
from bot.rollouts import CONTROLLER, current, servable, waiting
from core import events, registry
from core.errors import Conflict
from core.rollouts import Plan
from core.tables import AdapterVersion, Rollout


def start(
    session: Session, name: str, plan: Plan, *, actor: str, against: str | None = None, reason: str = "",
    queue: bool = False,
) -> Rollout:  # fmt: skip
    """Begin a rollout of a version against the champion (or against `base`, or another version by name).

    Args:
        queue: where one is active, wait until it has ended. Evidence is never carried over. Whoever waited before is
            superseded, also where it was about to begin.

    Raises:
        Conflict: the context has a rollout already, or one whose turn it is, or the version may not be served.
        NotFound: no such version.
    """
    version = registry.by_name(session, name)
    active = current(session, version.context, lock=True)
    session.refresh(version)  # who served or ran a moment ago may be quarantined by now
    if version.state != "registered":
        raise Conflict(f"{name} is {version.state}: {'; '.join(map(str, version.reasons)) or 'see its run'}.",
                       "npllm rollout retry revives a quarantined version.")  # fmt: skip
    control = _control(session, version, against)
    if active is not None and not queue:
        raise Conflict(
            f"A rollout is {active.state} in '{version.context}'.", "Promote or abort it first, or --queue this one."
        )
    if active is not None and active.version_id == version.id:
        raise Conflict(f"{name} is rolling out already.", "npllm rollout status shows it.")
    begins = active is None
    if (turn := waiting(session, version.context)) is not None:
        if turn.version_id != version.id and not queue:
            next_one = session.get_one(AdapterVersion, turn.version_id).name
            raise Conflict(
                f"It is the turn of {next_one} in '{version.context}': it waited in line, and begins within seconds.",
                f"--queue begins with this one in its place; npllm rollout abort {next_one} withdraws it.",
            )
        leave_line(session, turn, "supersede", CONTROLLER, f"{name} is newer")
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
    control = None if against == "base" else servable(session, version.context, against)
    if control is not None and control.id == version.id:
        raise Conflict(f"{version.name} cannot be compared with itself.", "Name another version, or base.")
    return control


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


def next_in_line(session: Session, context: str) -> None:
    """Nothing runs: who waits begins, against the champion of now."""
    if waiting(session, context) is None:
        return
    if current(session, context, lock=True) is not None or (rollout := waiting(session, context)) is None:
        return
    version = session.get_one(AdapterVersion, rollout.version_id)
    champion = registry.champion(session, context)
    if version.state != "registered" or (champion is not None and champion.id == version.id):
        reason = f"{version.name} is {version.state}" if version.state != "registered" else "it serves already"
        leave_line(session, rollout, "supersede", CONTROLLER, reason)
        return
    try:
        control = _control(session, version, rollout.evidence.get("against"))
    except Conflict as error:  # what it was to be compared with was taken back meanwhile: it would wait for ever
        leave_line(session, rollout, "supersede", CONTROLLER, error.message)
        raise_alert(
            session, "rollout.superseded", context=context, version=version.name, state="superseded", actor=CONTROLLER,
            reason=f"It does not begin: {error.message}",
        )  # fmt: skip
        return
    values = {
        "state": "running", "weight": _first_weight(Plan.from_json(rollout.plan)), "evidence": {},
        "against_id": control.id if control else None, "started_at": func.now(), "stage_started_at": func.now(),
        "row_version": rollout.row_version + 1,
        "slow_ms": units.slow_ms(session, context, control.name if control else "base"),
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
