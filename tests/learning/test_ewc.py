"""Fisher information against a case that can be done by hand, and its trap."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from learning import ewc
from learning.dataset import Row
from learning.importance import Importance, per_sample


class Line(torch.nn.Module):
    """f(x) = a x1 + b x2 at (2, -2)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(2.0))
        self.b = torch.nn.Parameter(torch.tensor(-2.0))

    def loss(self, x: tuple[int, int], y: float) -> torch.Tensor:
        return (self.a * x[0] + self.b * x[1] - y) ** 2 / 2


SAMPLES = [((1, 0), 1.0), ((1, 2), -3.0)]


def test_squares_are_taken_per_sample() -> None:
    """Gradients (1, 0) and (1, 2): F = (1, 2). Squared after the mean it would be (1, 1)."""
    line = Line()
    fisher = per_sample({"a": line.a, "b": line.b}, (line.loss(x, y) for x, y in SAMPLES), torch.square)
    assert (fisher["a"].item(), fisher["b"].item()) == pytest.approx((1.0, 2.0))


def test_averaged_first_it_would_be_another_matrix() -> None:
    line = Line()
    mean = sum((line.loss(x, y) for x, y in SAMPLES), torch.tensor(0.0)) / 2
    together = per_sample({"a": line.a, "b": line.b}, [mean], torch.square)
    assert (together["a"].item(), together["b"].item()) == pytest.approx((1.0, 1.0))


class Coin(torch.nn.Module):
    """Two words with logits (a, 0): p(first) = sigmoid(a), Fisher information p (1 - p)."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(a))
        self.b = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        logits = torch.stack([self.a, self.b]).expand(input_ids.shape[0], 2, 2)
        return SimpleNamespace(logits=logits)


def raw_fisher(a: float, count: int) -> float:
    coin = Coin(a)
    generator = torch.Generator().manual_seed(1)
    rows = [Row((1, 0), 1)] * count
    outputs = ewc._log_likelihoods(coin, rows, 0, generator)
    return per_sample({"a": coin.a}, outputs, torch.square)["a"].item()


def test_it_is_the_fisher_information_not_the_labels_gradient() -> None:
    """The label is the first word each time, and well learned (a = 2): its squared gradient would be (1 - p)^2 = 0.014.
    Drawn from the model it is p (1 - p) = 0.105."""
    p = 1 / (1 + torch.exp(torch.tensor(-2.0)).item())
    assert raw_fisher(2.0, 4_000) == pytest.approx(p * (1 - p), rel=0.15)


def test_the_same_seed_draws_the_same() -> None:
    rows = [Row((1, 0), 1)] * 8
    first, second = (ewc.estimate(Coin(0.3), rows, 0, seed=5).omega for _ in range(2))
    assert torch.equal(first["a"], second["a"])


def test_the_two_kinds_are_never_mixed() -> None:
    mas = Importance({"a": torch.tensor(1.0)}, 3.0, "mas")
    new = Importance({"a": torch.tensor(2.0)}, 1.0, "ewc")
    assert mas.merged(new) is new
