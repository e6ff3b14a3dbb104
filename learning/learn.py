"""What one night does to an adapter, without a database: the one code that nights and the bench run.

importance of what was known -> penalty around the served weights
continue the fast weights -> train on new and replayed rows -> serve the average
importance of what is known now, for the next night
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from learning import ema, ewc, mas, replay
from learning.dataset import Row
from learning.importance import Importance, Penalty, half_and_half
from learning.lora import trainable
from learning.strategies import Strategy
from learning.train import Progress, Recipe, Result, mean_loss, portion, train


@dataclass
class Memory:
    """What a night hands to the next beside the served weights.

    Attributes:
        fast: the weights that training continues from, where they are not the served ones.
    """

    importance: Importance | None = None
    fast: ema.Factors | None = None


@dataclass
class Learned:
    """What a night did; the model holds the weights to be served.

    Attributes:
        overhead: seconds of the penalty and of the importance over the seconds of training without them.
        replay_share: of the answers' tokens that were trained on.
        nearness: of what is served to the fast weights, from 0 (the average) to 1.
    """

    result: Result
    memory: Memory
    importance_seconds: float = 0.0
    replay_share: float = 0.0
    nearness: float = 0.0

    @property
    def overhead(self) -> float:
        extra = self.importance_seconds + self.result.penalty_seconds
        return extra / max(self.result.seconds - self.result.penalty_seconds, 1e-9)


def learn(
    model: Any,
    strategy: Strategy,
    *,
    new: Sequence[Row],
    replayed: Sequence[Row] = (),
    share: float = 0.0,
    holdout: Sequence[Row] = (),
    chosen_by: Sequence[Sequence[Row]] = (),
    memory: Memory,
    strength: float,
    recipe: Recipe,
    pad_id: int,
    report: Callable[[Progress], None] = lambda progress: None,
    checkpoint: Path | None = None,
    deadline: float | None = None,
) -> Learned:
    """One night: `model` holds the champion's served weights, and at the end the challenger's.

    Args:
        replayed: rows of earlier nights; every epoch takes the next ones.
        share: of the answers' tokens that are trained on, at most so many are replayed ones.
        memory: what the champion's night left; empty for the first one.
        chosen_by: hold-outs, of tonight and of earlier nights, each of which counts the same where a strategy chooses
            what is served; none: the average is served.
        strength: lambda of the penalty.
    """

    def loss() -> float:
        return sum(mean_loss(model, rows, pad_id) for rows in chosen_by)

    factors = trainable(model)
    nearness = 0.0
    penalty, importance = None, memory.importance
    importance_seconds = 0.0
    if strategy.penalty is not None and importance is not None and importance.kind == strategy.penalty:
        penalty = Penalty.around(model, importance, strength)
    average = None
    if strategy.average:
        average = ema.Average(factors)
        if memory.fast is not None:
            ema.put(factors, memory.fast)
    replays, replay_share = _replays(new, replayed, share, recipe.epochs)
    if strategy.balanced:
        replayed = balanced(replayed, replay_share)
    result = train(
        model, new=new, replayed=replayed, replays=replays, holdout=holdout, pad_id=pad_id, recipe=recipe,
        penalty=penalty, average=average, report=report, checkpoint=checkpoint,
        checkpoint_seconds=60.0, deadline=deadline,
    )  # fmt: skip
    after = Memory()
    if average is not None:
        after.fast = ema.snapshot(factors)
        if strategy.between and chosen_by:
            nearness = ema.best_between(factors, average.slow, after.fast, loss)
        else:
            ema.put(factors, average.slow)
    if strategy.penalty is not None:
        started = time.perf_counter()
        sample = half_and_half(new, replayed, importance_rows(len(new) * recipe.epochs))
        latest = estimate(model, strategy.penalty, sample, pad_id)
        after.importance = importance.merged(latest) if importance is not None else latest
        importance_seconds = time.perf_counter() - started
    return Learned(result, after, importance_seconds, replay_share, nearness)


def estimate(model: Any, kind: str, rows: Sequence[Row], pad_id: int) -> Importance:
    return (mas if kind == "mas" else ewc).estimate(model, rows, pad_id)


def importance_rows(passes: int) -> int:
    """How many rows importance is measured on in a night of so many training passes: each costs one to two of them,
    and the penalty's whole overhead is to stay under 5 %."""
    return max(4, min(32, passes // 40))


def balanced(replayed: Sequence[Row], share: float) -> list[Row]:
    """Few rows stand for all that earlier nights taught: together they weigh `replay.BALANCE` of the loss, or their
    `share` of the tokens where that is more."""
    if not share:
        return list(replayed)
    factor = replay.balancing(share)
    return [replace(row, weight=row.weight * factor) for row in replayed]


def _replays(new: Sequence[Row], replayed: Sequence[Row], share: float, epochs: int) -> tuple[int, float]:
    """How many rows an epoch replays so that `share` of the answers' tokens is not exceeded, and what they make up."""

    def tokens(rows: Sequence[Row]) -> int:
        return sum(len(row) - row.answer_start for row in rows)

    count = replay.count_for(len(new), share) if replayed else 0
    while count:
        old = sum(tokens(portion(replayed, count, epoch)) for epoch in range(epochs))
        found = old / (old + epochs * tokens(new))
        if found <= share or count == 1:  # a very small night replays one row all the same
            return count, found
        count -= 1
    return 0, 0.0
