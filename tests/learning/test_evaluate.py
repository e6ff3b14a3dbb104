"""What is measured of a model, and how two are compared."""

import random
from typing import Any

import pytest

from learning.evaluate import difference, score


def test_turns_of_one_conversation_are_one_witness() -> None:
    """Ten rows, nine of them of one conversation: what speaks against them may be all that there is."""
    two = difference([-1.0] * 9 + [1.0], [0.0] * 10, ["a"] * 9 + ["b"])
    assert two.low < two.mean < 0 < two.high


def test_a_single_conversation_leaves_doubt() -> None:
    """Nothing but it can be drawn; its own rows differ."""
    one = difference([-1.0] * 6 + [0.5] * 4, [0.0] * 10, ["same"] * 10)
    assert one.low < one.mean == pytest.approx(-0.4)
    assert one.high > 0
    sure = difference([-0.5] * 10, [0.0] * 10, ["same"] * 10)
    assert sure.low == sure.high == pytest.approx(-0.5)


@pytest.mark.parametrize(("conversations", "most"), [(4, 0.08), (8, 0.04), (20, 0.035)])
def test_of_few_conversations_chance_shows_no_gain(conversations: int, most: float) -> None:
    """Nothing is there to be found: 2.5 % of the nights find it. Four can show no less than one in sixteen."""
    rng = random.Random(0)
    nights = [[rng.gauss(0, 1) for _ in range(conversations)] for _ in range(400)]
    groups = [str(i) for i in range(conversations)]
    shown = sum(difference(night, [0.0] * conversations, groups).high < 0 for night in nights)
    assert shown / len(nights) <= most


def test_scores_of_a_model(base: tuple[Any, Any], adapted: Any) -> None:
    from core.prompts import chat_messages
    from learning.dataset import Example, collate, encode

    rows = [
        encode(base[1], Example(tuple(chat_messages(
            language="pt", assistant="Lia", business="X", question=f"P {'x' * i}", passages=None)), f"R{i}"))
        for i in range(5)
    ]  # fmt: skip
    pad_id = base[1].pad_token_id
    alone = [float(collate([row], pad_id).losses(adapted).mean().detach()) for row in rows]
    for tokens in (1, 2 * len(rows[-1]), None):  # one by one, two by two, as usual
        assert score(adapted, rows[::-1], pad_id, tokens=tokens).losses[::-1] == pytest.approx(alone, rel=1e-4)
    found = score(adapted, rows, pad_id)
    assert all(0 <= accuracy <= 1 for accuracy in found.accuracies)
