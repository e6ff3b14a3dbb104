"""`npllm bench continual`, in a process of its own: `python -m learning.bench --data FILE ...`.

Seed by seed and strategy by strategy, the default first, so that a budget that ends early leaves whole sequences.
What is done is written to --out at once: matrices, per-example results and pictures.
"""

import json
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from core.errors import BadInput, NpllmError
from core.settings import load_settings
from integrations.huggingface.embedded_base import resolve_base
from learning import tiny
from learning.bench import picture
from learning.bench.data import Limits, name_of, stream
from learning.bench.metrics import figures, over_seeds, paired
from learning.bench.run import Base, Bench, Outcome
from learning.bench.scoring import Sizes
from learning.strategies import STRATEGIES, default_of
from learning.train import Recipe

TUNED = (1e-3, 1e-2, 1e-1)
TUNE_TASKS = 4
COLUMNS = (
    ("average_score", "average"), ("just_learned", "just learned"), ("retention", "retention"),
    ("gain_retention", "gain kept"), ("one_night_retention", "one night"), ("adaptation_gain", "adaptation"),
    ("bwt", "BWT"), ("fwt", "FWT"), ("forgetting", "forgetting"), ("distance_to_joint", "to joint"),
)  # fmt: skip


@click.command()
@click.option("--data", type=click.Path(exists=True, dir_okay=False, path_type=Path), multiple=True, required=True)
@click.option("--strategies", default="replay,ema+replay,mas+ema+replay", show_default=True)
@click.option("--tasks", type=click.IntRange(1), default=4, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True)
@click.option("--first-seed", type=click.IntRange(0), default=0, hidden=True)
@click.option("--budget", type=click.FloatRange(min=1), default=900.0, show_default=True, help="Seconds.")
@click.option("--base", "base_name", default="tiny", show_default=True, help="tiny, embedded, a folder or a hub name.")
@click.option("--replay-share", type=click.FloatRange(0, 0.5), default=0.15, show_default=True)
@click.option("--deep-every", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--whole", is_flag=True, help="All of the data, not the short run (60 conversations a task, 20 for tests)."
)
@click.option("--tune", is_flag=True, help="Find lambda on the validation examples of the first tasks, and print it.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Folder for matrices and pictures.")
@click.option("--json", "as_json", is_flag=True)
def main(
    data: tuple[Path, ...], strategies: str, tasks: int, seeds: int, first_seed: int, budget: float, base_name: str,
    replay_share: float, deep_every: int, whole: bool, tune: bool, threads: int, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Learn tasks one after another, and see what is left of each."""
    deadline = time.monotonic() + budget
    torch.set_num_threads(threads)
    try:
        _tell_apart(data)
        base = open_base(base_name)
        names = _names(strategies, default_of(base.name))
        limits = None if whole else Limits()
        if tune:
            print_json(_tune(base, data, names, limits, replay_share))
            return
        outcomes = _run(base, data, names, range(first_seed, first_seed + seeds), tasks, limits, replay_share,
                        deep_every, deadline, out)  # fmt: skip
    except NpllmError as error:
        raise click.ClickException(str(error)) from None
    found = summary(outcomes, base, replay_share)
    if out is not None:
        _draw(outcomes, out)
        (out / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    print_json(found) if as_json else click.echo(table(found))


def open_base(name: str) -> Base:
    if name == "tiny":
        recipe = Recipe(learning_rate=2e-3, epochs=3, batch_size=16, micro_batch_tokens=4_096, evaluate_every=20)
        return Base(tiny.NAME, tiny.FOLDER, rank=8, recipe=recipe, sizes=Sizes())
    settings = load_settings()
    found = resolve_base(name, settings.data_dir)
    recipe = Recipe(learning_rate=settings.learning_rate, epochs=settings.epochs)
    return Base(found.name, found.path, settings.lora_rank, recipe, Sizes(max_tokens=384), quick=True)


def summary(outcomes: list[Outcome], base: Base, replay_share: float) -> dict[str, Any]:
    """The object that --json prints: figures of each strategy, averaged over streams, and those of each stream."""
    by_stream: dict[str, dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        by_stream[outcome.stream][outcome.strategy].append(outcome)
    streams: dict[str, Any] = {}
    for name, runs in by_stream.items():
        joint = {run.seed: run for run in runs.get("joint", []) if not run.cut}
        streams[name] = {strategy: _figures(found, joint) for strategy, found in runs.items()}
        plain = {run.seed: run for run in runs.get("replay", []) if not run.cut}
        for strategy, own in runs.items():
            pairs = [(run.final, plain[run.seed].final) for run in own if run.seed in plain and not run.cut]
            if pairs and strategy != "replay":
                streams[name][strategy]["against_replay"] = paired(pairs)
    strategies: dict[str, Any] = {}
    for strategy in {outcome.strategy: None for outcome in outcomes}:
        found = [streams[name][strategy] for name in streams if strategy in streams[name]]
        whole = [one for one in found if "average_score" in one]
        merged: dict[str, Any] = {
            key: _mean([one[key]["mean"] for one in whole if one[key]["mean"] is not None]) for key, _ in COLUMNS
        }
        for key in ("overhead", "replay_share", "seconds_per_step", "peak_mb"):
            merged[key] = _mean([one[key] for one in whole if one[key] is not None])
        strategies[strategy] = merged | {"cut": any(one["cut"] for one in found)}
    return {
        "default": default_of(base.name), "base": base.name, "share": replay_share, "strategies": strategies,
        "streams": streams,
    }  # fmt: skip


def _figures(runs: list[Outcome], joint: dict[int, Outcome]) -> dict[str, Any]:
    whole = [run for run in runs if not run.cut]
    found: dict[str, Any] = {"seeds": len(whole), "cut": len(whole) < len(runs)}
    if not whole:
        return found
    if whole[0].strategy == "joint":
        nothing: dict[str, float | None] = dict.fromkeys(key for key, _ in COLUMNS)
        found |= over_seeds([nothing | {"average_score": _mean(_final(run))} for run in whole])
    else:
        found |= over_seeds(
            [figures(run.R, run.b, _final(joint[run.seed]) if run.seed in joint else None) for run in whole]
        )
    return found | {
        "loss": _mean([_mean([x for x in run.losses[-1] if x is not None]) or 0.0 for run in whole]),
        "overhead": _mean([run.overhead for run in whole]),
        "replay_share": _mean([share for run in whole for share in run.replay_shares] or [0.0]),
        "seconds_per_step": _mean([run.seconds / max(run.steps, 1) for run in whole]),
        "deep_seconds": _mean([run.deep_seconds for run in whole]),
        "peak_mb": max(run.peak_mb for run in whole),
        "strength": whole[0].strength if STRATEGIES[whole[0].strategy].penalty else None,
    }


def table(found: dict[str, Any]) -> str:
    """Every stream's figures in plain text."""
    lines = []
    for name, strategies in found["streams"].items():
        lines.append(f"\n{name} on {found['base']}, {found['share']:.0%} replay (default: {found['default']})")
        heads = "".join(f"{head:>17}" for _, head in COLUMNS)
        lines.append(f"{'strategy':<16}{heads}{'loss':>8}{'ms/step':>9}{'overhead':>9}{'MB':>7}")
        for strategy, figure in strategies.items():
            if "average_score" not in figure:
                lines.append(f"{strategy:<16} cut by the budget")
                continue
            cells = "".join(f"{_cell(figure[key]):>17}" for key, _ in COLUMNS)
            lines.append(
                f"{strategy:<16}{cells}{figure['loss']:>8.3f}{figure['seconds_per_step'] * 1000:>9.0f}"
                f"{figure['overhead']:>9.1%}{figure['peak_mb']:>7.0f}" + (" (a seed was cut)" if figure["cut"] else "")
            )
        for strategy, figure in strategies.items():
            if "against_replay" in figure:
                by = figure["against_replay"]
                interval = f"{by['low']:+.3f} to {by['high']:+.3f}"
                lines.append(f"{strategy} against replay: {by['mean']:+.3f} average score ({interval})")
    return "\n".join(lines)


def print_json(found: Any) -> None:
    click.echo(json.dumps(found))


def _names(strategies: str, first: str) -> list[str]:
    names = [first, *(name.strip() for name in strategies.split(",") if name.strip())]
    for name in names:
        if name not in STRATEGIES:
            raise click.BadParameter(f"There is no strategy '{name}'. Choose {', '.join(STRATEGIES)}.")
    return list(dict.fromkeys(names))


def _tell_apart(data: tuple[Path, ...]) -> None:
    """Figures are told by the file's name, and runs of one name are taken for its seeds."""
    names = [name_of(path) for path in data]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"Two files of --data are called '{name}'.", "Rename one, or name each file once.")


def _run(
    base: Base, data: tuple[Path, ...], names: list[str], seeds: range, tasks: int, limits: Limits | None,
    share: float, deep_every: int, deadline: float, out: Path | None,
) -> list[Outcome]:  # fmt: skip
    outcomes: list[Outcome] = []
    for seed in seeds:
        for path in data:
            bench = Bench(base, stream(path, seed=seed, tasks=tasks, limits=limits), seed=seed, share=share,
                          deep_every=deep_every)  # fmt: skip
            for note in bench.stream.notes:
                click.echo(f"{bench.stream.name} seed {seed}: {note}", err=True)
            for name in names:
                outcome = bench.run(STRATEGIES[name], deadline=deadline, tell=lambda line: click.echo(line, err=True))
                outcomes.append(outcome)
                if out is not None:
                    out.mkdir(parents=True, exist_ok=True)
                    (out / f"{outcome.stream}-{seed}-{name}.json").write_text(json.dumps(asdict(outcome)))
                    sys.stderr.flush()
    return outcomes


def _tune(base: Base, data: tuple[Path, ...], names: list[str], limits: Limits | None, share: float) -> dict[str, Any]:
    """Average score on `valid` after the first tasks of order 0, by lambda."""
    found: dict[str, Any] = {}
    for path in data:
        bench = Bench(base, stream(path, seed=0, tasks=TUNE_TASKS, limits=limits), seed=0, share=share, deep_every=99,
                      split="valid")  # fmt: skip
        for name in names:
            strategy = STRATEGIES[name]
            for strength in TUNED if strategy.penalty else (0.0,):
                run = bench.run(strategy, strength=strength)
                row = figures(run.R, run.b) | {"loss": _mean([x for x in run.losses[-1] if x is not None])}
                found.setdefault(run.stream, {}).setdefault(name, {})[strength] = row
                click.echo(f"{run.stream} {name} {strength}: {row}", err=True)
    return found


def _draw(outcomes: list[Outcome], out: Path) -> None:
    joint = {(run.stream, run.seed): run for run in outcomes if run.strategy == "joint" and not run.cut}
    for run in outcomes:
        if run.strategy == "joint" or not run.R:
            continue
        upper = joint.get((run.stream, run.seed))
        title = f"{run.stream}, {run.strategy}, seed {run.seed}" + (" (cut by the budget)" if run.cut else "")
        svg = picture.matrix(title, run.tasks, run.R, run.b, _final(upper) if upper else None)
        (out / f"{run.stream}-{run.seed}-{run.strategy}.svg").write_text(svg)


def _final(run: Outcome) -> list[float]:
    return [score for score in run.R[-1] if score is not None]


def _cell(figure: dict[str, float | None]) -> str:
    if figure["mean"] is None:
        return "–"
    interval = figure["interval"]
    return f"{figure['mean']:.3f}" + (f" ± {interval:.3f}" if interval is not None else "")


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


if __name__ == "__main__":
    main()
