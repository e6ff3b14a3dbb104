"""Drawing tokens: shares as the logits say, within the nucleus, repeatable."""

import pytest
import torch

from integrations.huggingface.sampling import Chooser, Sampling

LOGITS = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()


def drawn(sampling: Sampling, logits: torch.Tensor = LOGITS, count: int = 4000) -> torch.Tensor:
    """Share of each token over `count` draws."""
    chooser = Chooser(sampling)
    tokens = [chooser.choose(logits) for _ in range(count)]
    return torch.bincount(torch.tensor(tokens), minlength=len(logits)) / count


def test_greedy_is_the_default() -> None:
    assert Chooser(Sampling()).choose(LOGITS) == 3


def test_temperature_one_draws_by_probability() -> None:
    torch.testing.assert_close(drawn(Sampling(temperature=1, seed=1)), LOGITS.exp(), atol=0.03, rtol=0)


def test_a_lower_temperature_sharpens() -> None:
    wanted = (LOGITS / 0.5).softmax(-1)
    torch.testing.assert_close(drawn(Sampling(temperature=0.5, seed=1)), wanted, atol=0.03, rtol=0)


@pytest.mark.parametrize(("top_p", "kept"), [(0.3, [3]), (0.5, [2, 3]), (0.71, [1, 2, 3]), (1.0, [0, 1, 2, 3])])
def test_top_p_keeps_the_smallest_sufficient_set(top_p: float, kept: list[int]) -> None:
    assert drawn(Sampling(temperature=1, top_p=top_p, seed=1)).nonzero().flatten().tolist() == kept


def test_a_flat_distribution_needs_more_than_the_first_few_hundred() -> None:
    shares = drawn(Sampling(temperature=1, top_p=0.9, seed=1), torch.zeros(1000), 20_000)
    assert 880 <= int((shares > 0).sum()) <= 900


def test_seeds() -> None:
    def sequence(seed: int | None) -> list[int]:
        chooser = Chooser(Sampling(temperature=1, seed=seed))
        return [chooser.choose(torch.zeros(50)) for _ in range(12)]

    assert sequence(5) == sequence(5) != sequence(6)
    assert sequence(None) != sequence(None)
    assert sequence(-3) == sequence(-3)


@pytest.mark.parametrize(
    ("sampling", "said", "wanted"),
    [
        (Sampling(presence_penalty=1.0), [3, 3], 2),
        (Sampling(frequency_penalty=0.2), [3, 3], 2),
        (Sampling(frequency_penalty=0.2), [3], 3),
        (Sampling(repetition_penalty=1.4), [3], 2),
        (Sampling(repetition_penalty=1.4), [], 3),
    ],
)
def test_penalties_count_what_was_said(sampling: Sampling, said: list[int], wanted: int) -> None:
    logits = LOGITS.clone()
    assert Chooser(sampling, said).choose(logits) == wanted
    torch.testing.assert_close(logits, LOGITS)  # the caller's are left alone
