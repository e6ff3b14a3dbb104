"""The operator's verbs, in Argo Rollouts' words: on the command line and behind Slack's /rollout, the same code.

Each verb returns an `Answer`: a text for people, data for machines, and whether all is well. `run` takes a line of
words and never raises for what an operator may do wrong; it says so.
"""

import shlex
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from bot import outcomes, people, rollout_line, rollout_look, rollouts
from bot.ops.figures import RolloutView, rollout_view, view_of
from bot.rollout_words import describe, explanation
from bot.watch import votes_per_day
from core import registry
from core.db import transaction
from core.errors import BadInput, NotAllowed, NotFound, NpllmError
from core.explain import sentence
from core.plans import Audience
from core.rollouts import ACTIVE, PRESETS, Mode, Plan, preset_for, read_plan
from core.tables import AdapterVersion, Rollout, RolloutEvent

OPERATORS = frozenset({"ops", "admin"})  # may change a rollout
READERS = OPERATORS | {"viewer", "reviewer", "privacy"}  # may look: no verb shows what anybody said
NEXT_STEP = "/rollout help lists the verbs."
HEALTHY = ("running", "promoted")
EVERY = 2.0  # seconds between two looks of --watch

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


@dataclass(frozen=True)
class Answer:
    """What a verb says; `ok` False is a non-zero exit."""

    text: str
    data: Any
    ok: bool = True
    as_json: bool = False


@dataclass(frozen=True)
class Door:
    """Who asks, and through which door.

    Attributes:
        database: gives the engine; asked when a verb first needs it.
        local: on the command line, where files may be read and a look may last.
        show: prints what comes in between, for `status --watch`.
    """

    database: Callable[[], Engine]
    actor: str
    roles: frozenset[str]
    local: bool = False
    show: Callable[[Answer], None] = lambda answer: None

    @contextmanager
    def session(self, roles: frozenset[str] = OPERATORS) -> Iterator[Session]:
        """A transaction for somebody who may.

        Raises:
            NotAllowed: none of the actor's roles is among `roles`.
        """
        if not self.roles & roles:
            raise NotAllowed(
                f"{self.actor} may not do this: it takes the role {' or '.join(sorted(roles))}.",
                "Ask an operator, or an admin for the role.",
            )
        with transaction(self.database()) as opened:
            yield opened


def run(engine: Engine, words: str | Sequence[str], *, actor: str, roles: Collection[str]) -> str:
    """One line of words from Slack ("status", "promote --full --reason ...") -> what to say to it."""
    door = Door(lambda: engine, actor, frozenset(roles))
    try:
        split = shlex.split(words) if isinstance(words, str) else list(words)
        if not split or split[0] == "help" or {"-h", "--help"} & set(split):
            return "\n".join(f"{name}: {verb.help}" for name, verb in rollout.commands.items())
        answer = rollout.main(split, prog_name="/rollout", standalone_mode=False, obj=door)
    except NpllmError as error:
        return f"{error.message} {error.next_step}".strip()
    except click.ClickException as error:
        return f"{error.format_message()} {NEXT_STEP}"
    except ValueError as error:  # an open quotation mark
        return f"{error}. {NEXT_STEP}"
    return str(answer.text)


context_option = click.option("--context", default="customers", show_default=True, help="Which context.")
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print data for machines.")
reason_option = click.option("--reason", default="", help="Kept in the audit trail.")


@click.group()
def rollout() -> None:
    """Start, steer and explain rollouts."""


@rollout.command()
@click.argument("version")
@click.option("--plan", "plan_file", type=click.Path(dir_okay=False, path_type=Path), help="A plan's YAML file.")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="Default: by the rated answers a day.")
@click.option("--against", default=None, help="`base`, or a version; default: the champion.")
@click.option("--queue", is_flag=True, help="Where one is active: wait for its end (in place of whoever waits).")
@reason_option
@as_json_option
@click.pass_obj
def start(
    door: Door, version: str, plan_file: Path | None, preset: str | None, against: str | None, queue: bool,
    reason: str, as_json: bool,
) -> Answer:  # fmt: skip
    """Begin: the challenger gets its first share of the people (blue-green: after its checks, all of them)."""
    with door.session() as db:
        plan = _plan(door, plan_file) if plan_file else _preset(db, version, preset)
        started = rollout_line.start(db, version, plan, actor=door.actor, against=against, reason=reason, queue=queue)
        if started.state == "waiting":
            text = f"{version} waits until the rollout of '{started.context}' ends."
            return Answer(text, {"id": str(started.id), "version": version, "state": "waiting"}, as_json=as_json)
        return _say(db, started.context, as_json)


@rollout.command()
@context_option
@click.option("--watch", is_flag=True, help="Look again every two seconds until it ends.")
@click.option("--timeout", type=click.FloatRange(min=0), default=None, help="With --watch: at most so many seconds.")
@as_json_option
@click.pass_obj
def status(door: Door, context: str, watch: bool, timeout: float | None, as_json: bool) -> Answer:
    """Where it stands; exit status 1 unless it runs or was promoted (with --watch: unless it was promoted)."""
    if watch and not door.local:
        raise BadInput("Watching needs the command line.", "npllm rollout status --watch")
    end = time.monotonic() + timeout if timeout is not None else float("inf")
    while True:
        with door.session(READERS) as db:
            view = _view(db, context)
            answer = _say(db, context, as_json)
        state = view.rollout.state
        if not watch or state not in ACTIVE:
            well = state in HEALTHY and view.taken_back is None
            return Answer(answer.text, answer.data, well, as_json)
        if time.monotonic() + EVERY > end:
            return Answer(f"{answer.text}\nIt did not end within {timeout:g} s.", answer.data, False, as_json)
        door.show(answer)
        time.sleep(EVERY)


@rollout.command("list")
@as_json_option
@click.pass_obj
def list_(door: Door, as_json: bool) -> Answer:
    """Active rollouts of all contexts, and who waits for its turn."""
    with door.session(READERS) as db:
        standing = (*ACTIVE, "waiting")
        active = db.scalars(
            select(Rollout).where(Rollout.state.in_(standing)).order_by(Rollout.context, Rollout.state == "waiting")
        )
        found = [describe(view_of(db, one)) for one in active]
    lines = [f"{f['context']}: {f['version']} against {f['against']}, {f['state']}, {f['weight']:.0%}" for f in found]
    return Answer("\n".join(lines) or "No rollout is active.", found, as_json=as_json)


@rollout.command()
@context_option
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@as_json_option
@click.pass_obj
def history(door: Door, context: str, limit: int, as_json: bool) -> Answer:
    """The audit trail, newest first."""
    with door.session(READERS) as db:
        registry.get_context(db, context)
        trail = db.execute(
            select(RolloutEvent, AdapterVersion.name)
            .outerjoin(Rollout, Rollout.id == RolloutEvent.rollout_id)
            .outerjoin(AdapterVersion, AdapterVersion.id == Rollout.version_id)
            .where(RolloutEvent.context == context)
            .order_by(RolloutEvent.id.desc())
            .limit(limit)
        )
        found: list[dict[str, Any]] = [
            {"at": e.at.isoformat(), "rollout": e.rollout_id, "actor": e.actor, "verb": e.verb, "reason": e.reason,
             "version": version or e.after.get("version") or e.before.get("champion"), "before": e.before,
             "after": e.after}
            for e, version in trail
        ]  # fmt: skip
    lines = [
        f"{e['at'][:19]}  {e['actor']}  {' '.join(filter(None, (e['verb'], e['version'])))} → {_became(e['after'])}"
        f"  {e['reason']}".rstrip()
        for e in found
    ]
    return Answer("\n".join(lines) or "Nothing yet.", found, as_json=as_json)


@rollout.command("set-weight")
@click.argument("percent", type=click.FloatRange(0, 100))
@context_option
@reason_option
@as_json_option
@click.pass_obj
def set_weight(door: Door, percent: float, context: str, reason: str, as_json: bool) -> Answer:
    """The challenger's share, in percent, from now on."""
    with door.session() as db:
        rollouts.set_weight(db, context, percent / 100, actor=door.actor, reason=reason)
        return _say(db, context, as_json)


@rollout.command("set-mode")
@click.argument("mode", type=click.Choice(get_args(Mode)))
@context_option
@reason_option
@as_json_option
@click.pass_obj
def set_mode(door: Door, mode: Mode, context: str, reason: str, as_json: bool) -> Answer:
    """Go on as canary, ab (one stage of halves) or blue-green (checks, then all at once); a pause stays."""
    with door.session() as db:
        rollouts.set_mode(db, context, mode, actor=door.actor, reason=reason)
        return _say(db, context, as_json)


@rollout.command()
@context_option
@reason_option
@as_json_option
@click.pass_obj
def pause(door: Door, context: str, reason: str, as_json: bool) -> Answer:
    """Stop advancing; the guards go on."""
    with door.session() as db:
        rollouts.pause(db, context, actor=door.actor, reason=reason)
        return _say(db, context, as_json)


@rollout.command()
@context_option
@reason_option
@as_json_option
@click.pass_obj
def resume(door: Door, context: str, reason: str, as_json: bool) -> Answer:
    """Go on after a pause or a hold; ends a freeze of promotions and nights too."""
    with door.session() as db:
        if rollouts.resume(db, context, actor=door.actor, reason=reason) is not None:
            return _say(db, context, as_json)
    text = f"'{context}' is no longer frozen: promotions and nights go on."
    return Answer(text, {"context": context, "state": "thawed"}, as_json=as_json)


@rollout.command()
@context_option
@click.option("--full", is_flag=True, help="To all traffic at once, past the evidence; needs --reason.")
@reason_option
@as_json_option
@click.pass_obj
def promote(door: Door, context: str, full: bool, reason: str, as_json: bool) -> Answer:
    """On to the next step (after the last: to all traffic); ends a pause or a hold."""
    with door.session() as db:
        rollouts.promote(db, context, actor=door.actor, full=full, reason=reason)
        return _say(db, context, as_json)


@rollout.command()
@click.argument("version", required=False)
@context_option
@reason_option
@as_json_option
@click.pass_obj
def abort(door: Door, version: str | None, context: str, reason: str, as_json: bool) -> Answer:
    """Back to the stable version, in any state; with VERSION, who waits for its turn is withdrawn alike.

    Without a rollout it does nothing, and says so.
    """
    with door.session() as db:
        if version is not None:
            stopped: Rollout | None = rollouts.abort_version(db, version, actor=door.actor, reason=reason)
        else:
            stopped = rollouts.abort(db, context, actor=door.actor, reason=reason)
        if stopped is not None and stopped.state != "superseded":
            return _say(db, stopped.context, as_json)
        if stopped is not None:
            name = db.get_one(AdapterVersion, stopped.version_id).name
            gone = {"id": str(stopped.id), "context": stopped.context, "version": name, "state": stopped.state}
            return Answer(f"{name} no longer waits; it may be started again.", gone, as_json=as_json)
    idle = f"No rollout is active in '{context}': nothing to abort."
    return Answer(idle, {"context": context, "state": "idle"}, as_json=as_json)


@rollout.command()
@context_option
@click.option("--to-version", "to", default=None, metavar="N|base", help="A version's number, or base.")
@reason_option
@as_json_option
@click.pass_obj
def undo(door: Door, context: str, to: str | None, reason: str, as_json: bool) -> Answer:
    """One step back, at once: ends the rollout that runs, else the champion before serves again.

    With --to-version both, and that one serves. What is undone is quarantined.
    """
    with door.session() as db:
        active = rollouts.current(db, context, lock=True)
        name = rollouts.undo(db, context, actor=door.actor, to=to, reason=reason)
        text = f"'{context}' is served by {name} now."
        if active is not None and to is None:
            version = db.get_one(AdapterVersion, active.version_id).name
            text = f"The rollout of {version} is aborted; {name} stays and serves '{context}'."
            if name != "base":
                text += f" A second undo takes {name} back."
    return Answer(text, {"context": context, "champion": name}, as_json=as_json)


@rollout.command()
@click.argument("version")
@reason_option
@as_json_option
@click.pass_obj
def retry(door: Door, version: str, reason: str, as_json: bool) -> Answer:
    """Lift a version's quarantine, so that it may be started again."""
    with door.session() as db:
        state = rollouts.retry(db, version, actor=door.actor, reason=reason).state
    text = f"{version} may be started again: npllm rollout start {version}"
    return Answer(text, {"version": version, "state": state}, as_json=as_json)


@rollout.command()
@context_option
@as_json_option
@click.pass_obj
def explain(door: Door, context: str, as_json: bool) -> Answer:
    """Why it stands where it stands, in sentences and numbers, and what would change it."""
    with door.session(READERS) as db:
        view = _view(db, context)
        facts = rollout_look.explain(db, view.rollout) if view.rollout.state in ACTIVE else []
        lines = [*explanation(view), *(sentence(fact, "en") for fact in facts)]
        data = {**describe(view), "explanation": lines, "facts": [vars(fact) for fact in facts]}
        return Answer("\n".join(lines), data, as_json=as_json)


@rollout.command()
@click.argument("conversation", type=click.UUID)
@click.argument("kind")
@click.option(
    "--value", type=float, default=1.0, show_default=True, help="1 it came about, 0 it did not; or an amount."
)
@as_json_option
@click.pass_obj
def outcome(door: Door, conversation: uuid.UUID, kind: str, value: float, as_json: bool) -> Answer:
    """What came of a conversation: resolution, conversion, or what the business counts. Said again, it replaces."""
    with door.session() as db:
        data = outcomes.record(db, conversation, kind, value, source=door.actor)
    return Answer(f"{kind} of {conversation}: {value:g}, counted for {data['version']}.", data, as_json=as_json)


@rollout.command()
@click.argument("person")
@click.argument("circle", type=click.Choice(get_args(Audience)))
@as_json_option
@click.pass_obj
def audience(door: Door, person: str, circle: Audience, as_json: bool) -> Answer:
    """Put a person (a phone, or an identifier of ours) into a circle: internal, beta or all."""
    with door.session() as db:
        people.set_audience(db, person, circle)
    return Answer(f"{person} is in the circle '{circle}'.", {"person": person, "audience": circle}, as_json=as_json)


@rollout.command()
@click.argument("plan_file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option("--example", is_flag=True, help="Print a plan to start from.")
@as_json_option
@click.pass_obj
def lint(door: Door, plan_file: Path | None, example: bool, as_json: bool) -> Answer:
    """Check a plan's file."""
    if plan_file is None and not example:
        raise click.UsageError("Which plan? Name its file, or have one printed to start from: --example.")
    if example or plan_file is None:
        return Answer(EXAMPLE_PLAN.rstrip("\n"), {"example": EXAMPLE_PLAN}, as_json=as_json)
    plan = _plan(door, plan_file)
    steps = " → ".join(f"{stage.weight:.0%}" for stage in plan.stages)
    text = f"{plan_file}: plan '{plan.name}' is fine: {steps} → 100%"
    return Answer(text, {"file": str(plan_file), "plan": plan.to_json()}, as_json=as_json)


def _say(db: Session, context: str, as_json: bool) -> Answer:
    db.flush()
    view = _view(db, context)
    champion = registry.champion(db, context)
    data = describe(view) | {"champion": champion.name if champion else "base"}
    return Answer("\n".join(explanation(view)), data, as_json=as_json)


def _became(after: dict[str, Any]) -> str:
    """What a row of the audit trail led to: who serves, or a rollout's state and weight."""
    weight = f", {after['weight']:.0%}" if "weight" in after else ""
    return str(after.get("champion") or after.get("state", "")) + weight


def _view(db: Session, context: str) -> RolloutView:
    view = rollout_view(db, context)
    if view is None:
        registry.get_context(db, context)
        raise NotFound(f"'{context}' has had no rollout yet.", "npllm rollout start VERSION begins one.")
    return view


def _preset(db: Session, version: str, name: str | None) -> Plan:
    if name is not None:
        return PRESETS[name]
    return preset_for(votes_per_day(db, registry.by_name(db, version).context))


def _plan(door: Door, path: Path) -> Plan:
    if not door.local:
        raise BadInput("A plan's file can be read on the command line only.", "Name a --preset instead.")
    try:
        return read_plan(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.", "npllm rollout lint --example prints one.") from None
