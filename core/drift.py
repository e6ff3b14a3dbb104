"""Has something changed since the promotion? Detectors that never stop looking, as pure functions of arrays.

    two_arm      champion against the holdback: did the *version* get worse?    alarm -> undo
    one_stream   all ratings: did satisfaction fall, for whatever reason?       alarm -> page, freeze
    shifts       language, topics, length, redactions of a day's messages       shifted -> hold

The first two are e-detectors of the Shiryaev-Roberts kind: R = (R + 1) x factor, where each factor expects at most 1
while nothing has changed. Then R grows by at most 1 a vote in expectation, so an alarm at `limit` comes on average no
sooner than after `limit` votes, whatever the data (Shin, Ramdas and Rinaldo, arXiv 2203.03532).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from core import evidence
from core.evidence import HARMS, Array

TWO_ARM_ALARM = 100_000.0  # votes until a false alarm, at least, on average
ONE_STREAM_ALARM = 20_000.0
SLACK = 0.02  # how far below its own past a stream may be without it being news
SHIFTED = 0.2  # population stability index: 0.1 is worth a look, 0.2 another population
LEAST_MESSAGES = 50  # a day with fewer says nothing about its mix


def two_arm(y: ArrayLike, champion: ArrayLike, w: ArrayLike, *, historic: float) -> Array:
    """Evidence that the champion fell below the holdback, after each vote of either; alarm at `TWO_ARM_ALARM`.

    When both fall together (a holiday, a price rise) no factor expects more than 1: the world is not the version.

    Args:
        y, champion, w: rating, whether the champion was rated, its probability against the holdback.
        historic: the holdback's satisfaction before.
    """
    return _shiryaev_roberts(evidence.harm_bets(y, champion, w, historic=historic))


def one_stream(y: ArrayLike, *, reference: float) -> Array:
    """Evidence that satisfaction is below `reference`, after each vote; alarm at `ONE_STREAM_ALARM`.

    Args:
        reference: what satisfaction was, less `SLACK`.
    """
    y = np.asarray(y, dtype=float)
    reference = float(np.clip(reference, 0.01, 0.99))
    rates = np.clip(reference - np.asarray(HARMS), 0.001, 1.0)[:, None]
    return _shiryaev_roberts(np.log((y * rates + (1 - y) * (1 - rates)) / (y * reference + (1 - y) * (1 - reference))))


def _shiryaev_roberts(bets: Array) -> Array:
    """R = (R + 1) x factor for every row, and their mean; by sums of logarithms: R_n = sum over k of S_n / S_(k-1)."""
    if not bets.shape[-1]:
        return np.ones(0)
    sums = np.cumsum(bets, axis=-1)
    before = np.concatenate([np.zeros((len(bets), 1)), sums[:, :-1]], axis=1)
    logarithms = sums + np.logaddexp.accumulate(-before, axis=-1)
    return np.asarray(np.mean(np.exp(np.minimum(logarithms, 700.0)), axis=0), dtype=np.float64)


@dataclass(frozen=True)
class Shift:
    """How far one trait of the messages moved."""

    trait: str
    psi: float
    shifted: bool


def shifts(before: Mapping[str, Mapping[str, int]], today: Mapping[str, Mapping[str, int]]) -> list[Shift]:
    """Each trait's population stability index, today against before.

    Args:
        before, today: trait (language, topic, length, redacted) -> value -> messages.
    """
    found = []
    for trait in sorted(before.keys() & today.keys()):
        enough = min(sum(before[trait].values()), sum(today[trait].values())) >= LEAST_MESSAGES
        index = stability(before[trait], today[trait])
        found.append(Shift(trait, round(index, 4), enough and index >= SHIFTED))
    return found


def stability(before: Mapping[str, int], today: Mapping[str, int]) -> float:
    """Population stability index of two counts, less what chance alone gives it; 0 where either is empty.

    With k values, n and m messages and no change, the index expects (k - 1)(1/n + 1/m): a small day must not look
    like another world. Half a message is added to every count, so that a value seen once is no infinity.
    """
    values = sorted(before.keys() | today.keys())
    counts = np.array([[side.get(value, 0) for value in values] for side in (before, today)], dtype=float)
    totals = counts.sum(axis=1)
    if not values or not totals.all():
        return 0.0
    old, new = (counts + 0.5) / (counts + 0.5).sum(axis=1, keepdims=True)
    index = float(np.sum((new - old) * np.log(new / old)))
    return max(0.0, index - (len(values) - 1) * float(np.sum(1 / totals)))


def length_of(text: str) -> str:
    """A message's length as one of few values: powers of two of its characters, '0-15' to '512+'."""
    step = min(max(len(text).bit_length(), 4), 10)
    return "512+" if step == 10 else f"{0 if step == 4 else 2 ** (step - 1)}-{2**step - 1}"
