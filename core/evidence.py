"""What votes prove: anytime-valid evidence on two arms, as pure functions of arrays.

Every unit (a person in an epoch) is drawn to the canary with a probability that is logged, and votes at most
once. Under "the arm makes no difference" each factor below has expectation 1 whatever was seen before, so the
running product may be looked at after every vote: by Ville's inequality it exceeds 1/alpha with probability at
most alpha, ever (Turner, Ly & Gruenwald, JSPI 2024, arXiv 2106.02693). The logged probability stands in each
factor, so a change of weights while satisfaction moves (Simpson's paradox) proves nothing.

Arrays are one entry per vote, in the order of the votes:
    y        rating in [0, 1]
    canary   whether the unit was served by the challenger
    w        the probability of the challenger at assignment
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

HARMS = (0.05, 0.10, 0.20, 0.40)  # absolute falls in satisfaction the harm process bets on
PRIOR_VOTES = 20.0  # what the historic rate weighs against votes seen in this rollout
MILLION = 1e6
_EDGE = 1e-3  # rates stay this far from 0 and 1, so that no single vote decides
_MOST = 700.0  # the largest logarithm of evidence that is kept: JSON and Postgres know no infinity


def harm(y: ArrayLike, canary: ArrayLike, w: ArrayLike, *, historic: float) -> Array:
    """Evidence that the canary is worse, after each vote. Start: 1. Roll back at 50, hold at 20.

    Args:
        historic: the champion's satisfaction before this rollout.
    """
    return _mixture(harm_bets(y, canary, w, historic=historic))


def harm_bets(y: ArrayLike, canary: ArrayLike, w: ArrayLike, *, historic: float) -> Array:
    """The logarithm of each vote's factor, one row per fall of `HARMS`."""
    y, canary, w = _arrays(y, canary, w)
    base = _base_rate(y, canary, historic)
    return _bets(y, canary, w, base, [base - fall for fall in HARMS])


def worse_odds(event: ArrayLike, canary: ArrayLike, w: ArrayLike, *, historic: float) -> Array:
    """Evidence that a rare 0/1 event (error, slow reply, hand-over) became likelier: odds doubled, x4, x16."""
    event, canary, w = _arrays(event, canary, w)
    base = _base_rate(event, canary, historic)
    odds = base / (1 - base)
    return _mixture(_bets(event, canary, w, base, [times * odds / (1 + times * odds) for times in (2.0, 4.0, 16.0)]))


def no_worse(y: ArrayLike, canary: ArrayLike, w: ArrayLike, *, margin: float, historic: float) -> Array:
    """Evidence that the canary is not worse than the base by `margin` or more, after each vote. Promote at 20.

    The alternative is "equal"; the null is the pair (q - margin, q) nearest to it in Kullback-Leibler divergence
    weighted by w: its reverse information projection, which makes each factor an e-value for the whole null.
    """
    y, canary, w = _arrays(y, canary, w)
    if not len(y):
        return np.ones(0)
    # Rounded, so that the projection (a bisection each) is drawn from a small table; the bet itself may be any rate.
    clipped = np.clip(_base_rate(y, canary, historic), margin / 2 + _EDGE, 1 - _EDGE)
    base = np.asarray(np.round(clipped, 3), dtype=np.float64)
    null = least_favourable(base, w, margin)
    rate_under_null = np.where(canary, null - margin, null)
    return _running_product(np.log(_likelihood(y, base)) - np.log(_likelihood(y, rate_under_null)))


def sample_ratio(canary: ArrayLike, w: ArrayLike) -> Array:
    """Evidence that arms are not drawn as logged (a bug, or a bot), one entry per assigned unit. Hold at 1000."""
    _, canary, w = _arrays((), canary, w)
    w = np.clip(w, 1e-6, 1 - 1e-6)  # where one arm was certain, the other one still counts as a wrong split
    products = []
    for tilt in (0.5, 2 / 3, 1.5, 2.0):
        tilted = w * tilt / (w * tilt + 1 - w)
        factor = np.where(canary, tilted / w, (1 - tilted) / (1 - w))
        products.append(_running_product(np.log(factor)))
    return np.mean(products, axis=0) if len(canary) else np.ones(0)


@dataclass(frozen=True)
class Interval:
    """A rate and its 95 % interval (Wilson's), for people to look at; no decision reads it. No votes: no rate."""

    rate: float | None
    low: float
    high: float
    votes: int


def interval(total: float, votes: int) -> Interval:
    if votes == 0:
        return Interval(None, 0.0, 1.0, 0)
    z, rate = 1.96, total / votes
    centre = (rate + z * z / (2 * votes)) / (1 + z * z / votes)
    half = z / (1 + z * z / votes) * math.sqrt(rate * (1 - rate) / votes + z * z / (4 * votes * votes))
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half), votes)


def least_favourable(base: Array, w: Array, margin: float) -> Array:
    """For each (base rate, w): the q that minimises w KL(base | q - margin) + (1 - w) KL(base | q)."""
    return np.array([_projection(p, a, margin) for p, a in zip(base.tolist(), w.tolist(), strict=True)])


@lru_cache(maxsize=100_000)
def _projection(p: float, w: float, margin: float) -> float:
    """The derivative is monotone between the two ends, so bisection finds its root."""
    low, high = max(p, margin) + 1e-9, min(p + margin, 1.0) - 1e-9

    def slope(q: float) -> float:
        def derivative(at: float) -> float:
            return (at - p) / (at * (1 - at))  # of KL(p | at)

        return w * derivative(q - margin) + (1 - w) * derivative(q)

    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2


def _arrays(y: ArrayLike, canary: ArrayLike, w: ArrayLike) -> tuple[Array, NDArray[np.bool_], Array]:
    return np.asarray(y, dtype=float), np.asarray(canary, dtype=bool), np.asarray(w, dtype=float)


def _base_rate(y: Array, canary: NDArray[np.bool_], historic: float) -> Array:
    """The base's rate as known *before* each vote: from the base's votes so far, pulled to the historic rate."""
    counted = ~canary
    total = np.concatenate([[0.0], np.cumsum(y * counted)[:-1]]) if len(y) else np.zeros(0)
    votes = np.concatenate([[0.0], np.cumsum(counted)[:-1]]) if len(y) else np.zeros(0)
    return np.clip((PRIOR_VOTES * historic + total) / (PRIOR_VOTES + votes), _EDGE, 1 - _EDGE)


def _likelihood(y: Array, rate: Array) -> Array:
    return y * rate + (1 - y) * (1 - rate)


def _bets(y: Array, canary: NDArray[np.bool_], w: Array, base: Array, alternatives: Sequence[Array]) -> Array:
    """log of likelihood(arm) / likelihood(arms mixed by w): one row per alternative, one column per vote."""
    rate = np.clip(np.stack(alternatives), _EDGE, 1 - _EDGE)
    as_canary, as_base = _likelihood(y, rate), _likelihood(y, base)
    return np.asarray(np.log(np.where(canary, as_canary, as_base) / (w * as_canary + (1 - w) * as_base)))


def _mixture(bets: Array) -> Array:
    """Mean over the alternatives of the running products."""
    return np.asarray(np.mean(_running_product(bets), axis=0))


def _running_product(logarithms: Array) -> Array:
    return np.asarray(np.exp(np.minimum(np.cumsum(logarithms, axis=-1), _MOST)), dtype=np.float64)


def last(process: Array) -> float:
    """The evidence now; 1 before the first vote."""
    return float(process[-1]) if len(process) else 1.0


def said(value: float, digits: int = 0) -> str:
    """Evidence as a sentence tells it: it multiplies with every vote, and may have three hundred digits."""
    return f"{value:.{digits}f}" if value < MILLION else "over a million"
