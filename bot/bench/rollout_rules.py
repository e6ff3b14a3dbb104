"""Who decides in a simulated rollout: npllm's own `decide`, and four rules that others use, on the same votes.

A rule looks at the log of ratings after each of them and says at which one it acts, and how.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bot.bench.rollout_people import Bools, Floats
from core.plans import HOUR, Plan
from core.rollouts import Action, Votes, Weighed, judge

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Log:
    """What has happened in a rollout so far; all times in seconds since its start.

    Attributes:
        y, canary, w, stage, at: per vote (a unit's first rating), in the order they came in.
        ratings, liked: per vote, all ratings of that unit and how many were good: rules that count each see these.
        assigned_canary, assigned_w, failed, slow, unsafe, first: per unit, in the order of assignment.
    """

    y: Floats
    canary: Bools
    w: Floats
    stage: Ints
    at: Floats
    ratings: Ints
    liked: Ints
    assigned_canary: Bools
    assigned_w: Floats
    failed: Bools
    slow: Bools
    unsafe: Bools
    first: Floats


@dataclass(frozen=True)
class Act:
    """A rule's act at the vote with this index (None: between votes, at the end of the look)."""

    vote: int | None
    action: Action
    reason: str
    figures: dict[str, Any]


@dataclass(frozen=True)
class Now:
    """Where a rollout stands."""

    plan: Plan
    stage: int
    stage_started: float
    state: Literal["running", "held"]
    until: float  # the end of this look


Rule = Callable[[Log, Now, int], Act | None]  # (log, now, first vote not seen yet) -> what is done, if anything


def ours(log: Log, now: Now, start: int) -> Act | None:
    """`decide`, as the controller calls it on every vote, and once more when the look ends."""
    arrays: dict[str, Any] = {
        "y": log.y, "canary": log.canary, "w": log.w, "stage": log.stage, "assigned_canary": log.assigned_canary,
        "assigned_w": log.assigned_w, "served": np.ones(len(log.first)), "failed": log.failed, "slow": log.slow,
        "unsafe": log.unsafe,
    }  # fmt: skip
    votes = Votes(**arrays, anchor="control")
    weighed = Weighed(now.plan, now.stage, votes)
    units = np.searchsorted(log.first, log.at, side="right")
    for vote in range(start, len(log.y) + 1):
        between = vote == len(log.y)
        at = now.until if between else float(log.at[vote])
        figures = weighed.figures(vote if between else vote + 1, None if between else int(units[vote]))
        decision = judge(
            now.plan, now.stage, figures, state=now.state, elapsed=at - now.stage_started, total_elapsed=at
        )
        if decision.action == "wait" or (decision.action == "hold" and now.state == "held"):
            continue
        reason = decision.reasons[0].split(" reached")[0]
        return Act(None if between else vote, decision.action, reason, figures)
    return None


def fixed_threshold(log: Log, now: Now, start: int) -> Act | None:
    """Rolled back when, after 30 ratings of the canary, its rate is 5 points below the control's."""
    n, liked = _by_arm(log)
    with np.errstate(invalid="ignore", divide="ignore"):
        bad = (n[1] >= 30) & (n[0] >= 1) & (liked[1] / n[1] < liked[0] / n[0] - 0.05)
    return _first(log, now, start, bad)


def repeated_z(log: Log, now: Now, start: int) -> Act | None:
    """Rolled back when, after 30 ratings of each, a one-sided z-test at 5 % says worse; tested at every rating."""
    n, liked = _by_arm(log)
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = (liked[0] + liked[1]) / (n[0] + n[1])
        z = (liked[1] / n[1] - liked[0] / n[0]) / np.sqrt(pooled * (1 - pooled) * (1 / n[0] + 1 / n[1]))
        bad = (n[1] >= 30) & (n[0] >= 30) & (z < -1.645)
    return _first(log, now, start, bad)


def flagger_like(log: Log, now: Now, start: int) -> Act | None:
    """Each hour's canary rate must reach 70 %; five failed checks, never reset, roll back."""
    return _counter(log, now, start, every=HOUR, most=5, fails=lambda canary, control: canary < 0.70)


def argo_like(log: Log, now: Now, start: int) -> Act | None:
    """Every six hours the canary's rate may be 10 points below the control's; more than three failures roll back."""
    return _counter(log, now, start, every=6 * HOUR, most=4, fails=lambda canary, control: canary < control - 0.10)


RULES: dict[str, Rule] = {
    "npllm": ours,
    "fixed threshold": fixed_threshold,
    "repeated z-test": repeated_z,
    "failure counter (Flagger-like)": flagger_like,
    "failure counter (Argo-like)": argo_like,
}


def _by_arm(log: Log) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Ratings and good ratings so far, of the control and of the canary, after each vote."""
    n = tuple(np.cumsum(log.ratings * arm).astype(float) for arm in (~log.canary, log.canary))
    liked = tuple(np.cumsum(log.liked * arm).astype(float) for arm in (~log.canary, log.canary))
    return (n[0], n[1]), (liked[0], liked[1])


def _counter(
    log: Log, now: Now, start: int, *, every: float, most: int, fails: Callable[[Floats, Floats], Bools]
) -> Act | None:
    """Rolled back at the first vote after the `most`-th interval that failed; an interval without data does not."""
    interval = np.maximum(log.at // every, 0).astype(np.int64)  # a clock that is behind rates before the start
    intervals = int(interval[-1]) + 1 if len(interval) else 0
    rate = []
    for arm in (log.canary, ~log.canary):
        n = np.bincount(interval, weights=log.ratings * arm, minlength=intervals)
        with np.errstate(invalid="ignore", divide="ignore"):
            rate.append(np.bincount(interval, weights=log.liked * arm, minlength=intervals) / n)
    failed = np.cumsum(fails(rate[0], rate[1]))  # comparisons with NaN are false
    before = np.concatenate([[0], failed])[interval] if len(interval) else np.zeros(0)
    return _first(log, now, start, before >= most)


def _first(log: Log, now: Now, start: int, bad: Bools) -> Act | None:
    """Roll back at the first bad vote, or go on to the next step once this one's votes and time are there."""
    stage = now.plan.stages[now.stage]
    votes = np.cumsum(log.ratings * (log.canary & (log.stage == now.stage)))
    ready = (votes >= stage.min_votes) & (log.at - now.stage_started >= stage.hold_seconds)
    acts = np.flatnonzero((bad | ready)[start:])
    if not len(acts):
        return None
    vote = start + int(acts[0])
    if bad[vote]:
        return Act(vote, "rollback", "the rule", {})
    return Act(vote, "promote" if now.stage + 1 == len(now.plan.stages) else "advance", "", {})
