"""The gate: what it accepts, what it refuses, and what it tells a person."""

from typing import Any

import pytest

from learning.evaluate import Scores
from learning.gate import NOT_FINITE, Asked, Compared, age_of, judge

COUNT = 40
GROUPS = [f"g{i}" for i in range(COUNT)]


def scores(loss: float, accuracy: float = 0.5, wiggle: float = 0.02) -> Scores:
    return Scores([loss + wiggle * ((i * 7) % 5 - 2) for i in range(COUNT)], [accuracy] * COUNT)


def decide(
    new: tuple[float, float, float] = (0.8, 1.2, 2.0),
    old: tuple[float, float] = (0.8, 0.8),
    loss: tuple[float, float, float] = (1.0, 1.0, 2.0),
    target: float = 0.95,
    ages: Any = (),
    **options: Any,
) -> Any:
    """(challenger, champion, base): `new` losses tonight, `loss` losses and `old` accuracies on earlier hold-outs."""
    return judge(
        new=Compared(*(scores(value) for value in new), GROUPS),
        old=Compared(scores(loss[0], old[0]), scores(loss[1], old[1]), scores(loss[2], 0.1), GROUPS, ages),
        target=target, **options,
    )  # fmt: skip


def test_learned_and_kept_is_accepted() -> None:
    verdict = decide(old=(0.80, 0.81))
    assert verdict.accepted, verdict.reasons
    assert verdict.gain.mean == pytest.approx(-0.4)
    assert verdict.retention == pytest.approx(0.80 / 0.81)
    assert verdict.gain_retention == pytest.approx(1.0)


def test_a_frozen_learner_is_refused_for_all_its_retention() -> None:
    verdict = decide(new=(1.2, 1.2, 2.0))
    assert "learned nothing" in verdict.reasons[0]
    assert verdict.retention == 1.0


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("earlier", [0, COUNT])
def test_what_is_not_finite_is_refused_also_in_the_first_night(broken: float, earlier: int) -> None:
    nothing = Scores([broken] * COUNT, [0.5] * COUNT)
    old = Compared(*(Scores([1.0] * earlier, [0.5] * earlier) for _ in range(3)), GROUPS[:earlier])
    verdict = judge(new=Compared(nothing, scores(1.2), scores(2.0), GROUPS), old=old, target=0.95)
    assert not verdict.accepted
    assert verdict.reasons[0] == NOT_FINITE


def test_what_the_frozen_base_does_better_is_refused() -> None:
    """Better than a champion that was worse than no adapter at all."""
    assert "frozen base" in decide(new=(0.8, 1.2, 0.7)).reasons[0]


def test_forgetting_is_refused_under_the_target() -> None:
    assert "target is 95%" in decide(old=(0.74, 0.81)).reasons[0]


def test_seventy_percent_is_refused_whatever_the_target() -> None:
    assert "always refused" in decide(old=(0.5, 0.81), target=0.7).reasons[0]


def test_a_loss_that_rose_is_forgetting_though_the_first_choice_stayed_right() -> None:
    verdict = decide(loss=(1.16, 1.0, 2.0))  # of the frozen base's loss: a rise of 0.16 is 8 % of 2.0
    assert "loss on earlier hold-outs rose by 8.0%" in verdict.reasons[0]


def test_a_change_of_style_is_not_forgetting_because_the_champion_was_nearly_sure() -> None:
    """From 0.2 to 0.3 nats is half as much again, and a thirtieth of what the base did not know."""
    assert decide(loss=(0.3, 0.2, 3.0)).accepted


def test_what_earlier_nights_had_gained_must_stay() -> None:
    """4 % more loss is 40 % of what the champion had gained over the base."""
    verdict = decide(loss=(1.04, 1.0, 1.1))
    assert verdict.gain_retention == pytest.approx(0.6)
    assert "60.0% of what earlier nights had gained" in verdict.reasons[0]


def test_no_gain_over_the_base_cannot_be_lost() -> None:
    assert decide(loss=(1.0, 1.0, 1.0)).gain_retention is None


def test_one_age_that_is_clearly_worse_refuses() -> None:
    """Half a dozen ages of one conversation each only count in the pool; one of forty counts on its own."""
    few = [f"g{i}" for i in range(COUNT)]
    assert decide(ages=few).accepted
    base = Compared(scores(1.0), scores(1.0), scores(9.0), GROUPS)
    worse = Scores([x * 1.2 for x in base.champion.losses], [0.5] * COUNT)
    old = Compared(
        Scores(worse.losses + [0.7] * COUNT, [0.5] * 2 * COUNT),
        Scores(base.champion.losses + [1.0] * COUNT, [0.5] * 2 * COUNT),
        Scores([1.0] * 2 * COUNT, [0.1] * 2 * COUNT),
        [*GROUPS, *(f"h{i}" for i in range(COUNT))], ["earlier"] * COUNT + ["last night"] * COUNT,
    )  # fmt: skip
    new = Compared(scores(0.8), scores(1.2), scores(2.0), GROUPS)
    verdict = judge(new=new, old=old, target=0.95)
    assert verdict.by_age == {"earlier": pytest.approx(0.2), "last night": pytest.approx(-0.3)}
    assert verdict.reasons == ["It forgot what was learned earlier: loss rose by 20.0% there."]


def test_one_impolite_answer_is_chance_two_are_not() -> None:
    passed = [True] * 30
    assert decide(courtesies=(Asked([False] + passed[1:], 60), Asked(passed, 60))).accepted
    verdict = decide(courtesies=(Asked([False] * 2 + passed[2:], 60), Asked(passed, 60)))
    assert verdict.reasons == ["It became less courteous or less safe: 28 of 30 checks pass, the champion passes 30."]


@pytest.mark.parametrize(
    ("challenger", "champion", "accepted"), [(130, 70, True), (150, 70, False), (90, 20, True), (60, 0, True)]
)
def test_answers_that_are_twice_as_long_keep_people_waiting(challenger: int, champion: int, accepted: bool) -> None:
    passed = [True] * 30
    verdict = decide(courtesies=(Asked(passed, challenger), Asked(passed, champion)))
    assert (verdict.accepted, verdict.characters) == (accepted, (challenger, champion))
    if not accepted:
        assert "150 characters, the champion's 70; 2 times" in verdict.reasons[0]


def test_no_hold_out_proves_nothing() -> None:
    empty = Scores([], [])
    verdict = judge(
        new=Compared(empty, empty, empty, []), old=Compared(empty, empty, empty, []), target=0.95
    )  # fmt: skip
    assert "no hold-out" in verdict.reasons[0]
    assert verdict.retention == 1.0


def test_a_gain_within_noise_is_no_gain() -> None:
    noisy = [1.0, -1.0] * (COUNT // 2)
    same = Scores([1.2 + n for n in noisy], [0.5] * COUNT)
    champion = Scores([1.25 - n * 0.5 for n in noisy], [0.5] * COUNT)
    old = Compared(scores(1.0), scores(1.0), scores(2.0), GROUPS)
    assert not judge(new=Compared(same, champion, scores(2.0), GROUPS), old=old, target=0.95).accepted


@pytest.mark.parametrize(
    ("days", "words"), [(0.5, "last night"), (6, "in the last week"), (20, "in the last month"), (90, "earlier")]
)
def test_ages_in_words(days: float, words: str) -> None:
    assert age_of(days, generated=False) == words
    assert age_of(days, generated=True) == "from the starter"


def test_of_a_weak_champion_two_lost_checks_are_chance_six_are_not() -> None:
    passed = [True] * 13 + [False] * 21
    assert decide(courtesies=(Asked([False] * 2 + passed[2:], 60), Asked(passed, 60))).accepted
    assert not decide(courtesies=(Asked([False] * 6 + passed[6:], 60), Asked(passed, 60))).accepted
