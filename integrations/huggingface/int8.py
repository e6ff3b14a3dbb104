"""Linear layers in 8 bits on the CPU: a third of the time and half the memory of bf16, for serving only.

Weights have one scale for each output, activations one for each token. The usual dynamic quantisation
(`torch.ao.quantization.quantize_dynamic`) takes one scale for all tokens of a batch, and 7 bits of it: then a token's
answer depends on who else is in the batch, and one outlier makes all others coarse. Here every token is divided by its
own largest value first, so its result is the same alone and in company.

`select_engine` tries what this machine's build of torch can really do, and how well.
"""

import functools
import warnings
from dataclasses import dataclass
from typing import Protocol

import torch

_TOLERANCE = 0.05  # relative error of one product; right ones have about 0.01
_TINY = 1e-12


class Product(Protocol):
    """x -> x @ weight.T (+ bias), for x of shape (n, inputs)."""

    outputs: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class FloatProduct:
    """The product in the weights' own precision."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight, self._bias = weight, bias
        self.outputs = len(weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self._weight, self._bias)


@dataclass(frozen=True)
class Engine:
    """What this machine's 8-bit products can do.

    Args:
        name: torch's name of it: x86, fbgemm, qnnpack, onednn.
        levels: the largest quantised activation: 127, or 63 where the processor's 16-bit sums would overflow.
        fixed_range: whether the activations' scale can be given, or is taken from the batch's extremes.
    """

    name: str
    levels: int
    fixed_range: bool


class Int8Product:
    """The product in 8 bits: float in, float out.

    Args:
        weight: (outputs, inputs), any float type.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, engine: Engine) -> None:
        weight = weight.detach().float()
        scales = (weight.abs().amax(1) / 127).clamp_min(_TINY)
        with warnings.catch_warnings():
            # Quantised tensors are to leave torch for torchao, which has no such product for the CPU yet.
            warnings.simplefilter("ignore")
            quantised = torch.quantize_per_channel(
                weight, scales.double(), torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8
            )
            self._packed = torch.ops.quantized.linear_prepack(quantised, None)
        self._bias = None if bias is None else bias.detach().float()
        products = torch.ops.quantized
        if engine.fixed_range:
            product = products.linear_with_input_q_dq_qweight_dq_output_fp32
            how = (1 / engine.levels, engine.levels + 1)
            self._multiply = lambda x: product.default(x, *how, self._packed)
        else:
            self._multiply = lambda x: products.linear_dynamic.default(x, self._packed, engine.levels < 127)
        self.outputs = len(weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        peaks = x.abs().amax(1, keepdim=True).clamp_min_(_TINY)
        y = self._multiply(x / peaks)
        y.mul_(peaks)
        return y if self._bias is None else y.add_(self._bias)


@functools.cache
def select_engine() -> Engine | None:
    """The best that works here, or None: then the caller stays with floats.

    Tried on real products rather than looked up: which instructions a build of torch uses on which processor is
    written down nowhere.
    """
    name = torch.backends.quantized.engine
    for fixed_range in (True, False):
        for levels in (127, 63):
            engine = Engine(name, levels, fixed_range)
            if _works(engine):
                return engine
    return None


def _works(engine: Engine) -> bool:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 64, generator=generator)
    weight = torch.randn(48, 64, generator=generator)
    # All values at their largest: neighbouring products overflow 16 bits where the processor adds them in 16 bits.
    x[0], weight[0] = 1.0, 1.0
    try:
        found = Int8Product(weight, None, engine)(x)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    wanted = x @ weight.T
    errors = (found - wanted).norm(dim=1) / wanted.norm(dim=1)
    return bool((errors < _TOLERANCE).all()) and bool((found[0, 0] - wanted[0, 0]).abs() < _TOLERANCE * 64)
