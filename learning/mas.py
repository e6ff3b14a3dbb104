"""Memory Aware Synapses (Aljundi et al., ECCV 2018, arXiv 1711.09601) on the LoRA factors.

How much does the model's output move when one weight moves? Weights that matter are held near where they were:

    importance  Omega_i = 1/N sum_n | d ||z_n||^2 / d theta_i |        at the end of a night
    penalty     lambda/2 sum_i Omega_i (theta_i - theta*_i)^2          during the next

Two traps of the usual implementation (Avalanche's `mas.py`) are avoided: the absolute value is taken per
sample, before the mean (else signs cancel), and the gradient is taken in eval mode (else dropout speaks).
z are the logits minus their mean over the vocabulary: softmax ignores a common offset, so must we.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from learning.dataset import IGNORED, Row, answer_logits, collate
from learning.lora import trainable

DECAY = 0.95  # of what earlier nights found important: half is left after 14 nights


@dataclass
class Importance:
    """What earlier nights found important.

    Attributes:
        omega: factor name -> importance, the shape of the factor, fp32, mean 1 over all factors together.
        nights: how many nights' worth of evidence it holds, after decay.
    """

    omega: dict[str, torch.Tensor]
    nights: float = 1.0

    def merged(self, new: "Importance") -> "Importance":
        """Omega <- (decay n Omega + Omega_new) / (decay n + 1): old evidence fades, it is not thrown away."""
        old = DECAY * self.nights
        omega = {name: (old * self.omega[name] + new.omega[name]) / (old + 1) for name in new.omega}
        return Importance(omega, old + 1)

    def save(self, path: Path) -> None:
        save_file(self.omega, path, metadata={"format": "pt", "nights": repr(self.nights)})

    @classmethod
    def load(cls, path: Path) -> "Importance":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            nights = float((file.metadata() or {}).get("nights", 1.0))
        return cls(load_file(path), nights)


def estimate(model: Any, rows: Sequence[Row], pad_id: int) -> Importance:
    """Importance of every factor over `rows`, one sample at a time.

    24-32 rows are enough: the error falls only as 1/sqrt(N), and each row costs more than a training sample.
    """
    was_training = model.training
    model.eval()
    factors = trainable(model)
    total = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in factors.items()}
    for row in rows:
        batch = collate([row], pad_id).to(next(iter(factors.values())).device)
        logits = answer_logits(model, batch).float()
        centred = logits - logits.mean(dim=-1, keepdim=True)
        counted = (batch.labels != IGNORED).float()
        output = (centred.pow(2).sum(dim=-1) * counted).sum() / counted.sum()
        gradients = torch.autograd.grad(output, list(factors.values()))
        for name, gradient in zip(factors, gradients, strict=True):
            total[name] += gradient.abs() / len(rows)
    model.train(was_training)
    return Importance(normalised(total))


def normalised(omega: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Scale to mean 1 over all factors, so that lambda does not depend on the output's scale."""
    mean = sum(float(tensor.sum()) for tensor in omega.values()) / sum(tensor.numel() for tensor in omega.values())
    return {name: tensor / max(mean, 1e-12) for name, tensor in omega.items()}


@dataclass
class Penalty:
    """The pull back to the champion's weights: strength/2 sum Omega (theta - theta*)^2.

    Its gradient, strength Omega (theta - theta*), is added to `.grad` once per optimiser step, after the last
    backward and before clipping: a tenth of the cost of letting autograd derive it.
    """

    importance: Importance
    anchor: dict[str, torch.Tensor]
    strength: float

    @classmethod
    def around(cls, model: Any, importance: Importance, strength: float) -> "Penalty":
        """Anchored at the model's weights now: the champion's, before the first step of a night."""
        anchor = {name: parameter.detach().clone() for name, parameter in trainable(model).items()}
        device = next(iter(anchor.values())).device
        omega = {name: importance.omega[name].to(device) for name in anchor}
        return cls(Importance(omega, importance.nights), anchor, strength)

    def value(self, model: Any) -> float:
        """In nats, to be compared with the task's loss: above half of it the night is being held back."""
        return sum(
            float(self.strength / 2 * (self.importance.omega[name] * (p.detach() - self.anchor[name]).pow(2)).sum())
            for name, p in trainable(model).items()
        )

    def add_gradient(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Add the penalty's gradient to the parameters' `.grad`."""
        names = list(parameters)
        pull = torch._foreach_sub([parameters[n].detach() for n in names], [self.anchor[n] for n in names])
        torch._foreach_mul_(pull, [self.importance.omega[n] for n in names])
        gradients = [g for n in names if (g := parameters[n].grad) is not None]
        torch._foreach_add_(gradients, pull, alpha=self.strength)
