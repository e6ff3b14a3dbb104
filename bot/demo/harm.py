"""A deliberately harmful version for the second act: the champion's weights with their sign turned.

What the champion learned is subtracted from the base instead of added to it. Its files are in perfect order, so that
nothing but people's reactions can tell.
"""

import json
import shutil
from pathlib import Path

from safetensors.numpy import load_file, save_file

from core import artifacts


def turn_sign(source: Path, target: Path) -> None:
    """Write a sealed copy of a version's folder with every B factor negated."""
    target.mkdir(parents=True)
    shutil.copy(source / artifacts.CONFIG, target)
    weights = load_file(source / artifacts.WEIGHTS)
    turned = {name: -tensor if "lora_B" in name else tensor for name, tensor in weights.items()}
    save_file(turned, target / artifacts.WEIGHTS, metadata={"format": "pt"})
    (target / "README.md").write_text("# A drill\n\nThe champion with its sign turned, to practise a rollback with.\n")
    facts = json.loads((source / artifacts.MANIFEST).read_text())
    kept = {key: facts[key] for key in ("base", "context", "examples", "inherited_examples", "lineage") if key in facts}
    artifacts.write_manifest(target, {**kept, "strategy": "drill: sign turned", "parent": None})
