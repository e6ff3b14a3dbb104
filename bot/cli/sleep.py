"""sleep."""

import json
import os
import subprocess
import sys
import time
import uuid
from typing import Any

import click
from sqlalchemy import select

from bot import nights
from bot.cli.common import as_json_option, context_option, print_json, print_table, session, settings, whoami
from core import jobs, registry
from core.db import need_database
from core.errors import NotFound, Unavailable
from core.schedule import STRATEGIES
from core.tables import ConsolidationRun, TrainingExample
from integrations.redis.queue import connect, enqueue, need_redis

OVER = ("registered", "refused", "skipped", "failed")


@click.group()
def sleep() -> None:
    """Nights: ask for one, follow it, look back."""


@sleep.command()
@context_option
@click.option("--minimum", type=click.IntRange(1), default=None, help="Fewest new examples (SLEEP_MINIMUM_EXAMPLES).")
@click.option("--strategy", type=click.Choice(STRATEGIES), default=None, help="The way to sleep (SLEEP_STRATEGY).")
@click.option("--wait", is_flag=True, help="Follow it to its end; exit status 0 only if a version was registered.")
@click.option("--dry-run", is_flag=True, help="Show what would be learned; nothing is written.")
@as_json_option
def now(
    context: str, minimum: int | None, strategy: str | None, wait: bool, dry_run: bool, as_json: bool
) -> None:  # fmt: skip
    """Sleep at once, whatever the hour."""
    if dry_run:
        rehearse(context, as_json)
        return
    ask(context, wait, as_json, minimum=minimum, strategy=strategy)


@sleep.command()
@context_option
@click.option("--wait", is_flag=True, help="Follow it to its end; exit status 0 only if a version was registered.")
@as_json_option
def rebuild(context: str, wait: bool, as_json: bool) -> None:
    """Learn everything that is permitted again, from the base: after an erasure, or for another BASE_MODEL."""
    ask(context, wait, as_json, minimum=1, strategy=nights.DEEP, rebuild=True)


def rehearse(context: str, as_json: bool) -> None:
    """What a night would learn, found out by `python -m learning` in a process of its own."""
    with session() as db:
        registry.get_context(db, context)
    done = subprocess.run(
        [sys.executable, "-m", "learning", "--context", context], capture_output=True, text=True, check=False,
        env={**os.environ, "DATABASE_URL": need_database(settings())},
    )  # fmt: skip
    if done.returncode != 0:
        raise Unavailable("The rehearsal failed.", done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if as_json:
        print_json(found)
        return
    print_table(("step of the funnel", "answers"), in_order(found["funnel"]), empty="Nothing is new.")
    print_table(("topic", "examples"), list(found["topics"].items()), empty="")
    for example in found["examples"]:
        click.echo(f"\n[{example['source']}, {example['split']}] {example['question']}\n  → {example['answer']}")


def in_order(funnel: dict[str, int]) -> list[tuple[str, int]]:
    """From what was considered to what is left of it; the ledger (jsonb) keeps no order."""
    places = {"considered": 0, "learned": 2, "held out": 3}
    return sorted(funnel.items(), key=lambda step: (places.get(step[0], 1), step[0]))


def ask(context: str, wait: bool, as_json: bool, **options: Any) -> None:
    """Put one night on the queue, and follow it where that is wanted."""
    with session() as db:
        run_id = nights.request_now(db, context, settings(), requested_by=whoami(), **options)
    enqueue(connect(need_redis(settings())), jobs.CONSOLIDATE, str(run_id))
    if not wait:
        print_json({"run": str(run_id)}) if as_json else click.echo(f"asked for: {run_id} (npllm sleep status)")
        return
    facts = follow(run_id, quiet=as_json)
    if as_json:
        print_json(facts)
    if facts["state"] != "registered":
        raise SystemExit(2)


@sleep.command()
@context_option
@as_json_option
def status(context: str, as_json: bool) -> None:
    """The night that waits or runs, else the last one; and what the next one waits for."""
    with session() as db:
        outlook = nights.outlook(db, registry.get_context(db, context), settings())
        run = db.scalar(
            select(ConsolidationRun)
            .where(ConsolidationRun.context == context)
            .order_by(ConsolidationRun.created_at.desc())
            .limit(1)
        )
        facts = describe(run) if run else None
    if as_json:
        print_json({**(facts or {"context": context, "state": "none"}), "due": outlook.due, "waits_for": outlook.why})
        return
    click.echo(sentence(facts) if facts else f"'{context}' has not slept yet.")
    click.echo("next: " + " ".join(outlook.why))


@sleep.command()
@click.argument("run_id", required=False)
@context_option
@as_json_option
def history(run_id: str | None, context: str, as_json: bool) -> None:
    """Earlier nights; with an id, one night's funnel: what was considered, and why it was not learned."""
    with session() as db:
        if run_id is None:
            registry.get_context(db, context)
            query = select(ConsolidationRun).where(ConsolidationRun.context == context)
            runs = [describe(run) for run in db.scalars(query.order_by(ConsolidationRun.created_at.desc()).limit(50))]
        else:
            run = db.get(ConsolidationRun, _uuid(run_id))
            if run is None:
                raise NotFound(f"There is no night '{run_id}'.", "npllm sleep history lists them.")
            runs = [describe(run)]
            examples = db.scalars(select(TrainingExample).where(TrainingExample.run_id == run.id)).all()
            runs[0]["examples"] = [{"id": str(e.id), "split": e.split, "dropped": e.dropped} for e in examples]
    if as_json:
        print_json(runs if run_id is None else runs[0])
    elif run_id is None:
        rows = [
            (
                r["id"],
                r["night"],
                r["state"],
                r["funnel"].get("learned"),
                r["progress"].get("version"),
                "; ".join(r["reasons"]),
            )
            for r in runs
        ]
        print_table(("id", "night", "state", "learned", "version", "reasons"), rows, empty="No night yet.")
    else:
        click.echo(sentence(runs[0]))
        print_table(("step of the funnel", "answers"), in_order(runs[0]["funnel"]))


def follow(run_id: uuid.UUID, *, quiet: bool = False, limit: float = 6 * 3600) -> dict:
    """Wait for a night's end, telling each new stage.

    Raises:
        Unavailable: it did not end in time.
    """
    told, end = "", time.monotonic() + limit
    while time.monotonic() < end:
        with session() as db:
            facts = describe(db.get_one(ConsolidationRun, run_id))
        line = sentence(facts)
        if line != told and not quiet:
            click.echo(line)
            told = line
        if facts["state"] in OVER:
            return facts
        time.sleep(1.0)
    raise Unavailable(f"Night {run_id} is still going after {limit:.0f} s.", "npllm sleep status follows it.")


def describe(run: ConsolidationRun) -> dict:
    return {
        "id": str(run.id),
        "context": run.context,
        "night": str(run.night),
        "state": run.state,
        "stage": run.stage,
        "strategy": run.strategy,
        "progress": run.progress,
        "funnel": run.funnel,
        "reasons": run.reasons,
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "ended_at": run.ended_at.isoformat() if run.ended_at else None,
    }


def sentence(facts: dict) -> str:
    """One line a person understands."""
    p = facts["progress"]
    line = f"{facts['context']} {facts['night']}: {facts['state']}"
    if facts["state"] == "running":
        line += f", {p.get('stage', facts['stage'])}"
        if p.get("step") and p.get("stage", "train") == "train":
            line += f" step {p['step']}/{p['steps']}, loss {p['loss']}, {p.get('seconds_left', 0):.0f} s left"
    if p.get("retention") is not None and facts["state"] in OVER:
        line += f", gain {p['gain']:+.3f} nats, retention {p['retention']:.1%}"
    if p.get("stopped"):
        line += f". {p['stopped']}"
    if p.get("version"):
        line += f", {p['version']}"
    return line + (f" ({'; '.join(facts['reasons'])})" if facts["reasons"] else "")


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise NotFound(f"There is no night '{text}'.", "npllm sleep history lists them.") from None
