"""Training on a CPU, twice as fast: products in bf16, one step for a linear layer with its LoRA, plain attention.

All else (factors, residual stream, softmax, importance, optimiser) stays fp32. What torch and PEFT do one after the
other is done here in one go, forwards and backwards, so that less is copied and less is kept for the way back:

    linear      y = x W' + s (x A') B'     kept: x once in bf16 (q, k and v share it), and the few columns of x A'
    head        its weight, which is the word vectors too, in bf16 once and not at every batch; no copy in fp32 is kept
    attention   softmax(s q k' + mask) v   kept: q, k and v; the probabilities are computed again on the way back

The gradients are those of autograd, up to rounding (tests/learning/test_quick.py). Measured in docs/log.md. On a GPU,
whose base is bf16 as a whole, the same steps start fewer kernels, and the attention is none that gave NaN there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "npllm_plain"


def knows_bf16() -> bool:
    """Whether this CPU multiplies bf16 by itself."""
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


@contextmanager
def quick_products(model: Any) -> Iterator[None]:
    """While training on a GPU, or on a CPU that multiplies bf16 by itself; elsewhere it does nothing.

    The frozen linear weights and the head's are turned into bf16 once and stay so: load the base again for fp32. The
    cache of autocast must stay off: it would keep the first cast of the factors, and never see a step.
    """
    on_cpu = model.device.type == "cpu"
    if on_cpu and not knows_bf16():
        yield
        return
    layers = [module for module in model.modules() if type(module) is LoraLinear]
    usual = model.config._attn_implementation
    for layer in layers:
        layer.base_layer.weight.data = layer.base_layer.weight.data.bfloat16()
    cast = _Cast()
    for layer in layers:
        layer.forward = _Forward(layer, cast)  # type: ignore[method-assign]
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if type(head) is torch.nn.Linear and head.bias is None:
        dtype = table.weight.dtype
        head.weight.data = head.weight.data.bfloat16()
        if head.weight is table.weight and type(table) is torch.nn.Embedding:
            table.forward = lambda tokens: torch.nn.functional.embedding(tokens, table.weight).to(dtype)
    if usual == "sdpa":  # a model that asks for another one has its reasons
        model.set_attn_implementation(ATTENTION)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False, enabled=on_cpu):
            yield
    finally:
        model.set_attn_implementation(usual)
        for layer in (*layers, table):
            vars(layer).pop("forward", None)


class _Cast:
    """The latest input in bf16: layers that read the same one share it."""

    def __init__(self) -> None:
        self._of: torch.Tensor | None = None
        self._cast: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x is not self._of or self._cast is None:
            self._of, self._cast = x, x.detach().bfloat16()
        return self._cast


class _Forward:
    """Stands in the place of one LoRA layer's `forward`."""

    def __init__(self, layer: LoraLinear, cast: _Cast) -> None:
        self.layer, self.cast = layer, cast

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        name, *others = layer.active_adapters
        if layer.disable_adapters or others or not self._is_plain(name):
            return type(layer).forward(layer, x)
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        found: torch.Tensor = _Linear.apply(x, self.cast(x), layer.base_layer.weight, a, b, layer.scaling[name])
        return found

    def _is_plain(self, name: str) -> bool:
        layer = self.layer
        without = isinstance(layer.lora_dropout[name], torch.nn.Identity) and layer.base_layer.bias is None
        return without and name not in layer.lora_variant


class _Linear(torch.autograd.Function):
    """x (..., in), x in bf16, W (out, in) in bf16, A (rank, in) and B (out, rank) in fp32 -> (..., out) in bf16."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, cast: torch.Tensor, w: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
    ) -> torch.Tensor:
        flat = cast.flatten(0, -2)
        down = flat @ a.bfloat16().T
        y = (flat @ w.T).addmm_(down, b.bfloat16().T, alpha=scale)
        ctx.save_for_backward(cast, down, w, a, b)
        ctx.scale, ctx.dtype = scale, x.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        cast, down, w, a, b = ctx.saved_tensors
        g = grad.flatten(0, -2).bfloat16()
        flat = cast.flatten(0, -2)
        back = g @ (b * ctx.scale).bfloat16()
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (g @ w).addmm_(back, a.bfloat16()).to(ctx.dtype).view_as(cast)
        of_b = (g.T @ down).float().mul_(ctx.scale)
        return of_x, None, None, (back.T @ flat).float(), of_b, None


class _Attention(torch.autograd.Function):
    """q (rows, heads, tokens, size), k and v (rows, groups, tokens, size), mask True where may be looked -> as q."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float
    ) -> torch.Tensor:
        ctx.save_for_backward(q, k, v, mask)
        ctx.scale = scale
        return (_probabilities(q, k, mask, scale) @ v).view_as(q)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        q, k, v, mask = ctx.saved_tensors
        p = _probabilities(q, k, mask, ctx.scale)
        g = _grouped(grad.bfloat16(), k)
        of_v = p.transpose(-1, -2) @ g
        of_p = (g @ v.transpose(-1, -2)).float()
        of_scores = of_p.sub_((of_p * p).sum(-1, keepdim=True)).mul_(p).mul_(ctx.scale).bfloat16()
        of_k = of_scores.transpose(-1, -2) @ _grouped(q, k)
        return (of_scores @ k).view_as(q), of_k, of_v, None, None


def _grouped(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The heads that read the same keys, one below the other: (rows, groups, heads a group x tokens, size)."""
    rows, _, _, size = q.shape
    return q.reshape(rows, k.shape[1], -1, size)


def _probabilities(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    """(rows, groups, heads a group x tokens, tokens), in bf16; the softmax in fp32."""
    scores = (_grouped(q, k) @ k.transpose(-1, -2)).float().mul_(scale)
    scores.view(*q.shape[:3], -1).masked_fill_(~mask, -1e4)  # finite: what only pads would see must not become NaN
    return scores.softmax(-1).bfloat16()


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    scaling: float, dropout: float = 0.0, **more: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """What transformers calls; it wants (rows, tokens, heads, size)."""
    if dropout:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **more
        )  # fmt: skip
    q, k, v = (tensor.bfloat16() for tensor in (query, key, value))
    if attention_mask is None:
        tokens = q.shape[2]
        attention_mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device=q.device).tril()
    return _Attention.apply(q, k, v, attention_mask, scaling).transpose(1, 2), None


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
