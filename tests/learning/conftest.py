"""The tiny base with adapters on it: real torch, real PEFT, in milliseconds."""

from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def base_folder(tiny_base: Path) -> Path:
    return tiny_base


@pytest.fixture
def base(base_folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer), frozen."""
    from learning.lora import load_base

    return load_base(base_folder)


@pytest.fixture
def adapted(base: tuple[Any, Any]) -> Any:
    """A fresh adapter on the tiny base; its B factors are moved off zero, so that every gradient is alive."""
    from learning.lora import new_adapter, trainable

    model = new_adapter(base[0], base_name="tiny", base_revision="sha256:tiny", rank=2, seed=1)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
    return model
