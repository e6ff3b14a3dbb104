"""From weights in memory to a sealed folder: whole or not at all, finite, with its manifest and its card."""

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from core import artifacts
from learning.ema import Factors, save_fast
from learning.importance import Importance
from learning.lora import save_adapter


def seal(
    model: PeftModel,
    folder: Path,
    *,
    importance: Importance | None = None,
    fast: Factors | None = None,
    facts: dict[str, Any],
    card: str,
    dtype: torch.dtype = torch.float32,
) -> str:
    """Write a version's folder, whole or not at all; returns its hash."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    save_adapter(model, part, dtype=dtype)
    if importance is not None:
        importance.save(part / artifacts.IMPORTANCE)
    if fast is not None:
        save_fast(fast, part / artifacts.FAST)
    (part / "README.md").write_text(card)
    for name in (artifacts.WEIGHTS, artifacts.IMPORTANCE, artifacts.FAST):
        if (part / name).exists():
            artifacts.check_finite(part / name)  # NaN is refused before it gets a name
    sha256 = artifacts.write_manifest(part, facts)
    part.rename(folder)
    return sha256
