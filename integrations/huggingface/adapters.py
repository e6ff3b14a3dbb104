"""One adapter version, read from its folder into the form in which it is served.

PEFT trains adapters and writes them; serving reads the same files without PEFT, whose mixed batches run one product for
each version and layer. `core.artifacts.verify` must have passed before anything here sees the folder. What the files
mean is PEFT's: `W + scale · B A`, scale = alpha / r, or alpha / √r with rank-stabilised LoRA (Kalajdzievski 2023).
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from core.artifacts import CONFIG, WEIGHTS
from core.errors import ArtifactError
from integrations.huggingface.linears import Factors, Group

_PREFIX = "base_model.model."
_numbers = itertools.count(1)


@dataclass(frozen=True, eq=False)
class ServedAdapter:
    """A version in memory. A row holds on to it until it is answered, whatever is unloaded meanwhile.

    Args:
        name: what requests call it.
        sha256: of its manifest.
        factors: group name → the version's update of that group.
        number: differs for every load in this process, so that nothing kept for one is taken for another.
    """

    name: str
    sha256: str
    folder: Path
    factors: Mapping[str, Factors]
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def bytes(self) -> int:
        return sum(part.a.nbytes + part.b.nbytes for part in self.factors.values())


def read_adapter(
    name: str, folder: Path, sha256: str, groups: Mapping[str, Group], dtype: torch.dtype, device: torch.device
) -> ServedAdapter:
    """Read a verified folder.

    Args:
        groups: the served model's linear layers, by path.
        dtype: of the activations.

    Raises:
        ArtifactError: it asks for more than plain LoRA, or does not fit this model.
    """
    scale = _scale(json.loads((folder / CONFIG).read_bytes()), folder)
    layers = _layers(load_file(folder / WEIGHTS), folder)
    factors = {}
    for group in {group.name: group for group in groups.values()}.values():
        pairs = {path: layers.pop(path) for path in group.parts if path in layers}
        if pairs:
            factors[group.name] = _factors(group, pairs, scale, folder, dtype, device)
    if layers or not factors:
        raise ArtifactError(
            f"{folder.name} changes layers this base does not have: {', '.join(sorted(layers)[:3]) or 'none'}.",
            "It was trained on another architecture; set BASE_MODEL to the base it belongs to.",
        )
    return ServedAdapter(name, sha256, folder, factors)


def check_fits(folder: Path, base: Path) -> None:
    """Compare a verified folder's tensors with the layers that the base's config.json describes; no weight is read.

    Raises:
        ArtifactError: names the first tensor that does not fit, and what this base has there.
    """
    try:
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    except (OSError, ValueError, KeyError, StrictDataclassError):
        return  # a model with code of its own, which is not run here: its server will tell
    layers = {
        path: (layer.out_features, layer.in_features)
        for path, layer in skeleton.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    rank = int(json.loads((folder / CONFIG).read_bytes())["r"])
    another = "It was trained on another base; set BASE_MODEL to the one it belongs to."
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        for key in sorted(file.keys()):
            path, _, kind = key.removeprefix(_PREFIX).rpartition(".lora_")
            if path not in layers or kind not in ("A.weight", "B.weight"):
                raise ArtifactError(f"{folder / WEIGHTS} holds {key}: this base has no such layer.", another)
            outputs, inputs = layers[path]
            fits = [rank, inputs] if kind == "A.weight" else [outputs, rank]
            if (found := file.get_slice(key).get_shape()) != fits:
                raise ArtifactError(
                    f"{folder / WEIGHTS}: {key} is {_size(found)}; with rank {rank} this base takes {_size(fits)}.",
                    another,
                )


def _size(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _scale(config: Mapping[str, object], folder: Path) -> float:
    """The factor before B A."""
    for unsupported in ("use_dora", "alpha_pattern", "fan_in_fan_out", "lora_bias", "layer_replication"):
        if config.get(unsupported):
            raise ArtifactError(f"{folder / CONFIG} sets {unsupported}.", "Train it as plain LoRA.")
    rank = int(config["r"])  # type: ignore[call-overload]
    alpha = float(config.get("lora_alpha", 8))  # type: ignore[arg-type]
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _layers(tensors: Mapping[str, torch.Tensor], folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Path of each layer → its A (rank, inputs) and B (outputs, rank)."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        path, _, kind = key.removeprefix(_PREFIX).rpartition(".lora_")
        if kind not in ("A.weight", "B.weight") or not key.startswith(_PREFIX):
            raise ArtifactError(f"{folder / WEIGHTS} holds {key}, which is no part of plain LoRA.", "Train it again.")
        found.setdefault(path, {})[kind[0]] = tensor.float()
    layers = {}
    for path, pair in found.items():
        if set(pair) != {"A", "B"} or pair["A"].ndim != 2 or pair["A"].shape[:1] != pair["B"].shape[1:]:
            raise ArtifactError(f"{folder / WEIGHTS}: A and B of {path} do not belong together.", "Publish it again.")
        layers[path] = (pair["A"], pair["B"])
    return layers


def _factors(
    group: Group,
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    scale: float,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
) -> Factors:
    ranks = sum(len(a) for a, _ in pairs.values())
    stacked = torch.empty(ranks, group.inputs)
    diagonal = torch.zeros(ranks, group.product.outputs)
    spans = []
    rank = 0
    for path, (a, b) in pairs.items():
        first, last = group.parts[path]
        if a.shape[1] != group.inputs or len(b) != last - first:
            raise ArtifactError(
                f"{folder.name}: {path} is {len(b)}×{a.shape[1]}, this base has {last - first}×{group.inputs} there.",
                "It was trained on another base; set BASE_MODEL to the one it belongs to.",
            )
        stacked[rank : rank + len(a)] = a
        diagonal[rank : rank + len(a), first:last] = scale * b.T
        spans.append((slice(rank, rank + len(a)), slice(first, last)))
        rank += len(a)
    b = diagonal.to(device, dtype)
    return Factors(stacked.to(device, dtype), b, tuple((*span, b[span]) for span in spans))
