"""The gate: what it accepts, what it refuses, and what it tells a person."""

from typing import Any

import pytest

from learning.evaluate import Scores, difference, judge, score

GROUPS = [f"g{i}" for i in range(20)]


def scores(loss: float, accuracy: float, count: int = 20, wiggle: float = 0.02) -> Scores:
    losses = [loss + wiggle * ((i * 7) % 5 - 2) for i in range(count)]
    return Scores(losses, [accuracy] * count)


def decide(new: tuple[float, float], old: tuple[float, float], target: float = 0.95) -> Any:
    """`new` and `old` are (challenger, champion): losses on the night's hold-out, accuracies on earlier ones."""
    return judge(
        new=(scores(new[0], 0.5), scores(new[1], 0.5), GROUPS),
        old=(scores(1.0, old[0]), scores(1.0, old[1]), GROUPS),
        target=target,
    )


def test_learned_and_kept_is_accepted() -> None:
    verdict = decide(new=(0.8, 1.2), old=(0.80, 0.81))
    assert verdict.accepted
    assert verdict.gain.mean == pytest.approx(-0.4)
    assert verdict.retention == pytest.approx(0.80 / 0.81)


def test_a_frozen_learner_is_refused_for_all_its_retention() -> None:
    verdict = decide(new=(1.2, 1.2), old=(0.81, 0.81))
    assert not verdict.accepted
    assert "learned nothing" in verdict.reasons[0]
    assert verdict.retention == 1.0


def test_forgetting_is_refused_under_the_target() -> None:
    verdict = decide(new=(0.5, 1.2), old=(0.74, 0.81))
    assert not verdict.accepted
    assert "target is 95%" in verdict.reasons[0]


def test_seventy_percent_is_refused_whatever_the_target() -> None:
    verdict = decide(new=(0.5, 1.2), old=(0.5, 0.81), target=0.7)
    assert "always refused" in verdict.reasons[0]


def test_no_hold_out_proves_nothing() -> None:
    empty = Scores([], [])
    verdict = judge(new=(empty, empty, []), old=(scores(1, 0.8), scores(1, 0.8), GROUPS), target=0.95)
    assert not verdict.accepted
    assert "no hold-out" in verdict.reasons[0]


def test_a_gain_within_noise_is_no_gain() -> None:
    noisy = [1.0, -1.0] * 10
    same = Scores([1.2 + n for n in noisy], [0.5] * 20)
    champion = Scores([1.25 - n * 0.5 for n in noisy], [0.5] * 20)
    verdict = judge(new=(same, champion, GROUPS), old=(scores(1, 0.8), scores(1, 0.8), GROUPS), target=0.95)
    assert not verdict.accepted


def test_turns_of_one_conversation_are_one_witness() -> None:
    """Ten rows of one conversation: the interval is as wide as that conversation's word, which is none."""
    better = [-0.5] * 10
    one = difference([b for b in better], [0.0] * 10, ["same"] * 10)
    assert one.low == one.high == pytest.approx(-0.5)
    two = difference([-1.0] * 9 + [1.0], [0.0] * 10, ["a"] * 9 + ["b"])
    assert two.high > 0


def test_scores_of_a_model(base: tuple[Any, Any], adapted: Any) -> None:
    from core.prompts import chat_messages
    from learning.dataset import Example, encode
    from learning.train import row_losses

    rows = [
        encode(base[1], Example(tuple(chat_messages(
            language="pt", assistant="Lia", business="X", question=f"P {'x' * i}", passages=None)), f"R{i}"))
        for i in range(5)
    ]  # fmt: skip
    found = score(adapted, rows, base[1].pad_token_id, batch_size=2)
    assert found.losses == pytest.approx(row_losses(adapted, rows, base[1].pad_token_id), rel=1e-4)
    assert all(0 <= accuracy <= 1 for accuracy in found.accuracies)
