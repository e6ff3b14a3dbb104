"""A rollout's evidence as a picture: two curves over the votes, on a logarithmic scale, with the limits they may reach.

Plain numbers for an SVG; the template draws them. Up is "proved": red up is harm, green up is "not worse".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

import numpy as np

from core import evidence
from core.rollouts import HARM_HOLD, HARM_ROLLBACK, PROMOTE, Plan, Votes

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 150, 14, 34  # what is left around the curves for words
LOWEST, HIGHEST = 0.05, 200.0  # beyond these a curve runs along the edge
POINTS = 400  # of a curve at most


@dataclass(frozen=True)
class Curve:
    """`points` as an SVG polyline takes them; `end` where its name is written."""

    kind: str
    points: str
    end: tuple[float, float]
    value: float


@dataclass(frozen=True)
class Picture:
    """Everything the template draws, in the picture's own units.

    Attributes:
        limits: (y, value, kind) of each line that decides something.
        ticks: (y, text) of the scale.
        stages: (x, index) where a stage begins.
        votes: how many the width stands for.
    """

    curves: list[Curve]
    limits: list[tuple[float, float, str]]
    ticks: list[tuple[float, str]]
    stages: list[tuple[float, int]]
    votes: int
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def draw(plan: Plan, votes: Votes) -> Picture:
    """The evidence after each vote. The green curve begins anew with every stage, as its margin does."""
    y, canary, w, at = votes.y, votes.canary, votes.w, list(votes.stage)
    n = len(y)
    harm = evidence.harm(y, canary, w, historic=plan.historic)
    no_worse = np.ones(n)
    where = np.asarray(at, dtype=int)
    reached = np.maximum.accumulate(where) if n else where  # a late rating of an earlier stage does not go back to it
    for number, one in enumerate(plan.stages):
        here, shown = where == number, reached == number
        if here.any():
            bets = (np.asarray(part)[here] for part in (y, canary, w))
            process = np.concatenate([[1.0], evidence.no_worse(*bets, margin=one.margin, historic=plan.historic)])
            no_worse[shown] = process[np.cumsum(here)[shown]]
    begins = [int(np.argmax(reached == number)) for number in sorted(set(at)) if number > 0]
    return Picture(
        curves=[_curve("bad", harm, n), _curve("good", no_worse, n)],
        limits=[
            (_y(HARM_ROLLBACK), HARM_ROLLBACK, "rollback"), (_y(HARM_HOLD), HARM_HOLD, "hold"),
        ] + ([(_y(PROMOTE), PROMOTE, "promote")] if PROMOTE != HARM_HOLD else []),
        ticks=[(_y(value), f"{value:g}") for value in (0.1, 1.0, 10.0, 100.0)],
        stages=[(_x(begin, n), int(reached[begin])) for begin in begins],
        votes=n,
    )  # fmt: skip


def _curve(kind: str, values: Sequence[float] | np.ndarray, n: int) -> Curve:
    """From 1 before the first vote; thinned so that a page stays small."""
    kept = np.unique(np.linspace(0, n - 1, min(n, POINTS)).astype(int)) if n else np.zeros(0, dtype=int)
    points = [(_x(0, n), _y(1.0)), *((_x(int(i) + 1, n), _y(float(values[int(i)]))) for i in kept)]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Curve(kind, text, points[-1], float(values[-1]) if n else 1.0)


def _x(votes: int, n: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * votes / max(n, 1)


def _y(value: float) -> float:
    share = (log10(min(max(value, LOWEST), HIGHEST)) - log10(LOWEST)) / (log10(HIGHEST) - log10(LOWEST))
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
