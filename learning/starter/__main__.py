"""Train the starter adapter with the night's own code, and leave an adapter version.

    python -m learning.starter --base FOLDER --out FOLDER --seed 0

FOLDER of --base is the embedded base as an ordinary Hugging Face folder. The run is deterministic by seed on one
thread of a CPU; on a GPU (larger --batch) it ends near there. Interrupted, it goes on with --resume from the state it
writes into OUT.work every few minutes.
"""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.artifacts import CONFIG, read_manifest, write_manifest
from learning.starter.card import BASE_MODEL, BASE_REVISION, model_card
from learning.starter.corpus import dialogue, family
from learning.starter.dialogue import Dialogue

if TYPE_CHECKING:
    from learning.dataset import Row

MAX_ANSWER_TOKENS = 80
_MAX_TOKENS = 640  # one dialogue of tens of thousands has more than a night's 512
_PART = 2_000  # dialogues that a process writes at a time
_HOLDOUT = 64  # rows whose loss is written to the log; they choose nothing


@click.command()
@click.option("--base", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The adapter's folder; must not exist yet.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--parent",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="An adapter to go on from, with another seed; without it the run begins at the base.",
)
@click.option(
    "--between",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Keep weights this far from the parent's (0) to the trained ones (1): less is forgotten (WiSE-FT).",
)
@click.option("--examples", default=7000, show_default=True, help="Dialogues, each seen once.")
@click.option("--minutes", type=float, help="Stop after so many minutes and keep what was learned.")
@click.option("--rank", default=16, show_default=True)
@click.option("--rate", default=5e-4, show_default=True, help="Peak learning rate.")
@click.option("--batch", default=8, show_default=True, help="Dialogues a step; on a GPU 64 cost little more than 8.")
@click.option(
    "--families",
    default=0,
    show_default=True,
    help="Families of questions about the same passages in a step, beside the batch: read as one tree.",
)
@click.option("--processes", default=1, show_default=True, help="That write the dialogues.")
@click.option("--threads", default=1, show_default=True, help="Torch threads; two on a busy machine are slower.")
@click.option(
    "--precision",
    type=click.Choice(["bf16", "fp32"]),
    default="bf16",
    show_default=True,
    help="Of the products on a CPU; weights and optimiser stay fp32. bf16 is 1.5 times as fast where the CPU has it.",
)
@click.option("--resume", is_flag=True, help="Go on from the state in OUT.work.")
def main(
    base: Path, out: Path, seed: int, parent: Path | None, between: float, examples: int, minutes: float | None,
    rank: int, rate: float, batch: int, families: int, processes: int, threads: int, precision: str, resume: bool,
) -> None:  # fmt: skip
    """Train the starter adapter."""
    import torch

    from learning import ema, lora
    from learning.quick import quick_products
    from learning.train import Progress, Recipe, mean_loss, train

    if out.exists():
        raise click.ClickException(f"{out} exists already. Name a new folder.")
    work = out.with_name(out.name + ".work")
    state = work / "state.pt"
    if state.exists() and not resume:
        raise click.ClickException(f"{state} is left from an earlier run. Add --resume to go on, or remove it.")
    work.mkdir(parents=True, exist_ok=True)

    torch.set_num_threads(threads)
    found = written(base, examples + _HOLDOUT, seed, processes, beside=bool(families))
    singles, holdout = dict(islice(found.items(), examples)), list(found.values())[examples:]
    kin = [_family(base, seed, index) for index in range(families * math.ceil(examples / batch))]
    learned = {**singles, **{one: row for some in kin for one, row in some.items()}}
    _refuse_long_answers({**found, **learned})
    plan = _steps(list(singles.values()), batch, [list(some.values()) for some in kin], families) if families else None
    model, tokenizer = lora.load_base(base)
    if parent is not None:
        model = lora.load_adapter(model, parent)
    else:
        model = lora.new_adapter(model, base_name=BASE_MODEL, base_revision=BASE_REVISION, rank=rank, seed=seed)
    recipe = Recipe(
        learning_rate=rate, epochs=1, batch_size=batch, warmup=0.04, seed=seed, tree=bool(families),
        micro_batch_tokens=(600 if families else 800) if model.device.type == "cpu" else None,
    )  # fmt: skip
    tokens = sum(len(row) for row in learned.values())
    click.echo(f"{len(learned)} examples, {tokens:,} tokens, share of parameters {lora.share_of_parameters(model):.3%}")

    factors = lora.trainable(model)
    before = ema.snapshot(factors)
    log = (work / "log.jsonl").open("a")
    recent: list[float] = []

    def report(progress: Progress) -> None:
        recent.append(progress.loss)
        if progress.step % 25 == 0 or progress.step == progress.steps:
            mean = sum(recent[-25:]) / len(recent[-25:])
            line = {"step": progress.step, "loss": round(mean, 4), "seconds": round(progress.elapsed)}
            log.write(json.dumps(line) + "\n")
            log.flush()
            click.echo(f"step {progress.step}/{progress.steps}  loss {mean:.3f}  {progress.elapsed / 60:.1f} min")
        if progress.step % max(1, progress.steps // 10) == 0:  # a look at the adapter while it trains
            half_way = work / f"step-{progress.step}"
            if not half_way.exists():
                save(model, half_way)

    started = time.monotonic()
    with quick_products(model) if precision == "bf16" else nullcontext():
        result = train(
            model, new=list(learned.values()), plan=plan, pad_id=tokenizer.pad_token_id, recipe=recipe, report=report,
            checkpoint=state, checkpoint_seconds=180, deadline=started + minutes * 60 if minutes else None,
        )  # fmt: skip
        ema.put(factors, {name: torch.lerp(before[name], factor.detach(), between) for name, factor in factors.items()})
        loss = mean_loss(model, holdout, tokenizer.pad_token_id)
    facts = training_facts(
        list(learned), parent, rank=rank, loss=round(loss, 4), holdout=_HOLDOUT, seed=seed, learning_rate=rate,
        examples=examples, batch=batch, families=families, between=between, precision=precision,
        device=model.device.type, tokens=tokens, steps=len(result.losses), planned_steps=result.steps,
    )  # fmt: skip
    save(model, out)
    (out / "README.md").write_text(model_card(facts), encoding="utf-8")
    digest = write_manifest(out, {"base": {"model": BASE_MODEL, "revision": BASE_REVISION}, **facts})
    click.echo(f"{out}: loss {loss:.3f}, {result.seconds / 60:.0f} min, manifest sha256 {digest}")


def written(base: Path, size: int, seed: int, processes: int, *, beside: bool = False) -> "dict[Dialogue, Row]":
    """The first `size` different dialogues of a seed with their rows, in the corpus's order."""
    found: dict[Dialogue, Row] = {}
    part = partial(_part, base, seed, beside)
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn")) if processes > 1 else nullcontext()
    with pool as workers:
        begin = 0
        while (missing := size - len(found)) > 0:
            end = begin + missing
            parts = [range(first, min(first + _PART, end)) for first in range(begin, end, _PART)]
            for some in workers.map(part, parts) if workers else map(part, parts):
                for one, row in some.items():
                    found.setdefault(one, row)
            begin = end
    return dict(islice(found.items(), size))


def _part(base: Path, seed: int, beside: bool, indices: range) -> "dict[Dialogue, Row]":
    """What one process writes."""
    return _rows(base, [dialogue(seed, index, beside=beside) for index in indices])


def _family(base: Path, seed: int, index: int) -> "dict[Dialogue, Row]":
    return _rows(base, family(seed, index))


def _rows(base: Path, dialogues: Sequence[Dialogue]) -> "dict[Dialogue, Row]":
    from learning.dataset import encode

    limits = {"max_tokens": _MAX_TOKENS, "max_answer_tokens": MAX_ANSWER_TOKENS + 1}
    return {one: encode(_tokenizer(base), one.example(), **limits) for one in dialogues}


def _steps(rows: "list[Row]", batch: int, kin: "list[list[Row]]", families: int) -> "list[list[Row]]":
    """The batches: the next dialogues, and the next families whole."""
    return [
        rows[step * batch : (step + 1) * batch] + sum(kin[step * families : (step + 1) * families], [])
        for step in range(math.ceil(len(rows) / batch))
    ]


@cache
def _tokenizer(base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


def save(model: Any, folder: Path) -> None:
    """Save in half precision, and name the base by its name: PEFT writes the folder it was loaded from."""
    import torch

    from learning import lora

    lora.save_adapter(model, folder, dtype=torch.float16)
    config = folder / CONFIG
    facts = json.loads(config.read_text()) | {"base_model_name_or_path": BASE_MODEL, "revision": BASE_REVISION}
    config.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def _refuse_long_answers(rows: "dict[Dialogue, Row]") -> None:
    for one, row in rows.items():
        if len(row) - row.answer_start > MAX_ANSWER_TOKENS + 1:
            raise click.ClickException(f"An ideal answer has more than {MAX_ANSWER_TOKENS} tokens: {one.answer}")


def training_facts(
    dialogues: Sequence[Dialogue], parent: Path | None, *, rank: int, loss: float, holdout: int, **run: Any
) -> dict[str, Any]:
    """What the manifest says about where the adapter comes from: every run that made it, the first one first.

    Its examples are no person's: they are generated, so one digest over all their hashes stands for the list, which
    would make the folder half a megabyte larger.
    """
    hashes = "\n".join(sorted(dialogue.example().hash for dialogue in dialogues))
    latest = {**run, "generated": len(dialogues), "generated_sha256": hashlib.sha256(hashes.encode()).hexdigest()}
    runs = [*(read_manifest(parent)["runs"] if parent else []), latest]
    return {
        "parent": None,
        "strategy": "starter",
        "examples": [],
        "generated": sum(one["generated"] for one in runs),
        "runs": runs,
        "rank": rank,
        "loss": loss,
        "holdout": holdout,
    }


if __name__ == "__main__":
    main()
