"""Adapters are served as PEFT means them, many versions in one batch; what is not plain LoRA is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.artifacts import WEIGHTS, write_manifest
from core.errors import ArtifactError, ChangedBytes, NotFinite, UnsafeFile, WrongBase
from integrations.huggingface.adapters import check_fits
from integrations.huggingface.attention import Feed
from integrations.huggingface.embedded_base import BaseModel
from integrations.huggingface.serving_model import ServingModel

Adapters = Callable[..., tuple[Path, str]]
Logits = Callable[..., torch.Tensor]
ROWS = [[11, 22, 33, 44, 55], [66, 77], [88, 99, 110, 121, 132, 143, 154], [165, 176, 187], [198], [209] * 12]


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_batch_of_several_versions_and_the_base_equals_peft(
    architecture: str, bases: Callable[[str], BaseModel], adapters: Adapters, original: Logits
) -> None:
    base = bases(architecture)
    model = ServingModel(base, precision="fp32", device="cpu", rows=6, context=64)
    folders = [None, *(adapters(base, seed)[0] for seed in (1, 2, 3))]
    versions = [None if folder is None else model.read_adapter("v", folder) for folder in folders]
    chosen = [0, 2, 1, 2, 3, 1]
    found = model.forward([Feed(row, slot, 0, versions[chosen[slot]]) for slot, row in enumerate(ROWS)])
    for row, number, logits in zip(ROWS, chosen, found, strict=True):
        torch.testing.assert_close(logits, original(base, row, folders[number]), atol=1e-4, rtol=1e-4)
    # One token each: the other way through the products.
    found = model.forward([Feed([7], slot, len(row), versions[chosen[slot]]) for slot, row in enumerate(ROWS)])
    for row, number, logits in zip(ROWS, chosen, found, strict=True):
        torch.testing.assert_close(logits, original(base, [*row, 7], folders[number]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(original(base, ROWS[0]), original(base, ROWS[0], folders[1]), atol=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["down_proj"], "r": 8},
        {"use_rslora": True},
        {"layers_to_transform": [1]},
        {"r": 1, "lora_alpha": 3},
    ],
    ids=str,
)
def test_every_plain_form_of_lora_equals_peft(
    options: dict[str, Any], model: ServingModel, adapters: Adapters, original: Logits
) -> None:
    folder, _ = adapters(model.base, 4, **options)
    version = model.read_adapter("v", folder)
    rows = [ROWS[0], list(range(30)), ROWS[4]]
    found = model.forward([Feed(row, slot, 0, version) for slot, row in enumerate(rows)])
    for row, logits in zip(rows, found, strict=True):
        torch.testing.assert_close(logits, original(model.base, row, folder), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_what_fits_the_base_is_known_from_its_config_alone(
    architecture: str, bases: Callable[[str], BaseModel], adapters: Adapters, tmp_path: Path
) -> None:
    base = bases(architecture)
    (tmp_path / "config.json").write_bytes((base.path / "config.json").read_bytes())
    folder, _ = adapters(base, 1)
    check_fits(folder, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("layer_types", None)  # as many as there are layers
    for name, value, wrong in (
        ("num_hidden_layers", 1, r"holds base_model\.model\.model\.layers\.1\..*no such layer"),
        ("intermediate_size", 24, r"down_proj\.lora_A\.weight is \d+×\d+; with rank \d+ .* takes \d+×24\."),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, name: value}))
        with pytest.raises(ArtifactError, match=wrong) as error:
            check_fits(folder, tmp_path)
        assert "BASE_MODEL" in error.value.next_step
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "of its own"}))
    check_fits(folder, tmp_path)  # cannot be told here


def test_a_version_knows_its_hash_and_size(model: ServingModel, adapters: Adapters) -> None:
    folder, sha256 = adapters(model.base, 1)
    first, second = model.read_adapter("v", folder, sha256), model.read_adapter("v", folder)
    assert first.sha256 == second.sha256 == sha256
    assert first.number != second.number
    assert first.bytes > 0


def _copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to / "copy")
    return to / "copy"


def test_a_flipped_byte_is_refused(model: ServingModel, adapters: Adapters, tmp_path: Path) -> None:
    folder, sha256 = adapters(model.base, 1)
    copy = _copy(folder, tmp_path)
    data = bytearray((copy / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (copy / WEIGHTS).write_bytes(data)
    with pytest.raises(ChangedBytes):
        model.read_adapter("v", copy, sha256)


def test_a_resealed_folder_is_not_the_registered_one(model: ServingModel, adapters: Adapters, tmp_path: Path) -> None:
    _, sha256 = adapters(model.base, 1)
    other, _ = adapters(model.base, 2)
    with pytest.raises(ChangedBytes):
        model.read_adapter("v", other, sha256)


def test_a_pickle_beside_the_weights_is_refused(model: ServingModel, adapters: Adapters, tmp_path: Path) -> None:
    copy = _copy(adapters(model.base, 1)[0], tmp_path)
    (copy / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeFile):
        model.read_adapter("v", copy)


def test_another_base_is_refused(model: ServingModel, bases: Callable[[str], BaseModel], adapters: Adapters) -> None:
    folder, _ = adapters(bases("qwen2"), 1)
    with pytest.raises(WrongBase, match="tiny|sha256:qwen2"):
        model.read_adapter("v", folder)


def test_nan_is_refused(model: ServingModel, adapters: Adapters, tmp_path: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        next(iter(tensors.values()))[0, 0] = float("nan")

    with pytest.raises(NotFinite):
        model.read_adapter("v", _changed(model, adapters, tmp_path, spoil))


def _changed(
    model: ServingModel, adapters: Adapters, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None]
) -> Path:
    """A version with other weights, sealed again."""
    copy = _copy(adapters(model.base, 1)[0], tmp_path)
    tensors = load_file(copy / WEIGHTS)
    change(tensors)
    save_file(tensors, copy / WEIGHTS, metadata={"format": "pt"})
    write_manifest(copy, {"base": {"model": model.base.name, "revision": model.base.revision}})
    return copy


_LAYER = "base_model.model.model.layers.0.mlp.down_proj"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.update({f"{_LAYER}.lora_magnitude_vector": torch.ones(64)}), "no part of plain LoRA"),
        (lambda t: t.pop(f"{_LAYER}.lora_B.weight"), "do not belong together"),
        (lambda t: t.update({f"{_LAYER}.lora_A.weight": torch.ones(5, 128)}), "do not belong together"),
        (lambda t: t.update({f"{_LAYER}.lora_A.weight": torch.ones(4, 96)}), "this base has 64×128 there"),
        (
            lambda t: t.update(
                {
                    "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.ones(4, 64),
                    "base_model.model.model.layers.7.mlp.up_proj.lora_B.weight": torch.ones(128, 4),
                }
            ),
            "layers this base does not have",
        ),
    ],
    ids=["dora", "missing B", "ranks", "width", "layer 7"],
)
def test_weights_that_do_not_fit_are_refused(
    change: Callable[[dict[str, torch.Tensor]], None],
    reason: str,
    model: ServingModel,
    adapters: Adapters,
    tmp_path: Path,
) -> None:
    with pytest.raises(ArtifactError, match=reason):
        model.read_adapter("v", _changed(model, adapters, tmp_path, change))


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"alpha_pattern": {"q_proj": 32}}, {"fan_in_fan_out": True}])
def test_what_is_not_plain_lora_is_refused(
    changes: dict[str, Any], model: ServingModel, adapters: Adapters, edited: Callable[..., Path]
) -> None:
    with pytest.raises(ArtifactError, match=next(iter(changes))):
        model.read_adapter("v", edited(adapters(model.base, 1)[0], changes))
