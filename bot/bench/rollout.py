"""Rollouts on simulated people, through the real router's `choose` and the real decision code.

One repetition draws a week of people (`rollout_people`), then lets each rule (`rollout_rules`) take the same people
through the plan: stage after stage, until it promotes, rolls back, or the week is over.
"""

import os
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from typing import Any, get_args

import numpy as np

from bot.bench.rollout_people import DAY, RATE, People, Scenario, draw
from bot.bench.rollout_rules import RULES, Log, Now, Rule
from bot.router import BASE, Routes, Served, choose
from core import drift
from core.errors import BadInput
from core.plans import HOUR, Plan, preset_for
from core.rollouts import SAMPLE_RATIO_HOLD, held_back

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
LOOK = 6 * HOUR  # people are simulated this far ahead of a decision, then anew from where it fell
MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
HOLDBACK = 0.10  # on the old version after a promotion, in the scenario "drift"
AFTER = 10.0  # days that a promoted version is watched there; it falls at the half


@dataclass(frozen=True)
class Outcome:
    """How one rollout ended under one rule.

    Attributes:
        state: promoted, rolled_back, or held (undecided at the end of the week, or waiting for a person).
        canary_votes: of the canary until then, one a unit.
        days: since the start.
        split: canary units less expected ones, in standard deviations.
    """

    state: str
    canary_votes: int
    days: float
    reason: str = ""
    split: float = 0.0
    split_alarm: bool = False
    undone: int | None = None  # votes from the fall to the alarm of the two arms; -1: before it; None: never
    paged: int | None = None  # the same for the one stream


def run(
    *, scenario: Scenario, harm: float | None = None, share: float | None = None, votes_per_day: float = 1000.0,
    reps: int = 1000, seed: int = 1, rules: bool = True, processes: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """All repetitions, on every core; one object for `--json`.

    Args:
        harm: what the canary adds to the rate of good ratings; by default -0.20 in `harm` and `drift`, else 0. `aa`
            compares a version with its like: always 0.
        share: the first stage's share; later ones follow the preset.
        rules: whether the other rules run beside, on the same people.
    """
    started = time.monotonic()
    if harm is None:
        harm = -0.20 if scenario in ("harm", "drift") else 0.0
    harm = 0.0 if scenario == "aa" else harm
    plan = plan_for(votes_per_day, share)
    workers = min(processes or os.cpu_count() or 1, reps)
    names = list(RULES) if rules else ["npllm"]
    tasks = [
        (range(first, reps, workers * 4), scenario, harm, votes_per_day, plan, seed, names)
        for first in range(min(workers * 4, reps))
    ]
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        parts = list(pool.map(_repeat, tasks))
    outcomes = {name: [outcome for part in parts for outcome in part[name]] for name in names}
    mine, harmless = outcomes["npllm"], harm >= 0 or scenario == "drift"
    found = {
        "scenario": scenario, "harm": harm, "votes_per_day": votes_per_day, "reps": reps, "seed": seed,
        "plan": plan.name, "share": plan.stages[0].weight, "stages": [stage.weight for stage in plan.stages],
        **summary(mine),
        "false_rollback_rate": sum(o.state == "rolled_back" for o in mine) / reps if harmless else None,
        "reasons": _reasons(mine),
        "split_sigmas": round(float(np.sum([o.split for o in mine]) / np.sqrt(reps)), 2),
        "split_alarms": sum(o.split_alarm for o in mine),
        "rules": {name: summary(outcomes[name]) for name in names},
    }  # fmt: skip
    if scenario == "drift":
        found["drift"] = _drift_summary(mine)
    return found | {"seconds": round(time.monotonic() - started, 1)}


def scenario_of(name: str) -> Scenario:
    """The scenario of this name.

    Raises:
        BadInput: there is none.
    """
    for scenario in SCENARIOS:
        if scenario == name:
            return scenario
    raise BadInput(f"There is no scenario '{name}'.", f"Choose one of: {', '.join(SCENARIOS)}.")


def plan_for(votes_per_day: float, share: float | None) -> Plan:
    """The volume's preset; with `share`, from that share on: the stage of that weight, else one like the last below."""
    preset = preset_for(votes_per_day)
    if share is None:
        return preset
    if not 0 < share < 1:
        raise BadInput(f"A share of {share:g} leaves one arm without people.", "Give one between 0 and 1: 0.25")
    below = [stage for stage in preset.stages if stage.weight <= share] or [preset.stages[0]]
    rest = tuple(stage for stage in preset.stages if stage.weight > share)
    return replace(preset, stages=(replace(below[-1], weight=share), *rest))


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Counts, delays in canary votes, days."""

    def of(state: str, what: str) -> list[float]:
        return [float(getattr(outcome, what)) for outcome in outcomes if outcome.state == state]

    return {
        "rollbacks": len(of("rolled_back", "days")),
        "promoted": len(of("promoted", "days")),
        "held": len(of("held", "days")),
        "delay": _quantiles(of("rolled_back", "canary_votes")),
        "days": {"promoted": _quantiles(of("promoted", "days")), "rolled_back": _quantiles(of("rolled_back", "days"))},
    }


def walk(people: People, plan: Plan, rule: Rule, *, salt: str, memory: dict[Any, Any] | None = None) -> Outcome:
    """One rollout under one rule, from the first share to its end."""
    memory = {} if memory is None else memory
    n, end = len(people.first), plan.expires_hours * HOUR
    assigned, voted = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)  # the arm of the first and of the rated message
    assigned_w, w, stages = np.zeros(n), np.zeros(n), np.zeros(n, dtype=np.int64)
    stage: int = 0
    state: Any = "running"
    started = now = 0.0
    log: list[int] = []
    while now < end:
        until = min((np.floor(now / LOOK) + 1) * LOOK, end)
        weight = plan.stages[stage].weight
        arms = _drawn(people, plan, stage, until, salt, memory)
        first, rated = (_between(times, now, until) for times in (people.first, people.rated))
        first, rated = np.flatnonzero(first), np.flatnonzero(rated & np.isfinite(people.arrives))
        assigned[first], assigned_w[first] = arms[0][first], weight
        voted[rated], w[rated], stages[rated] = arms[1][rated], weight, stage
        coming = np.flatnonzero(_between(people.arrives, now, until))
        coming = coming[voted[coming] | ~people.only_canary[coming]]
        coming = coming[np.argsort(people.arrives[coming], kind="stable")]
        votes = np.concatenate([np.array(log, dtype=np.int64), coming])
        units = int(np.searchsorted(people.first, until))
        record = _log(people, votes, units, assigned, assigned_w, voted, w, stages)
        act = rule(record, Now(plan, stage, started, state, until), len(log))
        if act is None:
            log, now = votes.tolist(), until
            continue
        at = until if act.vote is None else float(people.arrives[votes[act.vote]])
        log = (votes if act.vote is None else votes[: act.vote + 1]).tolist()
        if act.action in ("rollback", "promote"):
            ended = "promoted" if act.action == "promote" else "rolled_back"
            units = int(np.searchsorted(people.first, at))
            return _outcome(ended, act.reason, at, voted[log], assigned[:units], assigned_w[:units], act.figures)
        now = at
        if act.action in ("hold", "resume"):
            state = "held" if act.action == "hold" else "running"
        else:
            stage, started = stage + 1, at
    units = int(np.searchsorted(people.first, end))
    return _outcome("held", "", end, voted[log], assigned[:units], assigned_w[:units], {})


def _between(times: Any, after: float, until: float) -> Any:
    return (times > after) & (times <= until) if after else times <= until


def _drawn(people: People, plan: Plan, stage: int, until: float, salt: str, memory: dict[Any, Any]) -> Any:
    """The router's arms for first and rated messages of one look, under one stage's weight. Drawn once a repetition."""
    key = (until, plan.stages[stage].weight)
    if key not in memory:
        routes = Routes(
            champion=BASE, rollout_id=uuid.UUID(int=1), challenger=Served(uuid.UUID(int=2), "canary"), control=BASE,
            control_arm="base", weight=plan.stages[stage].weight, salt=salt, stage=stage, plan=plan,
        )  # fmt: skip
        n = len(people.first)
        first, rated = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)

        def canary(i: int, at: float) -> bool:
            clock = MONDAY + timedelta(seconds=max(0.0, at + float(people.skew[i])))
            return choose(routes, people.name[i], clock).arm == "challenger"

        for i in np.flatnonzero(_between(people.first, until - LOOK, until)).tolist():
            first[i] = canary(i, float(people.first[i]))
        in_look = _between(people.rated, until - LOOK, until) & np.isfinite(people.arrives)
        for i in np.flatnonzero(in_look).tolist():
            same = people.rated[i] == people.first[i]
            rated[i] = first[i] if same else canary(i, float(people.rated[i]))
        memory[key] = (first, rated)
    return memory[key]


def _log(
    people: People, votes: Any, units: int, assigned: Any, assigned_w: Any, voted: Any, w: Any, stages: Any
) -> Log:
    canary = voted[votes]
    y = np.where(canary, people.likes_canary[votes], people.likes_control[votes])
    more = np.where(canary, people.more_liked_canary[votes], people.more_liked_control[votes])
    return Log(
        y=y.astype(float), canary=canary, w=w[votes], stage=stages[votes], at=people.arrives[votes],
        ratings=1 + people.more[votes], liked=y + more, assigned_canary=assigned[:units],
        assigned_w=assigned_w[:units], failed=people.failed[:units], slow=people.slow[:units],
        unsafe=people.unsafe[:units], first=people.first[:units],
    )  # fmt: skip


def _outcome(
    state: str, reason: str, at: float, canary: Any, assigned: Any, assigned_w: Any, figures: dict[str, Any]
) -> Outcome:
    spread = float(np.sqrt(np.sum(assigned_w * (1 - assigned_w))))
    split = float(np.sum(assigned) - np.sum(assigned_w)) / spread if spread else 0.0
    alarm = bool(figures.get("sample_ratio", 1.0) >= SAMPLE_RATIO_HOLD)
    return Outcome(state, int(np.sum(canary)), at / DAY, reason, split, alarm)


def _repeat(task: tuple[range, Scenario, float, float, Plan, int, list[str]]) -> dict[str, list[Outcome]]:
    """Some of the repetitions, in a process of its own."""
    repetitions, scenario, harm, votes_per_day, plan, seed, names = task
    found: dict[str, list[Outcome]] = {name: [] for name in names}
    for repetition in repetitions:
        rng = np.random.default_rng([seed, repetition])
        salt, memory = f"{seed}-{repetition}", {}  # type: ignore[var-annotated]
        people = draw(
            rng, scenario, harm=0.0 if scenario == "drift" else harm, votes_per_day=votes_per_day,
            days=plan.expires_hours / 24,
        )  # fmt: skip
        for name in names:
            outcome = walk(people, plan, RULES[name], salt=salt, memory=memory)
            if scenario == "drift" and name == "npllm" and outcome.state == "promoted":
                outcome = _watch(rng, outcome, harm=harm, votes_per_day=votes_per_day, salt=salt)
            found[name].append(outcome)
    return found


def _watch(rng: np.random.Generator, outcome: Outcome, *, harm: float, votes_per_day: float, salt: str) -> Outcome:
    """After the promotion: the version falls by `harm`, the holdback does not; which votes raise the alarms?"""
    people = draw(rng, "aa", harm=harm, votes_per_day=votes_per_day, days=AFTER)
    order = np.argsort(people.arrives, kind="stable")
    order = order[np.isfinite(people.arrives[order])]
    days = np.floor(people.first / DAY).astype(int).tolist()
    champion = np.array(
        [not held_back(salt=salt, unit=people.name[i], epoch=str(days[i]), share=HOLDBACK) for i in order.tolist()]
    )
    fell = people.rated[order] > AFTER / 2 * DAY
    y = np.where(champion & fell, people.likes_canary[order], people.likes_control[order]).astype(float)
    w = np.full(len(y), 1 - HOLDBACK)
    after = int(np.argmax(fell))

    def alarm(process: Any, limit: float) -> int | None:
        crossed = np.flatnonzero(process >= limit)
        if not len(crossed):
            return None
        return int(crossed[0]) - after if crossed[0] >= after else -1

    return replace(
        outcome,
        undone=alarm(drift.two_arm(y, champion, w, historic=RATE), drift.TWO_ARM_ALARM),
        paged=alarm(drift.one_stream(y, reference=RATE - drift.SLACK), drift.ONE_STREAM_ALARM),
    )


def _drift_summary(outcomes: list[Outcome]) -> dict[str, Any]:
    watched = [outcome for outcome in outcomes if outcome.state == "promoted"]
    found: dict[str, Any] = {"watched": len(watched), "holdback": HOLDBACK}
    for name in ("undone", "paged"):
        alarms = [getattr(outcome, name) for outcome in watched]
        late = [float(votes) for votes in alarms if votes is not None and votes >= 0]
        found[name] = {"found": len(late), "false": sum(votes == -1 for votes in alarms), "votes": _quantiles(late)}
    return found


def _quantiles(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"median": None, "p90": None}
    return {"median": round(float(np.median(values)), 2), "p90": round(float(np.quantile(values, 0.9)), 2)}


def _reasons(outcomes: list[Outcome]) -> dict[str, int]:
    found: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.state == "rolled_back":
            found[outcome.reason] = found.get(outcome.reason, 0) + 1
    return found
