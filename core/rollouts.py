"""The rules of a rollout: who gets which arm, and what the evidence allows. Pure functions.

    assign(...)   a person in an epoch -> arm and the probability it was drawn with
    decide(...)   votes so far -> advance, hold, roll back or wait, with the reasons in sentences

`core/plans.py` holds the plans; `bot/rollout_look.py` is the hand on the lever: it reads votes, calls `decide` and
changes the state.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core import evidence
from core.evidence import said
from core.plans import HOUR, PRESETS, Mode, Plan, Stage, preset_for, read_plan

__all__ = [
    "ACTIVE", "PRESETS", "Action", "Arm", "Decision", "Mode", "Plan", "Stage", "Votes", "Weighed", "assign", "decide",
    "epoch_of", "held_back", "judge", "preset_for", "read_plan", "solicits", "weigh",
]  # fmt: skip

Arm = Literal["base", "champion", "challenger", "holdback"]
Action = Literal["wait", "advance", "promote", "hold", "resume", "rollback"]
Anchor = Literal["control", "holdback", "none"]
Stop = Literal["hash-mismatch", "non-finite", "load-failure"]

ACTIVE = ("running", "paused", "held")
# Chances of a false rollback over a whole rollout: 0.02 for what people say, 0.004 for the technical guards together
# (at 0.01 + 0.005 + 0.005 they made 14 of 1,000 harmless rollouts fail), and 0.01 for drift after the promotion.
HARM_ROLLBACK = 50.0  # alpha = 0.02
HARM_HOLD = 20.0
HARM_RELEASE = 10.0  # what was held for harm goes on when the evidence has halved: no flapping around one number
ERRORS_ROLLBACK = 500.0  # alpha = 0.002
SLOW_ROLLBACK = 1000.0  # alpha = 0.001
UNSAFE_ROLLBACK = 1000.0  # alpha = 0.001
GUARD_OPEN = 20.0  # nothing advances while a technical guard stands this high
PROMOTE = 20.0  # alpha = 0.05
SAMPLE_RATIO_HOLD = 1000.0  # alpha = 0.001
SOLICITED_HOLD = 50.0
FAILURES_IN_A_ROW = 5
LIMITS = {  # of the figures that `Weighed` gives, beside harm and "not worse"
    "errors": ERRORS_ROLLBACK, "slow": SLOW_ROLLBACK, "unsafe": UNSAFE_ROLLBACK, "sample_ratio": SAMPLE_RATIO_HOLD,
    "rating_ratio": SAMPLE_RATIO_HOLD, "harm_solicited": SOLICITED_HOLD,
}  # fmt: skip

STOPS: dict[Stop, str] = {
    "hash-mismatch": "Its files are not the ones that were registered (SHA-256 differs).",
    "non-finite": "It computes values that are not finite.",
    "load-failure": "It cannot be loaded.",
}


@dataclass(frozen=True)
class Votes:
    """What a rollout has seen: its votes in the order they were given, and its units in the order of assignment.

    One vote per unit (a person in an epoch): its first rating. Arm, `w` and stage of a vote are those of the message
    that was rated, as they were logged when it was served; never those of the moment the rating came in, and never
    those of the unit's first message where the weight changed since: a place in [0, 1) is kept while the weight moves,
    so only the rated message's own arm was drawn with its own probability.

    Attributes:
        y, canary, w, stage: challenger against control (blue-green: against the held back, who are its control; else
            without them): rating from 0 to 1, arm, probability of the challenger, index of the stage.
        solicited: per vote, whether the unit was asked for a rating by the coin (`solicits`).
        assigned_canary, assigned_w: per unit.
        served, failed, slow, unsafe: per unit, how many replies were served, failed, were slower than the control's
            95th percentile, were stopped by the safety filter or handed over. A unit counts once in each guard.
        anchor: what stands for the frozen base: the control itself, the holdback, or nothing.
        anchor_y, anchor_canary, anchor_w: votes of the challenger and of the holdback, in the order they were given;
            `w` is the challenger's chance among these two (`anchor_weight`).
        failures_in_a_row: technical failures of the challenger's latest replies, unbroken by a success.
        stops: what was found wrong with the challenger itself.
    """

    y: Sequence[float] = ()
    canary: Sequence[bool] = ()
    w: Sequence[float] = ()
    stage: Sequence[int] = ()
    assigned_canary: Sequence[bool] = ()
    assigned_w: Sequence[float] = ()
    served: Sequence[int] = ()
    failed: Sequence[int] = ()
    slow: Sequence[int] = ()
    unsafe: Sequence[int] = ()
    solicited: Sequence[bool] = ()
    anchor: Anchor = "none"
    anchor_y: Sequence[float] = ()
    anchor_canary: Sequence[bool] = ()
    anchor_w: Sequence[float] = ()
    failures_in_a_row: int = 0
    stops: Sequence[Stop] = ()


@dataclass(frozen=True)
class Decision:
    """What to do, why, and the figures a person would ask for."""

    action: Action
    reasons: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def assign(*, salt: str, unit: str, epoch: str, weight: float, control: Arm) -> tuple[Arm, float]:
    """The arm of a unit, and the probability of the challenger it was drawn with.

    The hash is uniform, so a unit's place on [0, 1) never moves within an epoch: when the weight rises, units
    join the challenger and none leaves it.
    """
    return ("challenger" if _place(f"{salt}:{epoch}:{unit}") < weight else control), weight


def held_back(*, salt: str, unit: str, epoch: str, share: float) -> bool:
    """Whether a unit stays on the frozen base, rollout or not. The salt is the context's: it outlives rollouts."""
    return _place(f"holdback:{salt}:{epoch}:{unit}") < share


def solicits(*, salt: str, unit: str, epoch: str, share: float = 0.08) -> bool:
    """The coin that asks a unit for a rating; the same in both arms, so that who answers was not chosen by mood."""
    return _place(f"solicit:{salt}:{epoch}:{unit}") < share


def anchor_weight(weight: float, holdback: float) -> float:
    """The challenger's chance among challenger and holdback, where the held back are drawn first."""
    return (1 - holdback) * weight / ((1 - holdback) * weight + holdback)


def epoch_of(plan: Plan, stage: int, at: datetime) -> str:
    """The epoch of an instant (in the context's time zone)."""
    return f"stage-{stage}" if plan.epoch == "stage" else at.date().isoformat()


def _place(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def decide(plan: Plan, stage: int, votes: Votes, *, state: str, elapsed: float, total_elapsed: float) -> Decision:
    """What the evidence allows now. Guards count in every state; nothing advances but a running rollout.

    Args:
        elapsed, total_elapsed: seconds in this stage, and since the start.
    """
    figures = weigh(plan, stage, votes)
    return judge(
        plan, stage, figures, state=state, elapsed=elapsed, total_elapsed=total_elapsed,
        failures_in_a_row=votes.failures_in_a_row, stops=votes.stops,
    )  # fmt: skip


def weigh(plan: Plan, stage: int, votes: Votes) -> dict[str, Any]:
    """The figures of a rollout: every evidence now, and what people said of both arms."""
    return Weighed(plan, stage, votes).figures()


class Weighed:
    """Every evidence of a rollout, after each of its votes and units.

    What was known after the first n votes is the beginning of what is known now, so one pass gives every look there
    ever was: the controller reads the last one, a simulation all of them.
    """

    def __init__(self, plan: Plan, stage: int, votes: Votes) -> None:
        y, w = (np.asarray(values, dtype=float) for values in (votes.y, votes.w))
        canary = np.asarray(votes.canary, dtype=bool)
        here = np.asarray(votes.stage, dtype=int) == stage
        margin, historic = plan.stages[stage].margin, plan.historic
        self._harm = evidence.harm(y, canary, w, historic=historic)
        self._highest = np.maximum.accumulate(self._harm) if len(y) else self._harm
        self._no_worse = evidence.no_worse(y[here], canary[here], w[here], margin=margin, historic=historic)
        self._rating_ratio = evidence.sample_ratio(canary, w)
        self._sample_ratio = evidence.sample_ratio(votes.assigned_canary, votes.assigned_w)
        asked = np.zeros(len(y), dtype=bool)
        if len(votes.solicited) == len(y):
            asked = np.asarray(votes.solicited, dtype=bool)
        self._solicited = evidence.harm(y[asked], canary[asked], w[asked], historic=historic)
        self._anchor, self._anchored = None, votes.anchor == "control"
        if votes.anchor == "control":
            self._anchor = evidence.no_worse(y, canary, w, margin=plan.anchor_margin, historic=historic)
        elif votes.anchor == "holdback":
            self._anchor = evidence.no_worse(
                votes.anchor_y, votes.anchor_canary, votes.anchor_w, margin=plan.anchor_margin, historic=historic
            )
        self._guards = {
            "errors": _guard(votes, votes.failed, historic=0.01),
            "slow": _guard(votes, votes.slow, historic=0.05),
            "unsafe": _guard(votes, votes.unsafe, historic=0.02),
        }
        self._served = _counts(np.asarray(votes.served) > 0)
        self._here, self._asked = _counts(here), _counts(asked)
        self._here_canary = _counts(here & canary)
        self._canary, self._liked = _counts(canary), np.concatenate([[0.0], np.cumsum(y)])
        self._canary_liked = np.concatenate([[0.0], np.cumsum(y * canary)])

    def figures(self, votes: int | None = None, units: int | None = None, anchors: int | None = None) -> dict[str, Any]:
        """The figures now, or as they stood after the first `votes`, `units` and votes of the anchor."""
        n = len(self._canary) - 1 if votes is None else votes
        served = int(self._served[-1 if units is None else min(units, len(self._served) - 1)])
        canary, liked = int(self._canary[n]), float(self._canary_liked[n])
        return {
            "harm": _at(self._harm, n),
            "harm_highest": _at(self._highest, n),
            "no_worse": _at(self._no_worse, int(self._here[n])),
            "anchor": None if self._anchor is None else _at(self._anchor, n if self._anchored else anchors),
            "sample_ratio": _at(self._sample_ratio, units),
            "rating_ratio": _at(self._rating_ratio, n),
            "harm_solicited": _at(self._solicited, int(self._asked[n])),
            **{name: _at(process, served) for name, process in self._guards.items()},
            "challenger": dict(vars(evidence.interval(liked, canary))),
            "control": dict(vars(evidence.interval(float(self._liked[n]) - liked, n - canary))),
            "stage_votes": int(self._here_canary[n]),
        }


def judge(
    plan: Plan, stage: int, figures: dict[str, Any], *, state: str, elapsed: float, total_elapsed: float,
    failures_in_a_row: int = 0, stops: Sequence[Stop] = (),
) -> Decision:  # fmt: skip
    """The decision on figures from `weigh`: first what rolls back, then what holds, then what is missing."""
    now, final = plan.stages[stage], stage + 1 == len(plan.stages)

    def decision(action: Action, *reasons: str) -> Decision:
        return Decision(action, list(reasons), figures)

    if stops:
        return decision("rollback", *[STOPS[stop] for stop in stops])
    if failures_in_a_row >= FAILURES_IN_A_ROW:
        return decision("rollback", f"Its last {failures_in_a_row} replies failed, one after the other.")
    proof = [
        f"{what} reached {said(figures[name])} (limit {limit:.0f}){because}."
        for name, limit, what, because in (
            ("harm_highest", HARM_ROLLBACK, "Evidence of harm", ": customers rate it worse"),
            ("errors", ERRORS_ROLLBACK, "Evidence that it fails more often", ""),
            ("slow", SLOW_ROLLBACK, "Evidence that it is slow more often", ""),
            ("unsafe", UNSAFE_ROLLBACK, "Evidence that it is stopped or handed over more often", ""),
        )
        if figures[name] >= limit
    ]
    if proof and plan.on_guardrail == "rollback":
        return decision("rollback", *proof)
    if proof:
        return decision("hold", *proof, "The plan freezes its weight instead of rolling back: abort it, or go on.")
    ratio, rated, asked = figures["sample_ratio"], figures["rating_ratio"], figures["harm_solicited"]
    harm = figures["harm"]
    if ratio >= SAMPLE_RATIO_HOLD:
        return decision("hold", f"Units are not split as planned (evidence {said(ratio)}): look for a bot or a bug.")
    if rated >= SAMPLE_RATIO_HOLD:
        return decision(
            "hold", f"One arm is rated more often than it serves (evidence {said(rated)}): its ratings are biased."
        )
    if harm >= HARM_HOLD:
        return decision("hold", f"Evidence of harm is {said(harm)} (hold at {HARM_HOLD:.0f}): weight frozen.")
    if asked >= SOLICITED_HOLD:
        return decision("hold", f"People who were asked by the coin rate it worse (evidence {said(asked)}).")
    if total_elapsed >= plan.expires_hours * HOUR:
        return decision("hold", overdue(plan))
    missing = []
    if figures["stage_votes"] < now.min_votes:
        missing.append(f"{figures['stage_votes']} of {now.min_votes} challenger votes in this stage")
    if elapsed < now.hold_seconds:
        missing.append(f"{timedelta(seconds=int(now.hold_seconds - elapsed))} left of this stage's time")
    if figures["no_worse"] < PROMOTE:
        so_far = said(figures["no_worse"], 1)
        missing.append(f"evidence of 'not worse by {now.margin:.0%}' is {so_far} of {PROMOTE:.0f}")
    if final and figures["anchor"] is not None and figures["anchor"] < PROMOTE:
        missing.append(
            f"evidence of 'not worse than the base by {plan.anchor_margin:.0%}' is {said(figures['anchor'], 1)}"
            f" of {PROMOTE:.0f}"
        )
    for name, what in (("errors", "fails"), ("slow", "is slow"), ("unsafe", "is stopped or handed over")):
        if figures[name] >= GUARD_OPEN:
            missing.append(f"evidence that it {what} more often is {said(figures[name])}, not under {GUARD_OPEN:.0f}")
    asks = now.approval or (final and plan.require_approval)
    if state == "held" and figures["harm_highest"] >= HARM_HOLD and HARM_RELEASE > harm and (missing or not asks):
        return decision("resume", f"Evidence of harm fell back to {said(harm, 1)}: the weight is free again.")
    if state != "running":
        return decision("wait", f"The rollout is {state}.", *missing)
    if missing:
        return decision("wait", *missing)
    proved = (
        f"Not worse by {now.margin:.0%}: evidence {said(figures['no_worse'])}"
        f" after {figures['stage_votes']} challenger votes."
    )
    if asks:
        return decision("hold", proved, "The plan wants a person's word: npllm rollout promote.")
    return decision("promote" if final else "advance", proved)


def overdue(plan: Plan) -> str:
    return f"No decision after {plan.expires_hours:.0f} hours: promote or abort it by hand."


def _guard(votes: Votes, counts: Sequence[int], *, historic: float) -> evidence.Array:
    """One 0/1 event per unit that was served: did it happen to any of its replies?"""
    served = np.asarray(votes.served) > 0
    if not len(counts) or not served.any():
        return np.ones(0)
    event = (np.asarray(counts) > 0)[served].astype(float)
    canary, w = np.asarray(votes.assigned_canary)[served], np.asarray(votes.assigned_w)[served]
    return evidence.worse_odds(event, canary, w, historic=historic)


def _counts(marked: ArrayLike) -> NDArray[np.int64]:
    """How many are marked among the first 0, 1, 2, ..."""
    return np.concatenate([[0], np.cumsum(np.asarray(marked, dtype=np.int64))]).astype(np.int64)


def _at(process: evidence.Array, n: int | None) -> float:
    """A process after n of its events, or now; 1 before the first."""
    n = len(process) if n is None else min(n, len(process))
    return float(process[n - 1]) if n else 1.0
