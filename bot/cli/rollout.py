"""rollout: the operator's verbs, in Argo Rollouts' words."""

import time
from pathlib import Path
from typing import Any

import click
from sqlalchemy import select
from sqlalchemy.orm import Session

from bot import rollouts
from bot.cli.common import as_json_option, context_option, print_json, print_table, session, whoami
from bot.ops.figures import RolloutView, rollout_view
from core import registry
from core.errors import BadInput, NotFound
from core.rollouts import (
    ACTIVE,
    ERRORS_ROLLBACK,
    HARM_HOLD,
    HARM_ROLLBACK,
    PRESETS,
    PROMOTE,
    SAMPLE_RATIO_HOLD,
    Plan,
    read_plan,
)
from core.tables import Rollout, RolloutEvent

reason_option = click.option("--reason", default="", help="Kept in the audit trail.")

EXAMPLE_PLAN = """\
# A plan in Argo Rollouts' words. setWeight: percent of people; pause.duration: least time in the step (30s, 15m, 6h,
# 1d); minVotes: least votes of the challenger in the step; margin: percentage points it may at most be worse by.
name: careful
mode: canary
steps:
  - setWeight: 5
    minVotes: 30
    pause: {duration: 6h}
    margin: 15
  - setWeight: 25
    minVotes: 60
    pause: {duration: 6h}
    margin: 10
  - setWeight: 50
    minVotes: 120
    pause: {duration: 24h}
    margin: 5
"""


@click.group()
def rollout() -> None:
    """Start, steer and explain rollouts."""


@rollout.command()
@click.argument("version")
@click.option("--plan", "plan_file", type=click.Path(dir_okay=False, path_type=Path), help="A plan's YAML file.")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), default="small", show_default=True)
@click.option("--against", default=None, help="`base`, or a version; default: the champion.")
@reason_option
@as_json_option
def start(version: str, plan_file: Path | None, preset: str, against: str | None, reason: str, as_json: bool) -> None:
    """Begin: the challenger gets its first share of the people."""
    plan = _plan(plan_file) if plan_file else PRESETS[preset]
    with session() as db:
        started = rollouts.start(db, version, plan, actor=whoami(), against=against, reason=reason)
        _say(db, started.context, as_json)


@rollout.command()
@context_option
@click.option("--watch", is_flag=True, help="Print again every two seconds until it ends.")
@as_json_option
def status(context: str, watch: bool, as_json: bool) -> None:
    """Where it stands; exit status 1 unless it runs or was promoted."""
    while True:
        with session() as db:
            view = _view(db, context)
            _say(db, context, as_json)
        if not watch or view.rollout.state not in ACTIVE:
            break
        time.sleep(2.0)
    if view.rollout.state not in ("running", "promoted"):
        raise SystemExit(1)


@rollout.command("list")
@as_json_option
def list_(as_json: bool) -> None:
    """Active rollouts of all contexts."""
    with session() as db:
        active = db.scalars(select(Rollout).where(Rollout.state.in_(ACTIVE)).order_by(Rollout.context))
        found = [describe(_view(db, one.context)) for one in active]
    if as_json:
        print_json(found)
    else:
        rows = [(f["context"], f["version"], f["against"], f["state"], f"{f['weight']:.0%}") for f in found]
        print_table(("context", "version", "against", "state", "weight"), rows, empty="No rollout is active.")


@rollout.command()
@context_option
@as_json_option
def history(context: str, as_json: bool) -> None:
    """The audit trail, newest first."""
    with session() as db:
        query = select(RolloutEvent).where(RolloutEvent.context == context).order_by(RolloutEvent.id.desc()).limit(200)
        trail: list[dict[str, Any]] = [
            {"at": e.at.isoformat(), "rollout": e.rollout_id, "actor": e.actor, "verb": e.verb, "reason": e.reason,
             "before": e.before, "after": e.after}
            for e in db.scalars(query)
        ]  # fmt: skip
    if as_json:
        print_json(trail)
    else:
        rows = [(e["at"][:19], e["actor"], e["verb"], e["after"].get("state"), e["reason"]) for e in trail]
        print_table(("at", "who", "verb", "state", "reason"), rows)


@rollout.command("set-weight")
@click.argument("percent", type=click.FloatRange(0, 100))
@context_option
@reason_option
@as_json_option
def set_weight(percent: float, context: str, reason: str, as_json: bool) -> None:
    """The challenger's share, in percent, from now on."""
    with session() as db:
        rollouts.set_weight(db, context, percent / 100, actor=whoami(), reason=reason)
        _say(db, context, as_json)


@rollout.command()
@context_option
@reason_option
@as_json_option
def pause(context: str, reason: str, as_json: bool) -> None:
    """Stop advancing; the guards go on."""
    with session() as db:
        rollouts.pause(db, context, actor=whoami(), reason=reason)
        _say(db, context, as_json)


@rollout.command()
@context_option
@reason_option
@as_json_option
def resume(context: str, reason: str, as_json: bool) -> None:
    """Go on after a pause or a hold."""
    with session() as db:
        rollouts.resume(db, context, actor=whoami(), reason=reason)
        _say(db, context, as_json)


@rollout.command()
@context_option
@click.option("--full", is_flag=True, help="To all traffic at once, past the evidence; needs --reason.")
@reason_option
@as_json_option
def promote(context: str, full: bool, reason: str, as_json: bool) -> None:
    """On to the next step (after the last: to all traffic)."""
    with session() as db:
        rollouts.promote(db, context, actor=whoami(), full=full, reason=reason)
        _say(db, context, as_json)


@rollout.command()
@context_option
@reason_option
@as_json_option
def abort(context: str, reason: str, as_json: bool) -> None:
    """Back to the stable version, in any state. Without a rollout it does nothing, and says so."""
    with session() as db:
        stopped = rollouts.abort(db, context, actor=whoami(), reason=reason)
        if stopped is not None:
            _say(db, context, as_json)
            return
    facts = {"context": context, "state": "idle"}
    print_json(facts) if as_json else click.echo(f"No rollout is active in '{context}': nothing to abort.")


@rollout.command()
@context_option
@click.option("--to-version", "to", default=None, metavar="N|base", help="A version's number, or base.")
@reason_option
@as_json_option
def undo(context: str, to: str | None, reason: str, as_json: bool) -> None:
    """Serve an older version again, at once (default: the one before); the undone one is quarantined."""
    with session() as db:
        name = rollouts.undo(db, context, actor=whoami(), to=to, reason=reason)
    facts = {"context": context, "champion": name}
    print_json(facts) if as_json else click.echo(f"'{context}' is served by {name} now.")


@rollout.command()
@click.argument("version")
@reason_option
def retry(version: str, reason: str) -> None:
    """Lift a version's quarantine, so that it may be started again."""
    with session() as db:
        rollouts.retry(db, version, actor=whoami(), reason=reason)
    click.echo(f"{version} may be started again: npllm rollout start {version}")


@rollout.command()
@context_option
@as_json_option
def explain(context: str, as_json: bool) -> None:
    """Why it stands where it stands, in sentences and numbers, and what would change it."""
    with session() as db:
        view = _view(db, context)
        lines = explanation(view)
        facts = describe(view)
    print_json({**facts, "explanation": lines}) if as_json else click.echo("\n".join(lines))


@rollout.command()
@click.argument("plan_file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option("--example", is_flag=True, help="Print a plan to start from.")
def lint(plan_file: Path | None, example: bool) -> None:
    """Check a plan's file."""
    if example or plan_file is None:
        click.echo(EXAMPLE_PLAN, nl=False)
        return
    plan = _plan(plan_file)
    steps = " → ".join(f"{stage.weight:.0%}" for stage in plan.stages)
    click.echo(f"{plan_file}: plan '{plan.name}' is fine: {steps} → 100%")


def explanation(view: RolloutView) -> list[str]:
    """Sentences a person understands."""
    r, f = view.rollout, view.decision.figures
    new, old, margin = f["challenger"], f["control"], view.plan.stages[r.stage].margin
    lines = [
        f"{view.version} against {view.against} in '{r.context}': {r.state}, step {r.stage + 1} of"
        f" {len(view.plan.stages)}, weight {r.weight:.0%}, plan '{view.plan.name}'.",
        f"Votes: {view.version} {new['votes']} ({_rate(new)}), {view.against} {old['votes']} ({_rate(old)}).",
        f"Evidence that it is worse: {f['harm']:.2f} (highest {f['harm_highest']:.2f}; held at {HARM_HOLD:.0f},"
        f" rolled back at {HARM_ROLLBACK:.0f}).",
        f"Evidence that it is not worse by {margin:.0%}: {f['no_worse']:.2f} (needed {PROMOTE:.0f}).",
        f"Split of people against plan: {f['sample_ratio']:.2f} (held at {SAMPLE_RATIO_HOLD:.0f})."
        f" Failing replies: {f['errors']:.2f} (rolled back at {ERRORS_ROLLBACK:.0f}).",
    ]
    if r.state in ACTIVE:
        lines.append("Now: " + ("; ".join(view.decision.reasons) or "nothing is missing") + ".")
    elif r.reason:
        lines.append(f"It ended: {r.reason}")
    return lines


def describe(view: RolloutView) -> dict[str, Any]:
    r = view.rollout
    return {
        "id": str(r.id),
        "context": r.context,
        "version": view.version,
        "against": view.against,
        "state": r.state,
        "mode": r.mode,
        "plan": view.plan.name,
        "stage": r.stage,
        "stages": len(view.plan.stages),
        "weight": r.weight,
        "reason": r.reason,
        "evidence": view.decision.figures,
        "waiting_for": view.decision.reasons if r.state in ACTIVE else [],
        "started_at": r.started_at.isoformat(),
        "ended_at": r.ended_at.isoformat() if r.ended_at else None,
    }


def _say(db: Session, context: str, as_json: bool) -> None:
    db.flush()
    view = _view(db, context)
    if as_json:
        champion = registry.champion(db, context)
        print_json(describe(view) | {"champion": champion.name if champion else "base"})
    else:
        click.echo("\n".join(explanation(view)))


def _view(db: Session, context: str) -> RolloutView:
    view = rollout_view(db, context)
    if view is None:
        raise NotFound(f"'{context}' has had no rollout yet.", "npllm rollout start VERSION begins one.")
    return view


def _plan(path: Path) -> Plan:
    try:
        return read_plan(path.read_text())
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read: {error.strerror}.", "npllm rollout lint --example prints one."
        ) from None


def _rate(interval: dict[str, Any]) -> str:
    if not interval["votes"]:
        return "no data"
    return f"{interval['rate']:.0%}, {interval['low']:.0%}–{interval['high']:.0%}"
