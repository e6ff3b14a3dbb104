"""A challenger's way to all traffic: stages, presets by volume, and plans read from YAML in Argo Rollouts' words."""

import re
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any, Literal, cast, get_args

import yaml

from core.errors import BadInput

Mode = Literal["canary", "ab", "blue-green"]
Epoch = Literal["day", "stage"]
Audience = Literal["internal", "beta", "all"]
OnGuardrail = Literal["rollback", "freeze"]

HOUR = 3600.0
DAY = 24 * HOUR
LONGEST = 365 * DAY
_UNITS = {"s": 1.0, "m": 60.0, "h": HOUR, "d": DAY}


@dataclass(frozen=True)
class Stage:
    """One step of a plan, in Argo Rollouts' words.

    Attributes:
        weight: share of units that get the challenger, 0 to 1 (of those not held back).
        min_votes: challenger votes needed in this stage.
        hold_seconds: time needed in this stage, however clear the votes.
        margin: what the challenger may at most be worse by (absolute), to leave this stage.
        audience: who may be drawn; everybody else keeps the champion and is no part of the evidence.
        approval: leaving this stage takes a person's word (Argo's `pause: {}`).
    """

    weight: float
    min_votes: int
    hold_seconds: float
    margin: float
    audience: Audience = "all"
    approval: bool = False


@dataclass(frozen=True)
class Plan:
    """A challenger's way to all traffic.

    Attributes:
        epoch: how long a person keeps an arm: a day, or the stage, where nobody may flip.
        expires_hours: without a decision by then the rollout is held, and a person is asked.
        historic: the champion's satisfaction before this rollout, a guess that 20 votes outweigh.
        on_guardrail: what proof of harm does: roll back, or freeze the weight and ask. Hard stops always roll back.
        require_approval: the step to all traffic takes a person's word, however clear the evidence.
        holdback: share of units on the frozen base; None: the deployment's setting.
        anchor_margin: what the challenger may at most be worse by than the frozen base (absolute) on its way to all
            traffic. It is measured from a point that never moves, so that many small steps down do not add up.
        left: the steps that a canary had before it when it went on in another mode: what it comes back to.
    """

    name: str
    stages: tuple[Stage, ...]
    mode: Mode = "canary"
    epoch: Epoch = "day"
    expires_hours: float = 168.0
    historic: float = 0.75
    on_guardrail: OnGuardrail = "rollback"
    require_approval: bool = False
    holdback: float | None = None
    anchor_margin: float = 0.05
    left: tuple[Stage, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        ladders = {name: tuple(Stage(**stage) for stage in data.get(name, ())) for name in ("stages", "left")}
        return cls(**{**data, **ladders})


PRESETS: dict[str, Plan] = {
    # For `npllm demo` alone: seconds instead of days. Votes, e-values and the controller are the real ones.
    "demo": Plan("demo", (Stage(0.50, 30, 5, 0.15),), epoch="stage", historic=0.90, anchor_margin=0.15),
    # By rated messages a day: under 30, under 100, 100 to 1,000, 1,000 and more.
    "tiny": Plan("tiny", (Stage(0.50, 10, DAY, 0.15),), require_approval=True, anchor_margin=0.15),
    "small": Plan("small", (Stage(0.50, 30, DAY, 0.15),), require_approval=True, anchor_margin=0.15),
    "medium": Plan("medium", (Stage(0.25, 30, 6 * HOUR, 0.15), Stage(0.50, 60, DAY, 0.10)), anchor_margin=0.10),
    "large": Plan(
        "large", (Stage(0.05, 30, 6 * HOUR, 0.15), Stage(0.25, 60, 6 * HOUR, 0.10), Stage(0.50, 120, DAY, 0.05))
    ),
}


def preset_for(votes_per_day: float) -> Plan:
    """The preset whose evidence this many rated answers a day can carry."""
    if votes_per_day >= 1000:
        return PRESETS["large"]
    if votes_per_day >= 100:
        return PRESETS["medium"]
    return PRESETS["small" if votes_per_day >= 30 else "tiny"]


def read_plan(text: str) -> Plan:
    """A plan from its YAML, in Argo's words; see docs/rollouts.md.

    Steps may be written whole (`- {setWeight: 25, pause: {duration: 6h}, margin: 10}`) or, as Argo has them, one
    after the other (`- setWeight: 25`, `- pause: {duration: 6h}`, `- analysis: {minVotes: 60, margin: 10}`): a step
    without setWeight belongs to the one before.

    Raises:
        BadInput: names the line's key and what is wrong with it.
    """
    data = _load(text)
    if not isinstance(data, dict) or not isinstance(data.get("steps"), list):
        raise BadInput("A plan is a YAML mapping with a list of `steps`.", "Start from: npllm rollout lint --example")
    _only(
        data,
        {"name", "mode", "epoch", "steps", "onGuardrail", "holdback", "requireApproval", "expires", "historic",
         "anchorMargin"},
        "The plan",
    )  # fmt: skip
    mode = cast(Mode, _choice(data.get("mode", "canary"), "mode", get_args(Mode)))
    stages = _read_steps(data["steps"], most=100.0 if mode == "blue-green" else 99.9)
    plan = Plan(
        name=_name(data.get("name", "custom")),
        stages=stages,
        mode=mode,
        epoch=cast(Epoch, _choice(data.get("epoch", "day"), "epoch", get_args(Epoch))),
        on_guardrail=cast(
            OnGuardrail, _choice(data.get("onGuardrail", "rollback"), "onGuardrail", get_args(OnGuardrail))
        ),
        require_approval=_yes_or_no(data.get("requireApproval", False), "requireApproval"),
    )
    if "expires" in data:
        plan = replace(plan, expires_hours=_duration(data["expires"], "expires", least=HOUR) / HOUR)
    if "holdback" in data:
        plan = replace(plan, holdback=_number(data["holdback"], "holdback", 0, 50) / 100)
    if "historic" in data:
        plan = replace(plan, historic=_number(data["historic"], "historic", 1, 99) / 100)
    if "anchorMargin" in data:
        plan = replace(plan, anchor_margin=_number(data["anchorMargin"], "anchorMargin", 0.1, 50) / 100)
    least = sum(stage.hold_seconds for stage in stages) / HOUR
    if least >= plan.expires_hours:
        raise BadInput(
            f"expires: the steps take at least {least:g} hours, and after {plan.expires_hours:g} it is held: it would"
            " never reach all traffic.",
            "Shorten the pauses, or give it longer: expires: 14d",
        )
    if mode != "canary" and len(stages) > 1:
        raise BadInput(f"mode: {mode} has one step, not {len(stages)}.", "Keep one setWeight, or choose canary.")
    if mode == "blue-green" and stages[0].weight != 1:
        raise BadInput("Step 1: setWeight: blue-green goes to all at once, after its checks.", "Write setWeight: 100.")
    if mode == "blue-green" and plan.holdback == 0:
        raise BadInput(
            "holdback: blue-green needs one: without it nobody is left to compare with.", "Give 5 to 10 percent."
        )
    return plan


class _Loader(yaml.SafeLoader):
    """Of two keys alike YAML takes the last one without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"{key.value} stands there twice", key.start_mark)
            seen.add(str(key.value))
        return node


def _load(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        wrong = f"line {line}: {error.problem or error.context}"
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that there is not
        wrong = str(error).splitlines()[0]
    except RecursionError:
        wrong = "it is nested too deeply"
    raise BadInput(
        f"A plan is a YAML mapping with a list of `steps`; {wrong}.", "Start from: npllm rollout lint --example"
    )


def _read_steps(steps: list[Any], *, most: float) -> tuple[Stage, ...]:
    """Every step with setWeight opens a stage; what follows without it belongs to that stage."""
    groups: list[list[tuple[str, dict[str, Any]]]] = []
    for number, step in enumerate(steps, 1):
        where = f"Step {number}"
        if not isinstance(step, dict):
            raise BadInput(f"{where} is no mapping.", "Write it as - setWeight: 25")
        _only(step, {"setWeight", "minVotes", "pause", "margin", "analysis", "audience"}, where)
        if "setWeight" in step:
            groups.append([])
        elif not groups:
            raise BadInput(f"{where}: setWeight is missing.", "Give the percent of people: setWeight: 25")
        groups[-1].append((where, step))
    if not groups:
        raise BadInput("The plan has no steps.", "Give at least one step with setWeight.")
    stages: list[Stage] = []
    for group in groups:
        where, first = group[0]
        paused = any("pause" in step for _, step in group)
        stage = Stage(
            weight=_number(first["setWeight"], f"{where}: setWeight", 0.1, most) / 100,
            min_votes=30,
            hold_seconds=0.0 if paused else 6 * HOUR,
            margin=0.10,
            audience=stages[-1].audience if stages else "all",
        )
        for at, step in group:
            stage = _read_step(stage, step, at)
        if stages:
            _check_order(stages[-1], stage, where)
        stages.append(stage)
    return tuple(stages)


def _read_step(stage: Stage, step: dict[str, Any], where: str) -> Stage:
    """The stage with what this step says of it."""
    analysis = {} if step.get("analysis") is None else step["analysis"]
    if not isinstance(analysis, dict):
        raise BadInput(f"{where}: analysis is no mapping.", "Write it as analysis: {minVotes: 60, margin: 10}")
    _only(analysis, {"minVotes", "margin"}, f"{where}: analysis")
    for found, prefix in ((step, where), (analysis, f"{where}: analysis")):
        if "minVotes" in found:
            votes = _number(found["minVotes"], f"{prefix}: minVotes", 1, 1_000_000)
            if votes != int(votes):
                raise BadInput(f"{prefix}: minVotes is {votes:g}; votes are whole.", "See docs/rollouts.md.")
            stage = replace(stage, min_votes=int(votes))
        if "margin" in found:
            stage = replace(stage, margin=_number(found["margin"], f"{prefix}: margin", 0.1, 50) / 100)
    if "audience" in step:
        audience = _choice(step["audience"], f"{where}: audience", get_args(Audience))
        stage = replace(stage, audience=cast(Audience, audience))
    if "pause" in step:
        pause = {} if step["pause"] is None else step["pause"]
        if not isinstance(pause, dict):
            raise BadInput(f"{where}: pause is no mapping.", "Write it as pause: {duration: 6h}")
        _only(pause, {"duration"}, f"{where}: pause")
        if "duration" in pause:
            more = _duration(pause["duration"], f"{where}: pause.duration")
            stage = replace(stage, hold_seconds=stage.hold_seconds + more)
        else:
            stage = replace(stage, approval=True)  # Argo's `pause: {}` waits for a person
    return stage


def _check_order(before: Stage, after: Stage, where: str) -> None:
    circles = get_args(Audience)
    if circles.index(after.audience) < circles.index(before.audience):
        raise BadInput(
            f"{where}: audience {after.audience} is narrower than {before.audience} before it.",
            "Go from internal to beta to all.",
        )
    if after.audience == before.audience and after.weight <= before.weight:
        raise BadInput(f"{where}: setWeight must rise from step to step.", "Reorder the steps.")


def _only(found: dict[Any, Any], allowed: set[str], where: str) -> None:
    if unknown := {str(key) for key in found} - allowed:
        raise BadInput(f"{where} has unknown keys: {', '.join(sorted(unknown))}.", "See docs/rollouts.md.")


def _choice(value: Any, key: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise BadInput(f"{key}: there is no '{value}'.", f"Choose {', '.join(choices[:-1])} or {choices[-1]}.")
    return str(value)


def _yes_or_no(value: Any, key: str) -> bool:
    if not isinstance(value, bool):
        raise BadInput(f"{key} is '{value}'; it must be true or false.", "See docs/rollouts.md.")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str | int | float | date) or not (name := str(value)).isprintable() or len(name) > 80:
        raise BadInput("name is no short text.", "Write it as name: careful")
    return name


def _number(value: Any, key: str, least: float, most: float) -> float:
    """A number from `least` to `most`; NaN is in no range, and `true` is no 1."""
    try:
        number = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        raise BadInput(f"{key} is '{str(value)[:40]}', which is no number.", "See docs/rollouts.md.") from None
    if not least <= number <= most:
        raise BadInput(f"{key} is {number:g}; it must be from {least:g} to {most:g}.", "See docs/rollouts.md.")
    return number


def _duration(value: Any, key: str, least: float = 0.0) -> float:
    """'30s', '15m', '6h', '1d' or '1h30m' in seconds; a bare number is seconds."""
    text = str(value).replace(" ", "")
    if re.fullmatch(r"[0-9.]+", text):
        text += "s"
    if not re.fullmatch(r"([0-9]+(\.[0-9]+)?[smhd])+", text):
        raise BadInput(f"{key} is '{text[:40]}', which is no duration.", "Write 30s, 15m, 6h, 1d or 1h30m.")
    seconds = sum(float(count) * _UNITS[unit] for count, unit in re.findall(r"([0-9.]+)([smhd])", text))
    if not least <= seconds <= LONGEST:
        raise BadInput(f"{key} is {text[:40]}; it must be from {least:g} seconds to 365d.", "See docs/rollouts.md.")
    return seconds
