"""bench."""

from pathlib import Path
from typing import Any

import click

from bot.cli.common import as_json_option, print_json, print_table, settings


@click.group()
def bench() -> None:
    """Measure this machine and this code; --json prints one object."""
    from bot.up.run import end_as_with_ctrl_c

    end_as_with_ctrl_c()


@bench.command()
@click.option("--requests", type=click.IntRange(100), default=3_000, show_default=True, help="Per side and round.")
@click.option("--connections", type=click.IntRange(1, 256), default=32, show_default=True)
@as_json_option
def ingest(requests: int, connections: int, as_json: bool) -> None:
    """Webhooks stored and acknowledged a second, as a ratio to a bare endpoint; at 1 and 2 web processes."""
    from bot.bench import ingest as it

    found = it.run(requests=requests, connections=connections)
    if as_json:
        print_json(found)
        return
    for count, figures in found["by_processes"].items():
        click.echo(
            f"{count} web process(es): {figures['requests_per_s']:.0f}/s, {figures['ratio']:.2f} of the bare endpoint's"
            f" {figures['bare_requests_per_s']:.0f}/s; p50 {figures['p50_ms']} ms, p95 {figures['p95_ms']} ms,"
            f" p99 {figures['p99_ms']} ms"
        )


@bench.command()
@click.option("--concurrency", type=click.IntRange(1, 200), default=None, help="Default: 1, then 20.")
@click.option("--replies", type=click.IntRange(1), default=60, show_default=True)
@as_json_option
def reply(concurrency: int | None, replies: int, as_json: bool) -> None:
    """Time to first token and to the whole reply, through the running system's chat API."""
    from bot.bench import reply as it

    found: list[dict[str, Any]] = []
    for count in [concurrency] if concurrency else [1, 20]:
        found.append(it.run(settings(), concurrency=count, replies=replies if count > 1 else max(10, replies // 3)))
        if not as_json:
            figures = found[-1]
            first, whole = figures["first_token"], figures["whole"]
            click.echo(
                f"{count} at once: first token p50 {first['p50_ms']} ms, p95 {first['p95_ms']} ms; whole reply p50"
                f" {whole['p50_ms']} ms, p95 {whole['p95_ms']} ms ({figures['replies']} replies)"
            )
    if as_json:
        print_json(found[0] if len(found) == 1 else {**found[0], "by_concurrency": found})


@bench.command()
@click.option("--calls", type=click.IntRange(20, 100_000), default=1_000, show_default=True, help="Of each kind.")
@as_json_option
def router(calls: int, as_json: bool) -> None:
    """What route and dispatch cost over a direct call, and what storing the turn before the reply costs."""
    from bot.bench import router as it

    found = it.run(calls=calls)
    if as_json:
        print_json(found)
        return
    for name in ("direct", "routed", "stored", "commit"):
        over = found["overhead"].get(f"{name}_ms")
        over = "" if over is None else f", {over:.3f} ms over direct"
        click.echo(f"{name}: p50 {found[name]['p50_ms']:.3f} ms, p99 {found[name]['p99_ms']:.3f} ms{over}")


@bench.command()
@click.option("--examples", type=click.IntRange(10), default=200, show_default=True, help="New ones to learn.")
@as_json_option
def night(examples: int, as_json: bool) -> None:
    """One whole night with so many new examples, on a ledger of its own."""
    from bot.bench import night as it

    found = it.run(examples=examples)
    if as_json:
        print_json(found)
        return
    click.echo(
        f"{found['examples']} examples ({found['strategy']}): {found['state']} after {found['seconds']:.0f} s, of which"
        f" {found['training_seconds']} s of training; {found['peak_memory_mb']} MB at most"
    )
    for reason in found["reasons"]:
        click.echo(f"  {reason}")


@bench.command()
@click.option(
    "--scenario",
    default="aa",
    show_default=True,
    type=click.Choice(["aa", "harm", "drift", "sticky", "delay", "flood", "trend"]),
)
@click.option(
    "--harm", type=click.FloatRange(-1, 1), default=None, help="-0.20: the canary pleases 20 points less (aa: 0)."
)
@click.option("--share", type=click.FloatRange(0, 1), default=None, help="Of the first stage; later ones: the preset.")
@click.option("--votes-per-day", type=click.FloatRange(1), default=1000.0, show_default=True)
@click.option("--reps", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--rules/--no-rules", default=True, help="Four other rules beside, on the same people.")
@as_json_option
def rollout(
    scenario: str, harm: float | None, share: float | None, votes_per_day: float, reps: int, seed: int, rules: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Simulated people through the real router and the real decisions: false rollbacks, delays, promotions."""
    from bot.bench import rollout as it

    found = it.run(
        scenario=it.scenario_of(scenario), harm=harm, share=share, votes_per_day=votes_per_day, reps=reps, seed=seed,
        rules=rules,
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    click.echo(
        f"{scenario}, harm {found['harm']:+.0%}, {votes_per_day:g} votes a day, plan '{found['plan']}' from"
        f" {found['share']:.0%}; {reps} rollouts in {found['seconds']} s"
    )
    rows = [
        (name, r["rollbacks"], r["promoted"], r["held"], r["delay"]["median"] or "–", r["delay"]["p90"] or "–",
         r["days"]["promoted"]["median"] or "–")
        for name, r in found["rules"].items()
    ]  # fmt: skip
    print_table(("rule", "rolled back", "promoted", "undecided", "canary votes", "p90", "days to 100 %"), rows)
    for name, figures in found.get("drift", {}).items():
        if isinstance(figures, dict):
            votes = figures["votes"]
            click.echo(
                f"{name}: {figures['found']} of {found['drift']['watched']} after {votes['median']} votes (p90"
                f" {votes['p90']}), {figures['false']} before the fall"
            )


@bench.command()
@click.option("--rows", type=click.IntRange(2_000), default=100_000, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), default=None, help="pt_retrieval.jsonl.gz")
@as_json_option
def retrieval(rows: int, seed: int, data: Path | None, as_json: bool) -> None:
    """Does search find the right passage, in every context, and how fast?"""
    from bot.bench import retrieval as it
    from bot.bench.ground import temporary_ground

    with temporary_ground() as (system, _):
        it.run(system.environment["DATABASE_URL"], rows=rows, seed=seed, data=data, json=as_json)


@bench.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def continual(arguments: tuple[str, ...]) -> None:
    """Task after task: what is learned, and what is left of it (--data FILE.jsonl.gz; --help tells the rest)."""
    # The sleeping half runs in a process of its own, as its jobs do: this one never loads torch.
    import subprocess
    import sys

    raise SystemExit(subprocess.call([sys.executable, "-m", "learning.bench", *arguments]))
