"""Figures of one run, from R[t][i]: the score on task i after task t (higher is better; None: not taken)."""

import random
from collections import defaultdict
from collections.abc import Sequence

Final = Sequence[Sequence[tuple[str, float, int]]]  # of each task's test examples: group, hits, chances
Matrix = list[list[float | None]]
CAP = 1.2  # of one task's retention: a task that got better later must not pay for one that was lost


def figures(R: Matrix, b: Sequence[float], J: Sequence[float] | None = None) -> dict[str, float | None]:
    """Every figure of the protocol; None where a sequence is too short for it.

    Args:
        b: the frozen base's scores. J: joint training's, where it was run.
    """
    last = len(R) - 1
    final = _row(R, last)
    learned = [_cell(R, t, t) for t in range(last + 1)]
    before = [b[0]] + [_cell(R, t - 1, t) for t in range(1, last + 1)]
    old = range(last)
    kept = [min(CAP, final[i] / learned[i]) for i in old if learned[i] > 0]
    gained = sum(learned[i] - b[i] for i in old)
    nights = [
        _mean([_cell(R, t, i) / _cell(R, t - 1, i) for i in range(t) if _cell(R, t - 1, i) > 0])
        for t in range(1, last + 1)
    ]  # fmt: skip
    return {
        "average_score": _mean(final),
        "just_learned": _mean(learned),
        "bwt": _mean([final[i] - learned[i] for i in old]),
        "forgetting": _mean([max(_column(R, i)[:-1] or [final[i]]) - final[i] for i in old]),
        "retention": _mean(kept),
        "gain_retention": sum(final[i] - b[i] for i in old) / gained if old and gained > 0 else None,
        "one_night_retention": _mean([night for night in nights if night is not None]),
        "adaptation_gain": _mean([after - was for after, was in zip(learned, before, strict=True)]),
        "fwt": _mean([before[t] - b[t] for t in range(1, last + 1)]),
        "distance_to_joint": _mean([J[i] - final[i] for i in range(last + 1)]) if J else None,
    }


def over_seeds(runs: Sequence[dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Mean of each figure with the half-width of its 95 % t-interval over runs (None for one run)."""
    found: dict[str, dict[str, float | None]] = {}
    for name in runs[0]:
        values = [value for run in runs if (value := run[name]) is not None]
        found[name] = {"mean": _mean(values), "interval": _half_width(values)}
    return found


def paired(runs: Sequence[tuple[Final, Final]], *, resamples: int = 1_000) -> dict[str, float]:
    """Average score of one strategy minus another's, with its 95 % interval: conversations of each task are drawn with
    replacement, the same for both, and seeds too."""
    tasks = [[_by_group(one, other) for one, other in zip(*run, strict=True)] for run in runs]
    rng = random.Random(0)

    def mean(drawn: bool) -> float:
        total = 0.0
        for run in rng.choices(tasks, k=len(tasks)) if drawn else tasks:
            for groups in run:
                rows = rng.choices(groups, k=len(groups)) if drawn else groups
                chances = sum(row[2] for row in rows)
                total += (sum(row[0] for row in rows) - sum(row[1] for row in rows)) / chances / len(run)
        return total / len(tasks)

    means = sorted(mean(True) for _ in range(resamples))
    return {"mean": mean(False), "low": means[int(0.025 * resamples)], "high": means[int(0.975 * resamples)]}


def _by_group(
    one: Sequence[tuple[str, float, int]], other: Sequence[tuple[str, float, int]]
) -> list[tuple[float, float, int]]:
    """(hits of one, hits of the other, chances) of every conversation."""
    found: dict[str, tuple[float, float, int]] = defaultdict(lambda: (0.0, 0.0, 0))
    for (group, hits, chances), (_, others, _) in zip(one, other, strict=True):
        before = found[group]
        found[group] = (before[0] + hits, before[1] + others, before[2] + chances)
    return list(found.values())


_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


def _half_width(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return _T.get(len(values) - 1, 1.96) * deviation / len(values) ** 0.5


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _cell(R: Matrix, t: int, i: int) -> float:
    value = R[t][i]
    assert value is not None, f"R[{t}][{i}] was not taken"
    return value


def _row(R: Matrix, t: int) -> list[float]:
    return [_cell(R, t, i) for i in range(len(R[t]))]


def _column(R: Matrix, i: int) -> list[float]:
    """What was taken of task i, before it was learned too."""
    return [value for row in R if (value := row[i]) is not None]
