"""The rules of a rollout: who gets which arm, and what the evidence allows. Pure functions.

    assign(...)   a person in an epoch -> arm and the probability it was drawn with
    decide(...)   votes so far -> advance, hold, roll back or wait, with the reasons in sentences

`bot/rollouts.py` is the hand on the lever: it reads votes, calls `decide` and changes the state.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import yaml

from core import evidence
from core.errors import BadInput

Arm = Literal["base", "champion", "challenger"]
Mode = Literal["canary", "ab", "blue-green"]
Action = Literal["wait", "advance", "promote", "hold", "rollback"]

ACTIVE = ("running", "paused", "held")
HARM_ROLLBACK = 50.0  # alpha = 0.02 over the whole rollout
HARM_HOLD = 20.0
PROMOTE = 20.0  # alpha = 0.05
SAMPLE_RATIO_HOLD = 1000.0  # alpha = 0.001
ERRORS_ROLLBACK = 100.0  # alpha = 0.01


@dataclass(frozen=True)
class Stage:
    """One step of a plan, in Argo Rollouts' words.

    Attributes:
        weight: share of units that get the challenger, 0 to 1.
        min_votes: challenger votes needed in this stage.
        hold_seconds: time needed in this stage, however clear the votes.
        margin: what the challenger may at most be worse by (absolute), to leave this stage.
    """

    weight: float
    min_votes: int
    hold_seconds: float
    margin: float


@dataclass(frozen=True)
class Plan:
    """A challenger's way to all traffic.

    Attributes:
        epoch: how long a person keeps an arm: a day, or the stage, where nobody may flip.
        expires_hours: without a decision by then the rollout is held, and a person is asked.
    """

    name: str
    stages: tuple[Stage, ...]
    mode: Mode = "canary"
    epoch: Literal["day", "stage"] = "day"
    expires_hours: float = 168.0
    historic: float = 0.75

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        return cls(**{**data, "stages": tuple(Stage(**stage) for stage in data["stages"])})


HOUR = 3600.0
PRESETS: dict[str, Plan] = {
    # For `npllm demo` alone: seconds instead of days. Votes, e-values and the controller are the real ones.
    "demo": Plan("demo", (Stage(0.50, 30, 5, 0.15),), epoch="stage", historic=0.90),
    # By rated messages a day (docs/reference: measured ladders): under 100, 100 to 1,000, 1,000 and more.
    "small": Plan("small", (Stage(0.50, 30, 24 * HOUR, 0.15),)),
    "medium": Plan("medium", (Stage(0.25, 30, 6 * HOUR, 0.15), Stage(0.50, 60, 24 * HOUR, 0.10))),
    "large": Plan(
        "large", (Stage(0.05, 30, 6 * HOUR, 0.15), Stage(0.25, 60, 6 * HOUR, 0.10), Stage(0.50, 120, 24 * HOUR, 0.05))
    ),
}


@dataclass(frozen=True)
class Votes:
    """The votes of one rollout, in the order they were given, and how its units were drawn.

    Attributes:
        stage: index of the stage each voting unit was assigned in.
        served, failed: per unit, for the error guard.
    """

    y: Sequence[float] = ()
    canary: Sequence[bool] = ()
    w: Sequence[float] = ()
    stage: Sequence[int] = ()
    assigned_canary: Sequence[bool] = ()
    assigned_w: Sequence[float] = ()
    served: Sequence[int] = ()
    failed: Sequence[int] = ()


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
    digest = hashlib.sha256(f"{salt}:{epoch}:{unit}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return ("challenger" if place < weight else control), weight


def epoch_of(plan: Plan, stage: int, at: datetime) -> str:
    """The epoch of an instant (in the context's time zone)."""
    return f"stage-{stage}" if plan.epoch == "stage" else f"{at:%Y-%m-%d}"


def decide(plan: Plan, stage: int, votes: Votes, *, state: str, elapsed: float, total_elapsed: float) -> Decision:
    """What the evidence allows now. Guards count in every state; nothing advances but a running rollout.

    Args:
        elapsed, total_elapsed: seconds in this stage, and since the start.
    """
    now = plan.stages[stage]
    y, canary, w = (np.asarray(values) for values in (votes.y, votes.canary, votes.w))
    canary = canary.astype(bool)
    harm = evidence.harm(y, canary, w, historic=plan.historic)
    in_stage = np.asarray(votes.stage, dtype=int) == stage
    no_worse = evidence.last(
        evidence.no_worse(y[in_stage], canary[in_stage], w[in_stage], margin=now.margin, historic=plan.historic)
    )
    ratio = evidence.last(evidence.sample_ratio(votes.assigned_canary, votes.assigned_w))
    errors = _errors(votes)
    stage_votes = int(np.sum(in_stage & canary))
    figures: dict[str, Any] = {
        "harm": evidence.last(harm),
        "harm_highest": float(harm.max()) if len(harm) else 1.0,
        "no_worse": no_worse,
        "sample_ratio": ratio,
        "errors": errors,
        "challenger": asdict(evidence.interval(float(y[canary].sum()), int(canary.sum()))),
        "control": asdict(evidence.interval(float(y[~canary].sum()), int((~canary).sum()))),
        "stage_votes": stage_votes,
    }

    def decision(action: Action, *reasons: str) -> Decision:
        return Decision(action, list(reasons), figures)

    highest = figures["harm_highest"]
    if highest >= HARM_ROLLBACK:
        return decision(
            "rollback", f"Evidence of harm reached {highest:.0f} (limit {HARM_ROLLBACK:.0f}): customers rate it worse."
        )
    if errors >= ERRORS_ROLLBACK:
        return decision("rollback", f"Evidence that it fails more often reached {errors:.0f} (limit 100).")
    if ratio >= SAMPLE_RATIO_HOLD:
        return decision("hold", f"Units are not split as planned (evidence {ratio:.0f}): look for a bot or a bug.")
    if figures["harm"] >= HARM_HOLD:
        return decision("hold", f"Evidence of harm is {figures['harm']:.0f} (hold at {HARM_HOLD:.0f}): weight frozen.")
    if total_elapsed >= plan.expires_hours * HOUR:
        return decision("hold", f"No decision after {plan.expires_hours:.0f} hours: promote or abort it by hand.")
    missing = []
    if stage_votes < now.min_votes:
        missing.append(f"{stage_votes} of {now.min_votes} challenger votes in this stage")
    if elapsed < now.hold_seconds:
        missing.append(f"{timedelta(seconds=int(now.hold_seconds - elapsed))} left of this stage's time")
    if no_worse < PROMOTE:
        missing.append(f"evidence of 'not worse by {now.margin:.0%}' is {no_worse:.1f} of {PROMOTE:.0f}")
    if state != "running":
        return decision("wait", f"The rollout is {state}.", *missing)
    if missing:
        return decision("wait", *missing)
    last = stage + 1 == len(plan.stages)
    return decision(
        "promote" if last else "advance",
        f"Not worse by {now.margin:.0%}: evidence {no_worse:.0f} after {stage_votes} challenger votes.",
    )


def _errors(votes: Votes) -> float:
    """One 0/1 event per unit: did any of its replies fail?"""
    served = np.asarray(votes.served) > 0
    if not served.any():
        return 1.0
    failed = (np.asarray(votes.failed) > 0)[served].astype(float)
    canary, w = np.asarray(votes.assigned_canary)[served], np.asarray(votes.assigned_w)[served]
    return evidence.last(evidence.worse_odds(failed, canary, w, historic=0.01))


def read_plan(text: str) -> Plan:
    """A plan from its YAML, in Argo's words; see docs/rollouts.md.

    Raises:
        BadInput: names the line's key and what is wrong with it.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError:
        data = None
    if not isinstance(data, dict) or not isinstance(data.get("steps"), list):
        raise BadInput("A plan is a YAML mapping with a list of `steps`.", "Start from: npllm rollout lint --example")
    _only(data, {"name", "mode", "steps"}, "The plan")
    stages: list[Stage] = []
    for number, step in enumerate(data["steps"], 1):
        stage = _read_step(step, f"Step {number}")
        if stages and stage.weight <= stages[-1].weight:
            raise BadInput(f"Step {number}: setWeight must rise from step to step.", "Reorder the steps.")
        stages.append(stage)
    if not stages:
        raise BadInput("The plan has no steps.", "Give at least one step with setWeight.")
    plan = Plan(str(data.get("name", "custom")), tuple(stages))
    if data.get("mode"):
        if data["mode"] not in ("canary", "ab", "blue-green"):
            raise BadInput(f"mode: there is no '{data['mode']}'.", "Choose canary, ab or blue-green.")
        plan = replace(plan, mode=data["mode"])
    return plan


def _read_step(step: Any, where: str) -> Stage:
    if not isinstance(step, dict):
        raise BadInput(f"{where} is no mapping.", "Write it as - setWeight: 25")
    _only(step, {"setWeight", "minVotes", "pause", "margin"}, where)
    if "setWeight" not in step:
        raise BadInput(f"{where}: setWeight is missing.", "Give the percent of people: setWeight: 25")
    pause = step.get("pause", {})
    if not isinstance(pause, dict):
        raise BadInput(f"{where}: pause is no mapping.", "Write it as pause: {duration: 6h}")
    _only(pause, {"duration"}, f"{where}: pause")
    return Stage(
        weight=_number(step["setWeight"], f"{where}: setWeight", 0.1, 99.9) / 100,
        min_votes=int(_number(step.get("minVotes", 30), f"{where}: minVotes", 1, 1_000_000)),
        hold_seconds=_duration(pause.get("duration", "6h"), f"{where}: pause.duration"),
        margin=_number(step.get("margin", 10), f"{where}: margin", 0.1, 50) / 100,
    )


def _only(found: dict[Any, Any], allowed: set[str], where: str) -> None:
    if unknown := {str(key) for key in found} - allowed:
        raise BadInput(f"{where} has unknown keys: {', '.join(sorted(unknown))}.", "See docs/rollouts.md.")


def _number(value: Any, key: str, least: float, most: float) -> float:
    """A number from `least` to `most`; NaN is in no range."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadInput(f"{key} is '{value}', which is no number.", "See docs/rollouts.md.") from None
    if not least <= number <= most:
        raise BadInput(f"{key} is {number:g}; it must be from {least:g} to {most:g}.", "See docs/rollouts.md.")
    return number


def _duration(value: Any, key: str) -> float:
    """'30s', '15m', '6h', '1d' in seconds."""
    text = str(value)
    unit = {"s": 1.0, "m": 60.0, "h": HOUR, "d": 24 * HOUR}.get(text[-1:])
    return _number(text[:-1] if unit else text, key, 0, 365 * 86400) * (unit or 1.0)
