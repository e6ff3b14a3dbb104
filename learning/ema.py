"""Fast and slow weights: training moves the fast ones, what is served is their average over the later steps.

    slow <- d slow + (1 - d) fast     after every step, d = 1 - 1 / (WINDOW x the night's steps)

The slow weights are carried over the nights (so they also average over nights, fading), and both lie in the artifact.
A and B are averaged apart, although the product of averages is not the average of products: their difference is the
covariance of B and A along the window, and along one trajectory of small steps that is small (docs/decisions/0014).
Between adapters that lie apart, or whose gauge may differ, it would not be; nothing here averages those.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WINDOW = 0.8  # of the night's steps: longer serves what is new a night late, shorter forgets more (docs/log.md)

NEARNESS = (0.0, 0.25, 0.5, 0.75, 1.0)  # to the fast weights: what `best_between` tries

Factors = dict[str, torch.Tensor]


class Average:
    """The slow copy of a model's factors.

    Args:
        slow: where it starts. A fresh adapter (B = 0) holds nothing worth keeping: then the average is the plain mean
            until the window is full, and the first night's beginning fades out of it.
    """

    def __init__(self, slow: Mapping[str, torch.Tensor], *, window: float = WINDOW) -> None:
        self.slow: Factors = {name: tensor.detach().clone() for name, tensor in slow.items()}
        self.window = window
        self.fresh = not any(bool(tensor.any()) for name, tensor in slow.items() if "lora_B" in name)

    def follow(self, factors: Mapping[str, torch.Tensor], step: int, steps: int) -> None:
        """After step `step` of `steps` (from 0): nearer to the fast weights."""
        weight = 1 / max(1.0, self.window * steps)
        if self.fresh:
            weight = max(weight, 1 / (step + 1))
        torch._foreach_lerp_(list(self.slow.values()), [factors[name].detach() for name in self.slow], weight)

    @contextmanager
    def serving(self, factors: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Meanwhile the model holds the slow weights."""
        fast = snapshot(factors)
        put(factors, self.slow)
        try:
            yield
        finally:
            put(factors, fast)


def best_between(factors: Mapping[str, torch.Tensor], slow: Factors, fast: Factors, loss: Callable[[], float]) -> float:
    """Leave in `factors` the point between slow (0) and fast (1) weights with the lowest loss, and say which.

    After WiSE-FT (Wortsman et al. 2021, arXiv 2109.01903), whose ends are the weights before and after a training.
    """

    def go(nearness: float) -> None:
        put(factors, {name: torch.lerp(slow[name], fast[name], nearness) for name in slow})

    def tried(nearness: float) -> float:
        go(nearness)
        return loss()

    best = min(NEARNESS, key=tried)
    go(best)
    return best


def snapshot(factors: Mapping[str, torch.Tensor]) -> Factors:
    return {name: tensor.detach().clone() for name, tensor in factors.items()}


def put(factors: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    """Copy values into a model's factors."""
    for name, factor in factors.items():
        factor.data.copy_(values[name])


def save_fast(fast: Mapping[str, torch.Tensor], path: Path) -> None:
    save_file({name: tensor.cpu().contiguous() for name, tensor in fast.items()}, path, metadata={"format": "pt"})


def load_fast(path: Path) -> Factors:
    return load_file(path)
