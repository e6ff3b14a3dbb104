"""How much each weight matters to what was learned so far, and the pull that keeps it there.

MAS and EWC differ in what they measure (learning/mas.py, learning/ewc.py) and share the rest:

    importance  Omega_i = 1/N sum_n fold(d output_n / d theta_i), fold = | | (MAS) or square (EWC); scaled to mean 1
    over nights Omega <- (decay n Omega + Omega_new) / (decay n + 1)
    penalty     lambda/2 sum_i Omega_i (theta_i - theta*_i)^2

The fold is taken per sample, before the mean: on a batch's mean gradient signs cancel (Avalanche's `mas.py`), and
squares come out too small by up to the batch's size (its `ewc.py`). Mean 1 frees lambda from the output's scale, so
one lambda fits nights of other lengths. Importance is kept on the factors A and B, not on their product: it depends on
the gauge (B G, G^-1 A), but every night continues the same factors, so the gauge does not change between anchor and
penalty; on the product it would cost out x in numbers a layer instead of (out + in) x rank.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from learning.lora import trainable

DECAY = 0.95  # of what earlier nights found important: half is left after 14 nights


@dataclass
class Importance:
    """What earlier nights found important.

    Attributes:
        omega: factor name -> importance, the shape of the factor, fp32, mean 1 over all factors together.
        nights: how many nights' worth of evidence it holds, after decay.
        kind: mas or ewc; one is never mixed with the other.
    """

    omega: dict[str, torch.Tensor]
    nights: float = 1.0
    kind: str = "mas"

    def merged(self, new: "Importance") -> "Importance":
        """Old evidence fades, it is not thrown away; evidence of the other kind is."""
        if new.kind != self.kind:
            return new
        old = DECAY * self.nights
        omega = {name: (old * self.omega[name] + new.omega[name]) / (old + 1) for name in new.omega}
        return Importance(omega, old + 1, self.kind)

    def save(self, path: Path) -> None:
        save_file(self.omega, path, metadata={"format": "pt", "nights": repr(self.nights), "kind": self.kind})

    @classmethod
    def load(cls, path: Path) -> "Importance":
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
        return cls(load_file(path), float(facts.get("nights", 1.0)), facts.get("kind", "mas"))


def per_sample(
    factors: Mapping[str, torch.nn.Parameter],
    outputs: Iterable[torch.Tensor],
    fold: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Mean over samples of the folded gradient of each sample's scalar output."""
    total = {name: torch.zeros_like(factor, dtype=torch.float32) for name, factor in factors.items()}
    count = 0
    for output in outputs:
        gradients = torch.autograd.grad(output, list(factors.values()))
        for name, gradient in zip(factors, gradients, strict=True):
            total[name] += fold(gradient)
        count += 1
    return {name: tensor / max(count, 1) for name, tensor in total.items()}


def normalised(omega: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Scale to mean 1 over all factors, so that lambda does not depend on the output's scale."""
    mean = sum(float(tensor.sum()) for tensor in omega.values()) / sum(tensor.numel() for tensor in omega.values())
    return {name: tensor / max(mean, 1e-12) for name, tensor in omega.items()}


class Penalty:
    """The pull back to the anchor: strength/2 sum Omega (theta - theta*)^2.

    Its gradient, strength Omega (theta - theta*), is added to `.grad` once per optimiser step, after the last
    backward and before clipping: a tenth of the cost of letting autograd derive it.
    """

    def __init__(self, importance: Importance, anchor: Mapping[str, torch.Tensor], strength: float) -> None:
        self.anchor = {name: tensor.detach().clone() for name, tensor in anchor.items()}
        device = next(iter(self.anchor.values())).device
        self.importance = importance
        self.strength = strength
        self._omega = {name: importance.omega[name].to(device) for name in self.anchor}
        self.seconds = 0.0

    @classmethod
    def around(cls, model: Any, importance: Importance, strength: float) -> "Penalty":
        """Anchored at the model's weights now."""
        return cls(importance, trainable(model), strength)

    def value(self, model: Any) -> float:
        """In nats, to be compared with the task's loss: above half of it the night is being held back."""
        return sum(
            float(self.strength / 2 * (self._omega[name] * (factor.detach() - self.anchor[name]).pow(2)).sum())
            for name, factor in trainable(model).items()
        )

    def add_gradient(self, factors: Mapping[str, torch.nn.Parameter]) -> None:
        """Add the penalty's gradient to the factors' `.grad`."""
        started = time.perf_counter()
        names = list(factors)
        pull = torch._foreach_sub([factors[n].detach() for n in names], [self.anchor[n] for n in names])
        torch._foreach_mul_(pull, [self._omega[n] for n in names])
        gradients = [g for n in names if (g := factors[n].grad) is not None]
        torch._foreach_add_(gradients, pull, alpha=self.strength)
        self.seconds += time.perf_counter() - started


def half_and_half(new: Sequence[Any], replayed: Sequence[Any], count: int) -> list[Any]:
    """`count` rows to measure importance on: half of tonight's, half of what is older."""
    half = min(count // 2, len(replayed))
    return [*replayed[:half], *new[: count - half]]
