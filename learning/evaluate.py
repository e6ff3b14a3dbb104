"""The gate's measurements: what a challenger learned, and what it kept; against the champion.

Teacher-forced loss and token accuracy of the reference answers, on rows nobody trained on. Differences are paired
row by row and resampled by conversation (bootstrap), because turns of one conversation are no independent evidence.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from learning.dataset import IGNORED, Row, answer_logits, collate

RESAMPLES = 2_000
ABSOLUTE_FLOOR = 0.70  # retention under which a challenger is refused whatever the context's target


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


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger may be registered, and why not."""

    accepted: bool
    reasons: list[str]
    gain: Difference
    retention: float
    kept: Difference


@torch.no_grad()
def score(model: Any, rows: Sequence[Row], pad_id: int, *, batch_size: int = 16) -> Scores:
    """Loss and token accuracy of every row, in eval mode."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    losses, accuracies = [0.0] * len(rows), [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = collate([rows[i] for i in indices], pad_id).to(device)
        logits = answer_logits(model, batch).float()
        counted = batch.labels != IGNORED
        wrong = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="none"
        ).view_as(batch.labels)
        right = (logits.argmax(dim=-1) == batch.labels) & counted
        tokens = counted.sum(dim=1)
        for i, loss, hits in zip(
            indices, (wrong.sum(1) / tokens).tolist(), (right.sum(1) / tokens).tolist(), strict=True
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
    members: dict[str, list[float]] = defaultdict(list)
    for new, old, group in zip(challenger, champion, groups, strict=True):
        members[group].append(new - old)
    totals = [(sum(values), len(values)) for values in members.values()]
    rng = random.Random(seed)
    means = []
    for _ in range(RESAMPLES):
        sample = rng.choices(totals, k=len(totals))
        means.append(sum(total for total, _ in sample) / sum(count for _, count in sample))
    means.sort()
    mean = sum(total for total, _ in totals) / sum(count for _, count in totals)
    return Difference(mean, means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)], len(challenger))


def judge(
    *,
    new: tuple[Scores, Scores, Sequence[str]],
    old: tuple[Scores, Scores, Sequence[str]],
    target: float,
) -> Verdict:
    """The gate: learned something on the night's hold-out, kept what earlier hold-outs ask for.

    Args:
        new, old: (challenger's scores, champion's scores, groups) on the night's and on all earlier hold-outs.
        target: least retention, as a share of the champion's token accuracy on earlier hold-outs.
    """
    gain = difference(new[0].losses, new[1].losses, new[2])
    kept = difference(old[0].losses, old[1].losses, old[2])
    before = sum(old[1].accuracies)
    retention = sum(old[0].accuracies) / before if before else 1.0
    reasons = []
    if gain.rows == 0:
        reasons.append("The night has no hold-out: nothing proves that anything was learned.")
    elif gain.high >= 0:
        reasons.append(
            f"It learned nothing that can be shown: loss on the night's hold-out changed by {gain.mean:+.3f} nats"
            f" ({gain.low:+.3f} to {gain.high:+.3f}, {gain.rows} rows)."
        )
    if retention < ABSOLUTE_FLOOR:
        reasons.append(
            f"It forgot: {retention:.0%} of the champion's accuracy is left, under {ABSOLUTE_FLOOR:.0%} always refused."
        )
    elif retention < target:
        reasons.append(f"It forgot: {retention:.1%} of the champion's accuracy is left, the target is {target:.0%}.")
    return Verdict(not reasons, reasons, gain, retention, kept)
