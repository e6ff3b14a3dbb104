"""Simulated rollouts: the bench looks with the controller's own eyes, and the rules keep their promises.

Fault tests 10, 14, 15 and 16 of the reference: few repetitions with fixed seeds here, 1,000 each under `-m slow`.
"""

import json
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bot.bench import rollout as bench
from bot.bench.rollout_people import DAY, Scenario, draw
from bot.bench.rollout_rules import RULES, Log, Now, ours
from bot.cli.bench import bench as bench_command
from core.errors import BadInput
from core.plans import HOUR, PRESETS, Plan, Stage
from core.rollouts import Votes, decide

PLAN = Plan("test", (Stage(0.25, 30, 6 * HOUR, 0.15), Stage(0.50, 60, DAY, 0.10)))


def rep(scenario: Scenario, seed: int = 1, **more: Any) -> Any:
    return draw(np.random.default_rng(seed), scenario, **{"harm": 0.0, "votes_per_day": 1000.0, "days": 7.0} | more)


class TestTheSameEyes:
    def test_every_look_is_the_decision_that_the_controller_would_take(self) -> None:
        """`ours` weighs once and reads every vote's figures; `decide` on the beginnings must say the same."""
        people = rep("aa", seed=3, days=1.0, harm=-0.15)
        looks: list[tuple[Log, Now, int, Any]] = []

        def spying(log: Log, now: Now, start: int) -> Any:
            act = ours(log, now, start)
            looks.append((log, now, start, act))
            return act

        bench.walk(people, PLAN, spying, salt="s")
        checked = 0
        for log, now, start, act in looks:
            for vote in range(start, len(log.y), 7):
                if act is not None and act.vote is not None and vote >= act.vote:
                    break
                checked += 1
                assert self.decided(log, now, vote).action in ("wait", "hold" if now.state == "held" else "wait")
            if act is not None and act.vote is not None:
                assert self.decided(log, now, act.vote).action == act.action
                assert self.decided(log, now, act.vote).figures == act.figures
        assert checked > 40

    def decided(self, log: Log, now: Now, vote: int) -> Any:
        n, at = vote + 1, float(log.at[vote])
        units = int(np.searchsorted(log.first, at, side="right"))
        votes = Votes(
            log.y[:n].tolist(), log.canary[:n].tolist(), log.w[:n].tolist(), log.stage[:n].tolist(),
            log.assigned_canary[:units].tolist(), log.assigned_w[:units].tolist(), [1] * units,
            log.failed[:units].tolist(), log.slow[:units].tolist(), log.unsafe[:units].tolist(), anchor="control",
        )  # fmt: skip
        elapsed = at - now.stage_started
        return decide(now.plan, now.stage, votes, state=now.state, elapsed=elapsed, total_elapsed=at)

    def test_the_same_people_meet_every_rule_and_the_same_seed_repeats(self) -> None:
        one, other = (bench.run(scenario="aa", reps=2, votes_per_day=300, seed=5, processes=1) for _ in range(2))
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
        assert set(one["rules"]) == set(RULES)

    def test_a_clock_that_is_behind_rates_in_the_first_hour(self) -> None:
        one = np.ones(7)
        log = Log(
            y=0 * one, canary=one > 0, w=0.5 * one, stage=np.zeros(7, int), ratings=one.astype(int),
            at=np.array([-0.05, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5]) * HOUR, liked=np.zeros(7, int), assigned_canary=one > 0,
            assigned_w=0.5 * one, failed=one < 0, slow=one < 0, unsafe=one < 0, first=np.zeros(7),
        )  # fmt: skip
        act = RULES["failure counter (Flagger-like)"](log, Now(PRESETS["large"], 0, 0.0, "running", DAY), 0)

        assert act is not None and (act.vote, act.action) == (6, "rollback")  # after the fifth bad hour


class TestPeople:
    def test_there_are_as_many_votes_as_asked_for_and_as_good(self) -> None:
        people = rep("aa")
        rated = np.isfinite(people.arrives)
        assert rated.sum() == pytest.approx(7000, rel=0.05)
        assert people.likes_control.mean() == pytest.approx(0.75, abs=0.02)
        assert (people.likes_control == people.likes_canary).all()
        assert rep("aa", harm=-0.2).likes_canary.mean() == pytest.approx(0.55, abs=0.02)

    def test_a_person_is_one_unit_a_day(self) -> None:
        people = rep("sticky")
        units = list(zip(np.floor(people.first / DAY).tolist(), people.name, strict=True))
        assert len(set(units)) == len(units)
        assert len(set(people.name)) < len(units) / 4

    def test_sticky_people_keep_their_taste(self) -> None:
        people = rep("sticky")
        by_person: dict[str, list[bool]] = {}
        for name, liked in zip(people.name, people.likes_control.tolist(), strict=True):
            by_person.setdefault(name, []).append(liked)
        rates = [np.mean(liked) for liked in by_person.values() if len(liked) >= 5]
        assert np.var(rates) > 2 * 0.75 * 0.25 / 6  # strangers of one rate would vary by about rate (1 - rate) / 6

    def test_ratings_of_one_day_reach_the_next_stage_when_they_are_late(self) -> None:
        people = rep("delay")
        rated = np.isfinite(people.arrives)
        assert np.mean(people.arrives[rated] - people.rated[rated]) == pytest.approx(8 * HOUR, rel=0.1)
        assert people.skew.min() < -200 < 200 < people.skew.max()


class TestPlans:
    def test_the_share_is_the_first_stage_and_the_preset_follows(self) -> None:
        assert [s.weight for s in bench.plan_for(1000, 0.25).stages] == [0.25, 0.50]
        assert [s.weight for s in bench.plan_for(1000, 0.10).stages] == [0.10, 0.25, 0.50]
        assert bench.plan_for(1000, 0.10).stages[0].margin == PRESETS["large"].stages[0].margin
        assert bench.plan_for(200, None) == PRESETS["medium"]
        with pytest.raises(BadInput):
            bench.plan_for(1000, 1.0)


class TestPromises:
    """Fixed seeds: these figures do not move unless the rules do."""

    def test_harm_is_found_before_many_meet_it(self) -> None:
        found = bench.run(scenario="harm", harm=-0.40, share=0.25, reps=16, rules=False)
        assert (found["rollbacks"], found["promoted"]) == (16, 0)
        assert found["delay"]["median"] <= 25
        assert found["delay"]["p90"] <= 45

    def test_the_harmless_reach_everybody(self) -> None:
        found = bench.run(scenario="aa", share=0.25, reps=10, rules=False)
        assert found["promoted"] >= 8
        assert found["rollbacks"] <= 1
        assert found["split_alarms"] == 0
        assert abs(found["split_sigmas"]) < 3

    def test_one_person_with_a_thousand_dislikes_rolls_nothing_back_here(self) -> None:
        found = bench.run(scenario="flood", share=0.25, reps=6)
        assert found["rollbacks"] == 0
        assert found["rules"]["fixed threshold"]["rollbacks"] >= 4

    def test_a_fall_of_everybody_while_the_weight_rises_proves_nothing(self) -> None:
        assert bench.run(scenario="trend", share=0.25, reps=6, rules=False)["rollbacks"] == 0

    def test_a_version_that_falls_after_its_promotion_is_noticed(self) -> None:
        found = bench.run(scenario="drift", share=0.25, reps=4, rules=False)["drift"]
        assert found["watched"] >= 3
        assert found["undone"]["found"] + found["undone"]["false"] == found["watched"]

    def test_a_version_and_its_like_differ_by_nothing(self) -> None:
        assert bench.run(scenario="aa", harm=-0.4, share=0.25, reps=1, rules=False)["harm"] == 0.0

    def test_the_command_prints_one_object(self) -> None:
        arguments = ["rollout", "--scenario", "harm", "--harm", "-0.40", "--share", "0.25", "--reps", "2", "--json"]
        result = CliRunner().invoke(bench_command, arguments)
        assert result.exit_code == 0, result.output
        found = json.loads(result.output)
        assert found["reps"] == found["rollbacks"] == 2
        assert found["promoted"] == 0
        assert found["delay"]["median"] > 0
        assert CliRunner().invoke(bench_command, [*arguments[:-1], "--no-rules"]).output.count("npllm") == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
class TestPromisesAtLength:
    @pytest.mark.parametrize("scenario", ["aa", "sticky", "delay", "trend", "flood"])
    def test_false_rollbacks(self, scenario: Scenario) -> None:
        found = bench.run(scenario=scenario, share=0.25, reps=1000, rules=False)
        assert found["rollbacks"] <= 29
        assert found["split_alarms"] <= 4

    @pytest.mark.parametrize(("harm", "median", "p90"), [(-0.20, 80, 160), (-0.40, 25, 45)])
    def test_delays(self, harm: float, median: float, p90: float) -> None:
        found = bench.run(scenario="harm", harm=harm, share=0.25, reps=1000, rules=False)
        assert found["rollbacks"] == 1000
        assert found["delay"]["median"] <= median
        assert found["delay"]["p90"] <= p90

    def test_ten_points_are_found_within_a_week_and_never_promoted(self) -> None:
        found = bench.run(scenario="harm", harm=-0.10, share=0.25, reps=500, rules=False)
        assert found["rollbacks"] >= 475
        assert found["promoted"] == 0

    def test_the_harmless_are_promoted(self) -> None:
        assert bench.run(scenario="aa", share=0.25, reps=1000, rules=False)["promoted"] >= 900
