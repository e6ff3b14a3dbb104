"""The training loop: one adapter, one night.

    for epoch: for batch of new and replayed rows:
        loss of the answers -> backward -> add the pull back to the champion -> clip -> step -> the average follows
        once in a while: loss on the hold-out of what would be served; keep the best

There is no trainer class and no callback. A non-finite loss ends the run: `NightError`, nothing is registered.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from core.errors import NightError
from learning import parallel
from learning.dataset import (
    MICRO_BATCH_TOKENS,
    Batch,
    Row,
    collate,
    micro_batches,
    mixed_batches,
)
from learning.ema import Average, put, snapshot
from learning.evaluate import score
from learning.importance import Penalty
from learning.lora import trainable
from learning.tree import Tree, groves, grow


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are for a 135M base on a CPU.

    Attributes:
        batch_size: new rows per optimiser step; replayed rows come on top.
        warmup: share of the steps in which the rate rises; then it falls along a cosine to 5 %.
        tree: passes are trees of rows that begin alike (learning/tree.py), not padded rows.
        micro_batch_tokens: padded tokens (in a tree: different ones) per backward pass; it bounds memory and changes
            nothing else. None: `MICRO_BATCH_TOKENS` of the device.
        evaluate_every: steps between looks at the hold-out; `patience` looks without a better one end the run.
    """

    learning_rate: float = 5e-4
    epochs: int = 3
    batch_size: int = 8
    warmup: float = 0.06
    clip: float = 1.0
    tree: bool = False
    micro_batch_tokens: int | None = None
    evaluate_every: int = 20
    patience: int = 3
    seed: int = 0


@dataclass
class Progress:
    """What a run can tell while it runs; all times in seconds."""

    step: int
    steps: int
    loss: float
    holdout_loss: float | None
    elapsed: float

    @property
    def remaining(self) -> float:
        return self.elapsed / max(self.step, 1) * (self.steps - self.step)


@dataclass
class Result:
    """What a run did. `penalty_share` is the penalty over the task's loss at the last step."""

    steps: int
    losses: list[float] = field(default_factory=list)
    holdout_losses: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    seconds: float = 0.0
    penalty_seconds: float = 0.0
    penalty_share: float = 0.0
    stopped_early: bool = False
    out_of_time: bool = False


def train(
    model: Any,
    *,
    new: Sequence[Row],
    plan: Sequence[Sequence[Row]] | None = None,
    replayed: Sequence[Row] = (),
    replays: int | None = None,
    holdout: Sequence[Row] = (),
    pad_id: int,
    recipe: Recipe,
    penalty: Penalty | None = None,
    average: Average | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 300.0,
    deadline: float | None = None,
) -> Result:
    """Train the adapter of `model` in place, on the device it is on.

    Args:
        plan: the batches of all steps, where the caller knows better which rows belong together; None: drawn here.
        replayed: rows of earlier nights, mixed into the batches of new ones.
        replays: how many of them an epoch takes, going on where the last epoch stopped; None: all of them.
        holdout: rows to stop early on; the weights of the best look are restored at the end. Empty: train to the end.
        average: follows every step. Then it is what looks at the hold-out and is restored; the model's own weights
            stay those of the last step.
        checkpoint: a file to write the run's state to now and then; if it exists, the run goes on from it.
        deadline: `time.monotonic()` after which no further step starts; what was learned until then is kept. A run that
            goes on has had a part of its time already.

    Raises:
        NightError: the loss became NaN or infinite, or there was nothing to train on.
    """
    if not new:
        raise NightError("There is nothing to learn: no new example is left.", "npllm sleep history shows why.")
    parameters = trainable(model)
    micro_batch_tokens = recipe.micro_batch_tokens or MICRO_BATCH_TOKENS[model.device.type]
    optimiser = torch.optim.AdamW(parameters.values(), lr=recipe.learning_rate, weight_decay=0.0)
    # The plan of all batches is drawn first: a resumed run skips to its step and goes on with the same batches.
    rng = random.Random(recipe.seed)
    plan = plan or [
        rows
        for epoch in range(recipe.epochs)
        for rows in mixed_batches(new, portion(replayed, replays, epoch), recipe.batch_size, rng)
    ]
    result = Result(steps=len(plan))
    served: Mapping[str, torch.Tensor] = average.slow if average else parameters

    def look() -> float:
        with average.serving(parameters) if average else nullcontext():
            return mean_loss(model, holdout, pad_id)

    best = _Best(served, look()) if holdout else None
    first_step = _resume(checkpoint, parameters, optimiser, average, result, best) if checkpoint else 0
    last_saved = time.monotonic()
    started = last_saved - result.seconds
    if deadline is not None:
        deadline -= result.seconds
    model.train()

    for step in range(first_step, len(plan)):
        if deadline is not None and parallel.total(time.monotonic() > deadline):
            result.stopped_early = result.out_of_time = True
            break
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * schedule(step, len(plan), recipe.warmup)
        loss = accumulate(model, plan[step], pad_id, micro_batch_tokens, tree=recipe.tree)
        if penalty is not None and parallel.is_first():  # once, whoever adds up
            penalty.add_gradient(parameters)
        loss = parallel.add_up(parameters.values(), loss)
        if not math.isfinite(loss):
            raise NightError(
                f"The loss became {loss} at step {step}.", "Lower LEARNING_RATE, or look at the night's examples."
            )
        torch.nn.utils.clip_grad_norm_(parameters.values(), recipe.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if average is not None:
            average.follow(parameters, step, len(plan))
        result.losses.append(loss)

        holdout_loss = None
        if best is not None and ((step + 1) % recipe.evaluate_every == 0 or step + 1 == len(plan)):
            holdout_loss = look()
            result.holdout_losses.append((step + 1, holdout_loss))
            if best.is_better(holdout_loss, step + 1):
                best.keep(served)
            elif best.looks_since >= recipe.patience:
                result.stopped_early = True
        report(Progress(step + 1, len(plan), loss, holdout_loss, time.monotonic() - started))
        if checkpoint and parallel.is_first() and time.monotonic() - last_saved > checkpoint_seconds:
            last_saved = time.monotonic()
            result.seconds = last_saved - started
            _save(checkpoint, parameters, optimiser, average, result, best, step + 1)
        if result.stopped_early:
            break

    if best is not None:
        best.restore(served)
        result.best_step = best.step
    result.seconds = time.monotonic() - started
    if penalty is not None:
        result.penalty_seconds = penalty.seconds
    if penalty is not None and result.losses:
        result.penalty_share = penalty.value(model) / max(result.losses[-1], 1e-9)
    return result


def portion(rows: Sequence[Row], count: int | None, epoch: int) -> Sequence[Row]:
    """The rows an epoch replays: the next `count`, round and round."""
    if count is None or not rows:
        return rows
    return [rows[(epoch * count + i) % len(rows)] for i in range(min(count, len(rows)))]


def accumulate(model: Any, rows: Sequence[Row], pad_id: int, micro_batch_tokens: int, *, tree: bool = False) -> float:
    """Add one batch's gradient to `.grad` (this process's part of it), a few rows at a time; returns its loss in nats.

    The loss is the mean cross-entropy per answer token, each token by its example's weight. Activations of a
    whole batch of a 135M model take over 3 GB in fp32; rows are independent, so their gradients may be summed.
    """
    device = next(model.parameters()).device
    total_weight = sum(row.weight * (len(row) - row.answer_start) for row in rows)
    total = 0.0
    for part in _passes(parallel.mine(sorted(rows, key=len)), pad_id, micro_batch_tokens, tree=tree):
        part = part.to(device)
        loss = (part.losses(model) * part.weights).sum() / total_weight
        loss.backward()
        total += loss.item()
    return total


def _passes(rows: Sequence[Row], pad_id: int, tokens: int, *, tree: bool) -> Iterator[Batch | Tree]:
    if tree:
        yield from (grow(part) for part in groves(rows, tokens))
    else:
        yield from (collate(part, pad_id) for part in micro_batches(rows, tokens))


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate: a short rise, then half a cosine down to 5 %."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def mean_loss(model: Any, rows: Sequence[Row], pad_id: int) -> float:
    """Mean over rows of their loss per token."""
    return parallel.total(sum(score(model, parallel.mine(rows), pad_id).losses)) / len(rows)


class _Best:
    """The weights with the lowest hold-out loss so far; at first the ones the night began with."""

    def __init__(self, factors: Mapping[str, torch.Tensor], loss: float) -> None:
        self.loss = loss
        self.step = 0
        self.looks_since = 0
        self.keep(factors)

    def is_better(self, loss: float, step: int) -> bool:
        if loss < self.loss:
            self.loss, self.step, self.looks_since = loss, step, 0
            return True
        self.looks_since += 1
        return False

    def keep(self, factors: Mapping[str, torch.Tensor]) -> None:
        self.weights = snapshot(factors)

    def restore(self, factors: Mapping[str, torch.Tensor]) -> None:
        put(factors, self.weights)


def _save(
    path: Path,
    parameters: dict[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    result: Result,
    best: _Best | None,
    step: int,
) -> None:
    state = {
        "weights": {name: parameter.detach() for name, parameter in parameters.items()},
        "slow": average.slow if average else {},
        "optimiser": optimiser.state_dict(),
        "losses": result.losses,
        "holdout_losses": result.holdout_losses,
        "seconds": result.seconds,
        "best": vars(best) if best else {},
        "step": step,
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def _resume(
    path: Path,
    parameters: dict[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    result: Result,
    best: _Best | None,
) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    put(parameters, state["weights"])
    if average is not None:
        put(average.slow, state["slow"])
    optimiser.load_state_dict(state["optimiser"])
    result.losses, result.holdout_losses, result.seconds = state["losses"], state["holdout_losses"], state["seconds"]
    if best is not None:
        vars(best).update(state["best"])
    return int(state["step"])
