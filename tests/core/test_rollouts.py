"""The rules of a rollout: fair and sticky assignment, decisions in every state, plans that say what is wrong."""

import json
import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import BadInput
from core.rollouts import (
    ACTIVE,
    HARM_HOLD,
    HARM_ROLLBACK,
    PRESETS,
    Arm,
    Plan,
    Stage,
    Votes,
    assign,
    decide,
    epoch_of,
    read_plan,
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

    def test_figures_fit_into_json_however_strong_they_are(self) -> None:
        n = 4000
        arms = [True, False] * (n // 2)
        overwhelming = Votes(
            [0.0 if arm else 1.0 for arm in arms], arms, [0.5] * n, [0] * n, [True] * n, [0.5] * n, [1] * n,
            [1 if arm else 0 for arm in arms],
        )  # fmt: skip
        json.dumps(decide(PLAN, 0, overwhelming, state="held", elapsed=0, total_elapsed=0).figures, allow_nan=False)


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
            mode: ab
            steps:
              - {setWeight: 5, minVotes: 40, pause: {duration: 90m}, margin: 15}
              - setWeight: 50
            """
        )
        assert plan == Plan("careful", (Stage(0.05, 40, 5400.0, 0.15), Stage(0.50, 30, 6 * HOUR, 0.10)), mode="ab")

    @pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("15m", 900), ("6h", 21600), ("1d", 86400), ("45", 45)])
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
            ("mode: rainbow\nsteps: [{setWeight: 50}]", "mode"),
        ],
    )
    def test_every_error_names_the_key(self, text: str, names: str) -> None:
        with pytest.raises(BadInput, match=names) as error:
            read_plan(text)
        assert error.value.next_step
