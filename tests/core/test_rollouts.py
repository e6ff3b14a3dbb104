"""The rules of a rollout: fair and sticky assignment, decisions in every state, plans that say what is wrong."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import evidence
from core.errors import BadInput
from core.rollouts import (
    ACTIVE,
    ERRORS_ROLLBACK,
    HARM_HOLD,
    HARM_ROLLBACK,
    PRESETS,
    Arm,
    Plan,
    Stage,
    Stop,
    Votes,
    Weighed,
    anchor_weight,
    assign,
    decide,
    epoch_of,
    held_back,
    preset_for,
    read_plan,
    solicits,
    weigh,
)

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

HOUR = 3600.0
DAY = 24 * HOUR
PLAN = Plan("test", (Stage(0.25, 30, 6 * HOUR, 0.15), Stage(0.50, 60, DAY, 0.10)))


def arm_of(unit: int, weight: float, *, salt: str = "salt", epoch: str = "2026-11-21") -> Arm:
    return assign(salt=salt, unit=f"person-{unit}", epoch=epoch, weight=weight, control="champion")[0]


class TestAssign:
    @pytest.mark.parametrize("weight", [0.05, 0.25, 0.5])
    def test_the_share_is_the_weight(self, weight: float) -> None:
        n = 20_000
        drawn = sum(arm_of(i, weight) == "challenger" for i in range(n)) / n
        assert abs(drawn - weight) <= 3 * math.sqrt(weight * (1 - weight) / n)

    def test_places_are_uniform(self) -> None:
        """Ten equal slices of [0, 1): chi-square with 9 degrees of freedom, far below its 0.1 % limit of 27.9."""
        n = 10_000
        below = [sum(arm_of(i, share / 10) == "challenger" for i in range(n)) for share in range(1, 10)]
        counts = np.diff([0, *below, n])
        assert np.sum((counts - n / 10) ** 2 / (n / 10)) < 27.9

    @given(unit=st.integers(0, 10**9), weight=st.floats(0.001, 0.999))
    def test_a_person_keeps_the_arm_within_an_epoch(self, unit: int, weight: float) -> None:
        assert arm_of(unit, weight) == arm_of(unit, weight)

    @given(unit=st.integers(0, 10**9), lower=st.floats(0.001, 0.999), higher=st.floats(0.001, 0.999))
    def test_nobody_leaves_the_challenger_when_its_weight_rises(self, unit: int, lower: float, higher: float) -> None:
        lower, higher = sorted((lower, higher))
        if arm_of(unit, lower) == "challenger":
            assert arm_of(unit, higher) == "challenger"

    def test_a_new_epoch_and_another_rollout_draw_afresh(self) -> None:
        today = [arm_of(i, 0.5) for i in range(2000)]
        for other in (
            [arm_of(i, 0.5, epoch="2026-11-22") for i in range(2000)],
            [arm_of(i, 0.5, salt="another") for i in range(2000)],
        ):
            same = sum(a == b for a, b in zip(today, other, strict=True))
            assert 860 < same < 1140  # half of 2,000, within six standard deviations

    def test_the_holdback_the_coin_and_the_arm_are_drawn_apart(self) -> None:
        n = 20_000
        units = [f"person-{i}" for i in range(n)]
        held = [held_back(salt="s", unit=unit, epoch="e", share=0.1) for unit in units]
        asked = [solicits(salt="s", unit=unit, epoch="e", share=0.1) for unit in units]
        canary = [arm_of(i, 0.1, salt="s", epoch="e") == "challenger" for i in range(n)]
        for one in (held, asked, canary):
            assert abs(sum(one) / n - 0.1) <= 3 * math.sqrt(0.09 / n)
        for one, other in ((held, asked), (held, canary), (asked, canary)):
            both = sum(a and b for a, b in zip(one, other, strict=True)) / n
            assert abs(both - 0.01) <= 3 * math.sqrt(0.0099 / n)

    def test_the_probability_is_the_challengers_in_both_arms(self) -> None:
        for unit in range(50):
            _, probability = assign(salt="s", unit=str(unit), epoch="e", weight=0.3, control="base")
            assert probability == 0.3

    def test_the_rest_goes_to_the_control_by_its_name(self) -> None:
        arms = {assign(salt="s", unit=str(i), epoch="e", weight=0.5, control="base")[0] for i in range(100)}
        assert arms == {"challenger", "base"}

    def test_epochs(self) -> None:
        late = datetime(2026, 11, 22, 2, 30, tzinfo=UTC)  # still the 21st in São Paulo
        assert epoch_of(PLAN, 1, late.astimezone(ZoneInfo("America/Sao_Paulo"))) == "2026-11-21"
        assert epoch_of(PRESETS["demo"], 0, late) == "stage-0"


def votes(
    n: int, canary_rate: float, base_rate: float = 0.75, *, w: float = 0.25, stage: int = 0, seed: int = 1
) -> Votes:
    """`n` units that all voted."""
    rng = np.random.default_rng(seed)
    arm = rng.random(n) < w
    y = (rng.random(n) < np.where(arm, canary_rate, base_rate)).astype(float)
    return Votes(
        y=y.tolist(), canary=arm.tolist(), w=[w] * n, stage=[stage] * n, assigned_canary=arm.tolist(),
        assigned_w=[w] * n, served=[1] * n, failed=[0] * n,
    )  # fmt: skip


def _harm(seen: Votes, n: int) -> float:
    return float(evidence.harm(seen.y[:n], seen.canary[:n], seen.w[:n], historic=PLAN.historic)[-1])


class TestDecide:
    @pytest.mark.parametrize("state", ACTIVE)
    @pytest.mark.parametrize("elapsed", [0.0, DAY, 6 * DAY])
    def test_no_data_never_promotes_nor_rolls_back(self, state: str, elapsed: float) -> None:
        decision = decide(PLAN, 0, Votes(), state=state, elapsed=elapsed, total_elapsed=elapsed)
        assert decision.action == "wait"
        assert any("0 of 30" in reason for reason in decision.reasons)
        assert decision.figures["challenger"]["rate"] is None
        json.dumps(decision.figures, allow_nan=False)

    @pytest.mark.parametrize("arm", [True, False])
    def test_a_few_votes_of_one_arm_decide_nothing(self, arm: bool) -> None:
        seen = Votes([1.0] * 6, [arm] * 6, [0.5] * 6, [0] * 6)
        decision = decide(PLAN, 0, seen, state="running", elapsed=DAY, total_elapsed=DAY)
        assert decision.action == "wait"
        json.dumps(decision.figures, allow_nan=False)

    def test_a_good_canary_advances_after_its_time_and_its_votes(self) -> None:
        good = votes(600, 0.80)
        assert decide(PLAN, 0, good, state="running", elapsed=6 * HOUR, total_elapsed=DAY).action == "advance"
        early = decide(PLAN, 0, good, state="running", elapsed=6 * HOUR - 60, total_elapsed=DAY)
        assert early.action == "wait"
        assert early.reasons == ["0:01:00 left of this stage's time"]
        few = decide(PLAN, 0, votes(60, 1.0, 1.0), state="running", elapsed=DAY, total_elapsed=DAY)
        assert few.action == "wait"
        assert "of 30 challenger votes in this stage" in few.reasons[0]

    def test_the_last_stage_promotes(self) -> None:
        good = votes(900, 0.80, w=0.5, stage=1)
        assert decide(PLAN, 1, good, state="running", elapsed=DAY, total_elapsed=2 * DAY).action == "promote"

    def test_votes_of_an_earlier_stage_do_not_count_for_this_one(self) -> None:
        earlier = votes(900, 0.80, w=0.5, stage=0)
        decision = decide(PLAN, 1, earlier, state="running", elapsed=DAY, total_elapsed=2 * DAY)
        assert (decision.action, decision.figures["stage_votes"], decision.figures["no_worse"]) == ("wait", 0, 1.0)

    @pytest.mark.parametrize("state", ACTIVE)
    def test_harm_rolls_back_in_every_state(self, state: str) -> None:
        bad = votes(600, 0.35)
        decision = decide(PLAN, 0, bad, state=state, elapsed=0, total_elapsed=0)
        assert decision.action == "rollback"
        assert "customers rate it worse" in decision.reasons[0]

    def test_harm_once_proved_is_not_forgiven(self) -> None:
        """Evidence may be looked at after every vote: what reached the limit counts, whatever came later."""
        bad, better = votes(300, 0.30), votes(3000, 0.95, seed=2)
        both = Votes(
            [*bad.y, *better.y], [*bad.canary, *better.canary], [*bad.w, *better.w], [*bad.stage, *better.stage]
        )
        decision = decide(PLAN, 0, both, state="running", elapsed=DAY, total_elapsed=DAY)
        assert decision.figures["harm"] < HARM_HOLD
        assert decision.figures["harm_highest"] >= HARM_ROLLBACK
        assert decision.action == "rollback"

    def test_some_harm_holds(self) -> None:
        """Between 20 and 50 the weight is frozen."""
        seen: list[Votes] = [votes(n, 0.45, seed=3) for n in range(5, 300)]
        decisions = [decide(PLAN, 0, v, state="running", elapsed=0, total_elapsed=0) for v in seen]
        held = [d for d in decisions if HARM_HOLD <= d.figures["harm_highest"] < HARM_ROLLBACK]
        assert held
        assert {d.action for d in held if d.figures["harm"] >= HARM_HOLD} == {"hold"}

    def test_what_was_held_for_harm_goes_on_when_the_evidence_has_gone(self) -> None:
        harmful = votes(300, 0.3, seed=3)
        better = votes(900, 0.80, seed=2)
        n = next(n for n in range(1, 300) if _harm(harmful, n) >= HARM_HOLD)
        both = Votes(
            [*harmful.y[:n], *better.y], [*harmful.canary[:n], *better.canary], [0.25] * (n + 900), [0] * (n + 900)
        )
        assert _harm(both, n) < HARM_ROLLBACK
        looks = {"state": "held", "elapsed": DAY, "total_elapsed": DAY}
        held = decide(PLAN, 0, Votes(both.y[:n], both.canary[:n], both.w[:n], both.stage[:n]), **looks)
        later = decide(PLAN, 0, both, **looks)
        assert (held.action, later.action) == ("hold", "resume")
        assert decide(PLAN, 0, both, state="paused", elapsed=DAY, total_elapsed=DAY).action == "wait"
        asking = replace(PLAN, stages=(replace(PLAN.stages[0], approval=True), PLAN.stages[1]))
        assert decide(asking, 0, both, **looks).action == "wait"  # held for a person's word: no flapping

    @pytest.mark.parametrize("state", ACTIVE)
    def test_a_wrong_split_holds(self, state: str) -> None:
        skewed = Votes(assigned_canary=[True] * 40, assigned_w=[0.25] * 40, served=[1] * 40, failed=[0] * 40)
        decision = decide(PLAN, 0, skewed, state=state, elapsed=DAY, total_elapsed=DAY)
        assert decision.action == "hold"
        assert "not split as planned" in decision.reasons[0]

    @pytest.mark.parametrize("state", ACTIVE)
    def test_failing_replies_roll_back_without_a_single_vote(self, state: str) -> None:
        arms = [True, False] * 20
        failing = Votes(
            assigned_canary=arms, assigned_w=[0.5] * 40, served=[1] * 40, failed=[1 if arm else 0 for arm in arms]
        )
        decision = decide(PLAN, 0, failing, state=state, elapsed=0, total_elapsed=0)
        assert decision.action == "rollback"
        assert "fails more often" in decision.reasons[0]

    def test_units_that_were_never_served_do_not_count_as_failing(self) -> None:
        never = Votes(assigned_canary=[True] * 5, assigned_w=[0.5] * 5, served=[0] * 5, failed=[0] * 5)
        assert decide(PLAN, 0, never, state="running", elapsed=0, total_elapsed=0).figures["errors"] == 1.0

    def test_a_week_without_a_decision_is_held_never_shipped(self) -> None:
        good = votes(900, 0.80, w=0.5)
        decision = decide(PLAN, 0, good, state="running", elapsed=DAY, total_elapsed=168 * HOUR)
        assert decision.action == "hold"
        assert "promote or abort it by hand" in decision.reasons[0]

    @pytest.mark.parametrize("state", ["paused", "held"])
    def test_nothing_advances_but_a_running_rollout(self, state: str) -> None:
        decision = decide(PLAN, 0, votes(600, 0.80), state=state, elapsed=DAY, total_elapsed=DAY)
        assert decision.action == "wait"
        assert decision.reasons[0] == f"The rollout is {state}."

    @pytest.mark.parametrize("state", ACTIVE)
    @pytest.mark.parametrize("stop", ["hash-mismatch", "non-finite", "load-failure"])
    def test_hard_stops_need_no_statistics(self, state: str, stop: Stop) -> None:
        for plan in (PLAN, replace(PLAN, on_guardrail="freeze")):
            decision = decide(plan, 0, Votes(stops=[stop]), state=state, elapsed=0, total_elapsed=0)
            assert decision.action == "rollback"
            assert decision.reasons[0].startswith("It")

    def test_five_failures_in_a_row_roll_back_and_four_do_not(self) -> None:
        for failures, action in ((4, "wait"), (5, "rollback")):
            decision = decide(PLAN, 0, Votes(failures_in_a_row=failures), state="paused", elapsed=0, total_elapsed=0)
            assert decision.action == action

    @pytest.mark.parametrize(("guard", "says"), [("slow", "slow more often"), ("unsafe", "stopped or handed over")])
    def test_slow_and_unsafe_replies_roll_back_without_a_vote(self, guard: str, says: str) -> None:
        arms = [True, False] * 40
        worse = Votes(assigned_canary=arms, assigned_w=[0.5] * 80, served=[1] * 80, failed=[0] * 80)
        worse = replace(worse, **{guard: [int(arm) for arm in arms]})
        decision = decide(PLAN, 0, worse, state="held", elapsed=0, total_elapsed=0)
        assert decision.action == "rollback"
        assert says in decision.reasons[0]

    def test_an_open_guard_keeps_it_from_advancing(self) -> None:
        good = votes(600, 0.80)
        ready = decide(PLAN, 0, good, state="running", elapsed=DAY, total_elapsed=DAY)
        last = [i for i, arm in enumerate(good.assigned_canary) if arm][-4:]
        failing = [int(i in last) for i in range(600)]
        decision = decide(PLAN, 0, replace(good, failed=failing), state="running", elapsed=DAY, total_elapsed=DAY)
        assert (ready.action, decision.action) == ("advance", "wait")
        assert 20 <= decision.figures["errors"] < ERRORS_ROLLBACK
        assert "fails more often" in decision.reasons[0]

    def test_a_plan_may_freeze_instead_of_rolling_back(self) -> None:
        frozen = replace(PLAN, on_guardrail="freeze")
        decision = decide(frozen, 0, votes(600, 0.35), state="running", elapsed=0, total_elapsed=0)
        assert decision.action == "hold"
        assert "customers rate it worse" in decision.reasons[0]

    def test_ratings_from_one_arm_only_are_biased(self) -> None:
        """Units are split as planned; of the challenger's, three times as many rate."""
        rng = np.random.default_rng(4)
        arm = rng.random(2000) < 0.25
        rated = arm[rng.random(2000) < np.where(arm, 0.9, 0.3)]
        seen = Votes(
            y=(rng.random(len(rated)) < 0.8).astype(float).tolist(), canary=rated.tolist(), w=[0.25] * len(rated),
            stage=[0] * len(rated), assigned_canary=arm.tolist(), assigned_w=[0.25] * 2000, served=[1] * 2000,
            failed=[0] * 2000,
        )  # fmt: skip
        decision = decide(PLAN, 0, seen, state="running", elapsed=DAY, total_elapsed=DAY)
        assert decision.action == "hold"
        assert "biased" in decision.reasons[0]

    def test_the_silent_speak_when_asked(self) -> None:
        """Who volunteers is content with both arms; who is asked by the coin is not."""
        volunteers, asked = votes(600, 0.80), votes(240, 0.35)
        both = Votes(
            [*volunteers.y, *asked.y], [*volunteers.canary, *asked.canary], [0.25] * 840, [0] * 840,
            solicited=[False] * 600 + [True] * 240,
        )  # fmt: skip
        decision = decide(PLAN, 0, both, state="running", elapsed=DAY, total_elapsed=DAY)
        assert decision.figures["harm"] < HARM_HOLD <= 50 <= decision.figures["harm_solicited"]
        assert (decision.action, "asked by the coin" in decision.reasons[0]) == ("hold", True)

    def test_the_anchor_stops_the_last_step_only(self) -> None:
        """As good as a champion that fell 15 points below the base: one night's margin is met, the anchor is not."""
        fallen = votes(2000, 0.60, 0.60, w=0.5, stage=1)
        rng = np.random.default_rng(8)
        among = rng.random(600) < 0.85
        fallen = replace(
            fallen, anchor="holdback", anchor_w=[0.85] * 600, anchor_canary=among.tolist(),
            anchor_y=(rng.random(600) < np.where(among, 0.60, 0.75)).astype(float).tolist(),
        )  # fmt: skip
        without = decide(PLAN, 1, replace(fallen, anchor="none"), state="running", elapsed=DAY, total_elapsed=DAY)
        last = decide(PLAN, 1, fallen, state="running", elapsed=DAY, total_elapsed=DAY)
        assert (without.action, last.action) == ("promote", "wait")
        assert "not worse than the base by 5%" in last.reasons[0]
        earlier = replace(fallen, stage=[0] * 2000)
        assert decide(PLAN, 0, earlier, state="running", elapsed=DAY, total_elapsed=DAY).action == "advance"

    def test_where_the_control_is_the_base_it_is_the_anchor(self) -> None:
        good = replace(votes(2000, 0.80, w=0.5, stage=1), anchor="control")
        assert decide(PLAN, 1, good, state="running", elapsed=DAY, total_elapsed=DAY).action == "promote"

    def test_approval_is_asked_for_when_all_is_proved_and_not_before(self) -> None:
        asking = replace(PLAN, require_approval=True)
        good = votes(900, 0.80, w=0.5, stage=1)
        early = decide(asking, 1, good, state="running", elapsed=0, total_elapsed=DAY)
        ready = decide(asking, 1, good, state="running", elapsed=DAY, total_elapsed=DAY)
        assert (early.action, ready.action) == ("wait", "hold")
        assert "person's word" in ready.reasons[1]
        first = replace(PLAN, stages=(replace(PLAN.stages[0], approval=True), PLAN.stages[1]))
        assert decide(first, 0, votes(600, 0.80), state="running", elapsed=DAY, total_elapsed=DAY).action == "hold"

    def test_blue_green_compares_with_the_held_back(self) -> None:
        plan = Plan("switch", (Stage(1.0, 30, 0, 0.10),), mode="blue-green", holdback=0.1)
        rng = np.random.default_rng(5)
        w = anchor_weight(1.0, 0.1)
        assert w == pytest.approx(0.9)
        among = rng.random(3000) < w
        y = (rng.random(3000) < np.where(among, 0.45, 0.75)).astype(float).tolist()
        everyone = Votes(y=y, canary=among.tolist(), w=[w] * 3000, stage=[0] * 3000, anchor="holdback")
        assert decide(plan, 0, everyone, state="running", elapsed=0, total_elapsed=0).action == "rollback"
        alone = Votes(y=[0.0] * 300, canary=[True] * 300, w=[1.0] * 300, stage=[0] * 300, anchor="holdback")
        assert decide(plan, 0, alone, state="running", elapsed=0, total_elapsed=0).action == "wait"

    def test_figures_fit_into_json_however_strong_they_are(self) -> None:
        n = 4000
        arms = [True, False] * (n // 2)
        overwhelming = Votes(
            [0.0 if arm else 1.0 for arm in arms], arms, [0.5] * n, [0] * n, [True] * n, [0.5] * n, [1] * n,
            [1 if arm else 0 for arm in arms],
        )  # fmt: skip
        json.dumps(decide(PLAN, 0, overwhelming, state="held", elapsed=0, total_elapsed=0).figures, allow_nan=False)


VOTE = st.tuples(
    st.sampled_from([0.0, 0.5, 1.0]), st.booleans(), st.floats(0.05, 0.95), st.integers(0, 1), st.booleans()
)
UNIT = st.tuples(st.booleans(), st.floats(0.05, 0.95), st.integers(0, 2), st.integers(0, 1), st.integers(0, 1))


def _seen(given_votes: list[Any], units: list[Any]) -> Votes:
    y, canary, w, stage, solicited = ([vote[i] for vote in given_votes] for i in range(5))
    arm, share, served, failed, slow = ([unit[i] for unit in units] for i in range(5))
    return Votes(
        y, canary, w, stage, arm, share, served, failed, slow, failed, solicited, "control"
    )  # fmt: skip


class TestWeighed:
    @settings(max_examples=40)
    @given(given_votes=st.lists(VOTE, max_size=25), units=st.lists(UNIT, max_size=25), at=st.integers(0, 25))
    def test_one_pass_gives_every_look_there_ever_was(self, given_votes: list[Any], units: list[Any], at: int) -> None:
        """Incremental is batch: the figures after n votes and m units are those of the first n and m alone."""
        n, m = min(at, len(given_votes)), min(at, len(units))
        early = Weighed(PLAN, 1, _seen(given_votes, units)).figures(n, m)
        alone = weigh(PLAN, 1, _seen(given_votes[:n], units[:m]))
        assert early.keys() == alone.keys()
        for name, value in alone.items():
            assert early[name] == (value if isinstance(value, dict) else pytest.approx(value, rel=1e-9)), name


class TestPlans:
    @pytest.mark.parametrize("name", PRESETS)
    def test_presets_rise_and_survive_json(self, name: str) -> None:
        plan = PRESETS[name]
        weights = [stage.weight for stage in plan.stages]
        assert plan.name == name
        assert weights == sorted(set(weights))
        assert all(0 < weight < 1 for weight in weights)
        assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan

    def test_the_demo_says_what_the_contract_says(self) -> None:
        (stage,) = PRESETS["demo"].stages
        assert (stage.weight, stage.margin) == (0.50, 0.15)
        assert stage.min_votes >= 30
        assert stage.hold_seconds < 60

    def test_reading_a_plan(self) -> None:
        plan = read_plan(
            """
            name: careful
            mode: canary
            steps:
              - {setWeight: 5, minVotes: 40, pause: {duration: 90m}, margin: 15}
              - setWeight: 50
            """
        )
        assert plan == Plan("careful", (Stage(0.05, 40, 5400.0, 0.15), Stage(0.50, 30, 6 * HOUR, 0.10)))

    def test_argos_steps_one_after_the_other(self) -> None:
        plan = read_plan(
            """
            name: argo
            epoch: stage
            onGuardrail: freeze
            holdback: 10
            requireApproval: true
            expires: 10d
            anchorMargin: 8
            steps:
              - setWeight: 50
                audience: internal
              - pause: {duration: 1h}
              - analysis: {minVotes: 40, margin: 12}
              - {setWeight: 5, audience: all}
              - pause: {}
            """
        )
        assert plan == Plan(
            "argo",
            (Stage(0.50, 40, HOUR, 0.12, "internal"), Stage(0.05, 30, 0.0, 0.10, "all", approval=True)),
            epoch="stage", on_guardrail="freeze", holdback=0.10, require_approval=True, expires_hours=240.0,
            anchor_margin=0.08,
        )  # fmt: skip

    def test_modes(self) -> None:
        assert read_plan("mode: ab\nsteps: [{setWeight: 50}]").mode == "ab"
        assert read_plan("mode: blue-green\nsteps: [{setWeight: 100}]").stages[0].weight == 1.0

    @pytest.mark.parametrize(
        ("votes_per_day", "name"),
        [(0, "tiny"), (29, "tiny"), (30, "small"), (99, "small"), (100, "medium"), (999, "medium"), (1000, "large")],
    )
    def test_the_preset_follows_the_volume(self, votes_per_day: float, name: str) -> None:
        assert preset_for(votes_per_day).name == name

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("30s", 30), ("15m", 900), ("6h", 21600), ("1d", 86400), ("45", 45), ("1h30m", 5400), ("1.5h", 5400)],
    )
    def test_durations(self, text: str, seconds: float) -> None:
        plan = read_plan(f"steps: [{{setWeight: 50, pause: {{duration: {text}}}}}]")
        assert plan.stages[0].hold_seconds == seconds

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("", "steps"),
            ("just words", "steps"),
            ("name: x", "steps"),
            ("a: [", "steps"),
            ("steps:", "steps"),
            ("steps: 5", "steps"),
            ("steps: fifty", "steps"),
            ("steps: []", "steps"),
            ("steps: [50]", "Step 1"),
            ("steps: [{setWeight: 50}]\nstep: [1]", "step"),
            ("steps: [{minVotes: 5}]", "Step 1.*setWeight"),
            ("steps: [{setWeight: many}]", "Step 1.*setWeight"),
            ("steps: [{setWeight: .nan}]", "Step 1.*setWeight"),
            ("steps: [{setWeight: 0}]", "Step 1.*setWeight"),
            ("steps: [{setWeight: 100}]", "Step 1.*setWeight"),
            ("steps: [{setWeight: 50, minVotes: few}]", "Step 1.*minVotes"),
            ("steps: [{setWeight: 50, minVotes: 0}]", "Step 1.*minVotes"),
            ("steps: [{setWeight: 50, minVotes: null}]", "Step 1.*minVotes"),
            ("steps: [{setWeight: 50, margin: 60}]", "Step 1.*margin"),
            ("steps: [{setWeight: 50, margin: []}]", "Step 1.*margin"),
            ("steps: [{setWeight: 50, pause: 5}]", "Step 1.*pause"),
            ("steps: [{setWeight: 50, pause: {duration: soon}}]", "Step 1.*duration"),
            ("steps: [{setWeight: 50, pause: {duration: -5m}}]", "Step 1.*duration"),
            ("steps: [{setWeight: 50, pause: {duration: nan}}]", "Step 1.*duration"),
            ("steps: [{setWeight: 50, pause: {length: 5m}}]", "Step 1.*length"),
            ("steps: [{setWeight: 50, weight: 5}]", "Step 1.*weight"),
            ("steps: [{setWeight: 50}, {setWeight: 25}]", "Step 2.*setWeight"),
            ("steps: [{setWeight: 50}, {setWeight: 50}]", "Step 2.*setWeight"),
            ("steps: [{setWeight: 50}, {pause: 5}]", "Step 2.*pause"),
            ("steps: [{pause: {duration: 5m}}, {setWeight: 50}]", "Step 1.*setWeight"),
            ("steps: [{setWeight: 50}, {analysis: {minVotes: few}}]", "Step 2.*analysis: minVotes"),
            ("steps: [{setWeight: 50}, {analysis: {template: x}}]", "Step 2.*analysis.*template"),
            ("steps: [{setWeight: 50}, {analysis: 5}]", "Step 2.*analysis"),
            ("steps: [{setWeight: 50, audience: friends}]", "Step 1.*audience"),
            ("steps: [{setWeight: 5, audience: all}, {setWeight: 50, audience: beta}]", "Step 2.*audience"),
            ("mode: rainbow\nsteps: [{setWeight: 50}]", "mode"),
            ("mode: [ab]\nsteps: [{setWeight: 50}]", "mode"),
            ("mode: ab\nsteps: [{setWeight: 5}, {setWeight: 50}]", "mode"),
            ("mode: blue-green\nsteps: [{setWeight: 50}]", "setWeight: 100"),
            ("mode: blue-green\nholdback: 0\nsteps: [{setWeight: 100}]", "holdback"),
            ("epoch: week\nsteps: [{setWeight: 50}]", "epoch"),
            ("onGuardrail: pray\nsteps: [{setWeight: 50}]", "onGuardrail"),
            ("holdback: 60\nsteps: [{setWeight: 50}]", "holdback"),
            ("requireApproval: maybe\nsteps: [{setWeight: 50}]", "requireApproval"),
            ("expires: 5m\nsteps: [{setWeight: 50}]", "expires"),
            ("anchorMargin: none\nsteps: [{setWeight: 50}]", "anchorMargin"),
            ("name: x\nsteps:\n  - setWeight: 5\n   margin: 3\n", "line 4"),
            ("steps:\n\t- setWeight: 5\n", "line 2"),
            ("name: x\nsteps: [{setWeight: 5}]\nholdback: 5\nsteps: [{setWeight: 50}]\n", "line 4: steps .*twice"),
            ("steps:\n  - setWeight: 5\n    margin: 3\n    margin: 15\n", "line 4: margin .*twice"),
            ("name: 2026-13-45\nsteps: [{setWeight: 50}]", "month"),
            ("steps: " + "[" * 3000, "nested"),
            (f"steps: [{{setWeight: {'9' * 5000}}}]", "steps.*digits"),
            ("name:\nsteps: [{setWeight: 50}]", "name"),
            ('name: "a\\0b"\nsteps: [{setWeight: 50}]', "name"),
            ("steps: [{setWeight: yes}]", "Step 1.*setWeight.*True"),
            ("holdback: true\nsteps: [{setWeight: 50}]", "holdback"),
            ("steps: [{setWeight: 50, minVotes: 30.7}]", "Step 1.*minVotes.*whole"),
            ("steps: [{setWeight: 50, analysis: []}]", "Step 1.*analysis"),
            ("steps: [{setWeight: 50, pause: {duration: 5w}}]", "Step 1.*duration is '5w'.*1h30m"),
            ("steps: [{setWeight: 50, pause: {duration: 9000d}}]", "Step 1.*duration.*365d"),
            (
                "steps: [{setWeight: 5, pause: {duration: 4d}}, {setWeight: 50, pause: {duration: 3d}}]",
                "expires: the steps take at least 168 hours, and after 168 it is held",
            ),
            ("expires: 1h\nsteps: [{setWeight: 50}]", "expires: the steps take at least 6 hours"),
        ],
    )
    def test_every_error_names_the_key(self, text: str, names: str) -> None:
        with pytest.raises(BadInput, match=names) as error:
            read_plan(text)
        assert error.value.next_step
