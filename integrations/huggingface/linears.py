"""The model's linear layers as they are served: fused, in 8 bits where that helps, each token with its own adapter.

Layers that read the same input (q, k and v; gate and up) are computed in one product: fewer and wider products, and
the input is quantised once. Each layer stays a module in its place, so the architecture's own code runs unchanged:
the first of them that is called computes all, the others hand out their part.

An adapter version's update is added over the tokens that belong to it: `y[rows] += (x[rows] @ A) @ B`. A step's tokens
are sorted by version, so these rows are neighbours, and a version costs nothing where nobody uses it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from integrations.huggingface.attention import Slots
from integrations.huggingface.int8 import Product

# Names of neighbours that read the same input, in Llama, Qwen, Mistral, Gemma, Phi-3 and most others.
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
# Up to so many outputs in all, one product with a block-diagonal B is quicker than one for each of the fused layers.
_SMALL = 20_000


@dataclass(frozen=True, eq=False)
class Factors:
    """One version's update of one group of fused layers.

    Args:
        a: (ranks, inputs): the A of all layers, one below the other.
        b: (ranks, outputs): the B of each layer, transposed and scaled, on the diagonal.
        blocks: for each layer its ranks, its outputs, and its own part of `b`.
    """

    a: torch.Tensor
    b: torch.Tensor
    blocks: tuple[tuple[slice, slice, torch.Tensor], ...]

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add the update for inputs `x` (n, inputs) to `y` (n, outputs), in place."""
        down = nn.functional.linear(x, self.a)
        if len(self.blocks) == 1 or y.numel() <= _SMALL:
            y.addmm_(down, self.b)
            return
        for ranks, outputs, block in self.blocks:
            y[:, outputs].addmm_(down[:, ranks], block)


@dataclass(eq=False)
class Group:
    """Linear layers that read the same input.

    Attributes:
        name: the path of the first of them, which names the group in an adapter's factors.
        parts: path of each layer → the columns of the product that are its own.
    """

    name: str
    product: Product
    parts: Mapping[str, tuple[int, int]]
    inputs: int
    slots: Slots
    _input: torch.Tensor | None = None
    _outputs: dict[str, torch.Tensor] = field(default_factory=dict)

    def output(self, part: str, x: torch.Tensor) -> torch.Tensor:
        if x is not self._input or part not in self._outputs:
            y = self._compute(x)
            if len(self.parts) == 1:
                return y
            self._input = x
            widths = [last - first for first, last in self.parts.values()]
            self._outputs = dict(zip(self.parts, y.split(widths, -1), strict=True))
        found = self._outputs.pop(part)
        if not self._outputs:
            self._input = None  # handed out in full: do not keep a step's activations alive
        return found

    def _compute(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = self.product(flat)
        step = self.slots.step
        # The head's input is not the step's tokens but the few whose logits are wanted; no adapter touches the head.
        if step is not None and step.segments:
            for start, stop, adapter in step.segments:
                factors = adapter.factors.get(self.name)
                if factors is not None:
                    assert len(flat) == step.count, f"{self.name} does not see every token of the step"
                    factors.add(flat[start:stop], y[start:stop])
        return y.view(*x.shape[:-1], -1)


class Part(nn.Module):
    """Stands where a linear layer stood."""

    def __init__(self, group: Group, name: str) -> None:
        super().__init__()
        self.group, self.name = group, name

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Called as it stands: torch's way from here to `forward` looks for hooks, two hundred times a step."""
        return self.group.output(self.name, x)


class StoredEmbedding(nn.Module):
    """Word vectors kept as they were loaded (bf16), and handed out in the activations' precision."""

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        # A copy, or the whole mapped file stays in memory; no parameter, so that a conversion leaves it alone.
        self.table = weight.detach().clone()
        self._dtype = dtype

    @property
    def weight(self) -> torch.Tensor:
        return self.table

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(tokens, self.table).to(self._dtype)


def replace_linears(
    model: nn.Module, slots: Slots, product: Callable[[torch.Tensor, torch.Tensor | None], Product]
) -> dict[str, Group]:
    """Replace every linear layer of `model`, one by one, freeing the old weights as it goes.

    Returns:
        Path of each layer → its group.
    """
    groups: dict[str, Group] = {}
    for path, parent in list(model.named_modules()):
        linears = {name: child for name, child in parent.named_children() if type(child) is nn.Linear}
        prefix = f"{path}." if path else ""
        for names in _together(linears):
            members = [linears.pop(name) for name in names]
            group = _fuse([prefix + name for name in names], members, slots, product)
            for name in names:
                setattr(parent, name, Part(group, prefix + name))
                groups[prefix + name] = group
            del members
    return groups


def _together(linears: Mapping[str, nn.Linear]) -> list[tuple[str, ...]]:
    """Which of one module's layers to fuse; each of the others is alone."""
    found = [
        names
        for names in FUSED
        if all(name in linears for name in names)
        and len({(linears[name].in_features, linears[name].bias is None) for name in names}) == 1
    ]
    fused = {name for names in found for name in names}
    return found + [(name,) for name in linears if name not in fused]


def _fuse(
    paths: Sequence[str],
    members: Sequence[nn.Linear],
    slots: Slots,
    product: Callable[[torch.Tensor, torch.Tensor | None], Product],
) -> Group:
    weight = torch.cat([member.weight.detach() for member in members]) if len(members) > 1 else members[0].weight
    biases = [member.bias.detach() for member in members if member.bias is not None]
    parts: dict[str, tuple[int, int]] = {}
    first = 0
    for path, member in zip(paths, members, strict=True):
        parts[path] = (first, first + member.out_features)
        first += member.out_features
    made = product(weight.detach(), torch.cat(biases) if biases else None)
    return Group(paths[0], made, parts, members[0].in_features, slots)
