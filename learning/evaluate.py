"""Measurements of a model: what it says of rows nobody trained on, and how two models differ.

Teacher-forced loss and token accuracy of the reference answers, on rows nobody trained on. Differences are paired
row by row and resampled by conversation (bootstrap), because turns of one conversation are no independent evidence.
"""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from scipy.stats import norm, t

from learning.dataset import IGNORED, MICRO_BATCH_TOKENS, Row, answer_logits, collate, micro_batches

RESAMPLES = 2_000


@dataclass(frozen=True)
class Scores:
    """Per row: mean loss per answer token in nats, and the share of answer tokens predicted right."""

    losses: list[float]
    accuracies: list[float]


@dataclass(frozen=True)
class Difference:
    """Mean paired difference challenger - champion with its 95 % interval."""

    mean: float
    low: float
    high: float
    rows: int


@torch.no_grad()
def score(model: Any, rows: Sequence[Row], pad_id: int, *, tokens: int | None = None) -> Scores:
    """Loss and token accuracy of every row, in the order of `rows`; in eval mode.

    Args:
        tokens: padded ones of a pass; None: `MICRO_BATCH_TOKENS` of the device, so that a look takes no more memory
            than a step.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    losses, accuracies = [0.0] * len(rows), [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    left = iter(order)
    for part in micro_batches([rows[i] for i in order], tokens or MICRO_BATCH_TOKENS[device.type]):
        indices = list(islice(left, len(part)))
        batch = collate(part, pad_id).to(device)
        logits = answer_logits(model, batch).float()
        counted = batch.labels != IGNORED
        wrong = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="none"
        ).view_as(batch.labels)
        right = (logits.argmax(dim=-1) == batch.labels) & counted
        count = counted.sum(dim=1)
        for i, loss, hits in zip(
            indices, (wrong.sum(1) / count).tolist(), (right.sum(1) / count).tolist(), strict=True
        ):
            losses[i], accuracies[i] = loss, hits
    model.train(was_training)
    return Scores(losses, accuracies)


def difference(
    challenger: Sequence[float], champion: Sequence[float], groups: Sequence[str], *, seed: int = 0
) -> Difference:
    """Paired mean difference; the interval resamples whole groups (conversations)."""
    if not challenger:
        return Difference(0.0, 0.0, 0.0, 0)
    means = resampled(challenger, champion, groups, seed=seed)
    mean = sum(new - old for new, old in zip(challenger, champion, strict=True)) / len(challenger)
    outside = int(_tail(len(_drawn(challenger, champion, groups))) * RESAMPLES)
    return Difference(mean, means[outside], means[-1 - outside], len(challenger))


def _tail(drawn: int) -> float:
    """Share of the resamples that lies beyond each end of the interval: 2.5 %, and less of the less is drawn.

    Of few conversations resamples differ less than other conversations would; so much wider covers 95 % (the expanded
    percentile interval, Hesterberg 2015, arXiv 1411.5279).
    """
    return float(norm.cdf(-math.sqrt(drawn / (drawn - 1)) * t.ppf(0.975, drawn - 1))) if drawn > 1 else 0.0


def resampled(
    challenger: Sequence[float], champion: Sequence[float], groups: Sequence[str], *, seed: int = 0
) -> list[float]:
    """RESAMPLES mean differences of groups drawn with replacement, from the lowest to the highest.

    A single group would be drawn every time and leave no doubt at all: then its rows are drawn.
    """
    totals = _drawn(challenger, champion, groups)
    rng = random.Random(seed)
    means = []
    for _ in range(RESAMPLES):
        sample = rng.choices(totals, k=len(totals))
        means.append(sum(total for total, _ in sample) / sum(count for _, count in sample))
    return sorted(means)


def _drawn(challenger: Sequence[float], champion: Sequence[float], groups: Sequence[str]) -> list[tuple[float, int]]:
    """What resampling draws: each group's sum of differences and its rows."""
    members: dict[str, list[float]] = defaultdict(list)
    for new, old, group in zip(challenger, champion, groups, strict=True):
        members[group].append(new - old)
    drawn = members.values() if len(members) > 1 else [[value] for values in members.values() for value in values]
    return [(sum(values), len(values)) for values in drawn]
