"""Simulated people of one rollout: when they write, whether they rate, and what they would think of either arm.

Everything about a person is drawn before anybody is routed, for both arms, so that every rule meets the same people:
only who answers them differs. One row is a unit, a person on a day.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Scenario = Literal["aa", "harm", "drift", "sticky", "delay", "flood", "trend"]

DAY = 86_400.0
RATING_SHARE = 0.5  # of units, at least one rating
RATE = 0.75  # of ratings, good ones
ICC = 0.3  # how alike the ratings of one sticky person are
MEAN_DELAY = {"delay": 8 * 3600.0}  # seconds from answer to rating; 10 minutes elsewhere
SKEW = 300.0  # clocks of web processes differ by up to five minutes, in the scenario "delay"
GUARDS = {"failed": 0.01, "slow": 0.05, "unsafe": 0.02}  # of units, in both arms


@dataclass(frozen=True)
class People:
    """Units in the order of their first message; times in seconds since the start.

    Attributes:
        name: the person.
        first: the unit's first message. rated: the message that is rated. arrives: its rating; infinite if none.
        skew: how wrong the clock of the process is that serves it.
        likes_control, likes_canary: the rating, from whichever arm answers.
        more, more_liked_control, more_liked_canary: ratings after the first, and how many of them are good.
        only_canary: rates nothing but the canary (an attacker).
        failed, slow, unsafe: whether a reply went wrong, in either arm.
    """

    name: list[str]
    first: Floats
    rated: Floats
    arrives: Floats
    skew: Floats
    likes_control: Bools
    likes_canary: Bools
    more: NDArray[np.int64]
    more_liked_control: NDArray[np.int64]
    more_liked_canary: NDArray[np.int64]
    only_canary: Bools
    failed: Bools
    slow: Bools
    unsafe: Bools


def draw(
    rng: np.random.Generator, scenario: Scenario, *, harm: float, votes_per_day: float, days: float, rate: float = RATE
) -> People:
    """The people of one repetition.

    Args:
        harm: what the canary adds to the chance of a good rating (negative: it is worse).
        rate: that chance, for the control.
    """
    a_day = votes_per_day / RATING_SHARE
    n = rng.poisson(a_day * days)
    first = np.sort(rng.random(n) * days * DAY)
    later = np.where(rng.random(n) < 0.3, rng.exponential(2 * 3600.0, n), 0.0)  # the rated message is a later one
    rated = np.minimum(first + later, (np.floor(first / DAY) + 1) * DAY - 1e-3)  # of the same day
    rates = rng.random(n) < RATING_SHARE
    delay = rng.exponential(MEAN_DELAY.get(scenario, 600.0), n)
    skew = rng.uniform(-SKEW, SKEW, n) if scenario == "delay" else np.zeros(n)
    arrives = np.where(rates, rated + delay + skew, np.inf)
    person = _people_by_day(rng, first, pool=int((1.2 if scenario == "sticky" else 3.0) * a_day) + 50)
    if scenario == "sticky":
        spread = (1 - ICC) / ICC
        taste = rng.beta(rate * spread, (1 - rate) * spread, int(person.max(initial=0)) + 1)[person]
        more = rng.poisson(2.0, n)
    else:
        taste = np.full(n, rate)
        more = np.zeros(n, dtype=np.int64)
    if scenario == "trend":
        taste = 0.85 - 0.20 * first / (days * DAY)
    for_canary = np.clip(taste + harm, 0.0, 1.0)
    luck = rng.random(n)
    likes_control, likes_canary = luck < taste, luck < for_canary
    liked = rng.binomial(more, taste), rng.binomial(more, for_canary)
    only_canary = np.zeros(n, dtype=bool)
    names = [f"p{number}" for number in person.tolist()]
    if scenario == "flood":  # one person, 1,000 dislikes of the canary on three of the days the canary answers him
        for day in range(int(days)):
            i = int(np.searchsorted(first, (day + 0.4) * DAY))
            if i < n:
                names[i], only_canary[i] = "attacker", True
                rated[i], arrives[i] = first[i], first[i] + 60.0
                likes_canary[i], more[i], liked[1][i] = False, 333, 0
    return People(
        names, first, rated, arrives, skew, likes_control, likes_canary, more, *liked, only_canary,
        *(rng.random(n) < chance for chance in GUARDS.values()),
    )  # fmt: skip


def _people_by_day(rng: np.random.Generator, first: Floats, *, pool: int) -> NDArray[np.int64]:
    """Who writes: each day another part of the same pool, everybody at most once a day."""
    by_day = np.bincount(np.floor(first / DAY).astype(np.int64))
    return np.concatenate([rng.permutation(max(pool, int(n)))[:n] for n in by_day]) if len(first) else by_day
