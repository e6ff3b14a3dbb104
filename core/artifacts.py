"""An adapter on disk: its files, its manifest, and the checks before anything loads it.

A version is a folder:

    adapter_model.safetensors   LoRA weights, as served
    adapter_config.json         PEFT's configuration, base model name and revision included
    importance.safetensors      how much each weight matters to what was learned so far, for the next night
    fast.safetensors            the weights that the next night's training continues from, where they are not the served
    manifest.json               where it comes from and the SHA-256 of every other file

The version's own hash is the SHA-256 of its manifest's bytes: the registry keeps it, so whoever holds the
registry's row can tell a changed byte anywhere in the folder. PEFT falls back to `torch.load` where only a
`.bin` lies in a folder; here any file type that can run code is refused before PEFT sees the folder.
"""

import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import ArtifactError, ChangedBytes, NotFinite, UnsafeFile, WrongBase

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
IMPORTANCE = "importance.safetensors"
FAST = "fast.safetensors"
MANIFEST = "manifest.json"

# What a version's folder may hold. README.md is the model card.
ALLOWED_FILES = frozenset({WEIGHTS, CONFIG, IMPORTANCE, FAST, MANIFEST, "README.md"})
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
# Linear layers an adapter may touch. An embedding or a head among them would change what the base itself says.
ALLOWED_TARGETS = frozenset(
    {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),  # Llama, Mistral, Qwen, Gemma
        *("qkv_proj", "gate_up_proj", "fc1", "fc2", "dense"),  # Phi
        *("query_key_value", "dense_h_to_4h", "dense_4h_to_h"),  # GPT-NeoX, Falcon
    }
)
MAX_RANK = 256
_FORMAT = 1
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}  # bytes of a value, by safetensors' name of its type


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, facts: dict[str, Any]) -> str:
    """Seal `folder`: hash its files into `manifest.json` beside `facts`, and return the version's hash.

    Args:
        facts: at least `base` ({"model", "revision"}); the night adds parent, seed, example hashes and scores.
    """
    files = {
        path.name: {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    manifest = {"format": _FORMAT, **facts, "files": files}
    data = (json.dumps(manifest, ensure_ascii=False, indent=2, sort_keys=True) + "\n").encode()
    (folder / MANIFEST).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`, unchecked.

    Raises:
        ArtifactError: there is none, or it is not a manifest of this format.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        names = [manifest["base"]["model"], manifest["base"]["revision"], *manifest["files"]]
        files = manifest["files"].values()
        if manifest["format"] != _FORMAT or not all(isinstance(name, str) for name in names):
            raise ValueError("unknown format")
        if not all(isinstance(file, dict) for file in files):
            raise ValueError("unknown format")
    except FileNotFoundError:
        raise ArtifactError(
            f"{folder} holds no {MANIFEST}.", "Name the folder of a whole adapter version, as a night publishes it."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ArtifactError(
            f"{folder / MANIFEST} cannot be read as a manifest of format {_FORMAT}.",
            "Fetch the version again from where it was published.",
        ) from None
    return manifest


def verify(folder: Path, *, sha256: str | None = None, base_revision: str | None = None) -> dict[str, Any]:
    """Check a version's folder before anything loads it, and return its manifest.

    Args:
        sha256: the version's hash in the registry; None where there is no registry row yet (an import).
        base_revision: the revision of the base this host serves; None skips the comparison.

    Raises:
        UnsafeFile, ChangedBytes, WrongBase, NotFinite, ArtifactError: see `core/errors.py`.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder.", "Name the folder of an adapter version.")
    _refuse_unsafe(folder)
    manifest = read_manifest(folder)
    _check_hashes(folder, manifest, sha256)
    found = manifest["base"].get("revision")
    if base_revision is not None and found != base_revision:
        raise WrongBase(
            f"{folder.name} was trained on base revision {found}, this host serves {base_revision}.",
            "Set BASE_MODEL to the base it belongs to, or train a version for this base: npllm sleep rebuild.",
        )
    _check_config(folder)
    for name in (WEIGHTS, IMPORTANCE, FAST):
        if (folder / name).exists():
            check_finite(folder / name)
    return manifest


def _refuse_unsafe(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise UnsafeFile(
                f"{path} is a pickle: loading it can run code.", "Publish the weights as safetensors and delete it."
            )
        if path.name not in ALLOWED_FILES or path.is_symlink() or not path.is_file():
            raise UnsafeFile(f"{path} does not belong in an adapter version.", "Remove it, or fetch the version again.")


def _check_hashes(folder: Path, manifest: dict[str, Any], sha256: str | None) -> None:
    again = "Fetch the version again from where it was published; if that copy fails too, retire it."
    if sha256 is not None and file_sha256(folder / MANIFEST) != sha256:
        raise ChangedBytes(f"{folder / MANIFEST} is not the one that was registered.", again)
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    listed = set(manifest["files"])
    if present != listed:
        raise ChangedBytes(f"{folder.name} holds {sorted(present)}, its manifest lists {sorted(listed)}.", again)
    for name, facts in manifest["files"].items():
        if file_sha256(folder / name) != facts.get("sha256"):
            raise ChangedBytes(f"{folder / name} has changed since it was published.", again)
    if not {WEIGHTS, CONFIG} <= listed:
        raise ArtifactError(f"{folder.name} lacks {WEIGHTS} or {CONFIG}.", again)


def _check_config(folder: Path) -> None:
    """Allow-list what PEFT will be told to build: plain LoRA on linear layers, nothing else."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        targets = config["target_modules"]
        rank = int(config["r"])
        unknown = {str(target) for target in (targets if isinstance(targets, list) else [targets])} - ALLOWED_TARGETS
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(f"{folder / CONFIG} is not a LoRA configuration.", "Publish it again.") from None
    if config.get("peft_type") != "LORA" or unknown or not targets or not 0 < rank <= MAX_RANK:
        raise ArtifactError(
            f"{folder / CONFIG} asks for {config.get('peft_type')} of rank {rank} on {sorted(unknown) or targets}.",
            f"Only LoRA up to rank {MAX_RANK} on {', '.join(sorted(ALLOWED_TARGETS))} is served.",
        )
    for forbidden in (
        "modules_to_save",
        "auto_mapping",
        "trainable_token_indices",
        "target_parameters",
        "rank_pattern",
    ):
        if config.get(forbidden):
            raise ArtifactError(f"{folder / CONFIG} sets {forbidden}.", "Train it as plain LoRA.")


def check_finite(path: Path) -> None:
    """Refuse a safetensors file with NaN or infinity in it, without torch and without copying it whole.

    Raises:
        NotFinite: a tensor holds NaN or infinity; the message names it.
        ArtifactError: the file is no safetensors file, or holds another type than floats of 16 or 32 bits.
    """
    for name, dtype, data in _float_tensors(path):
        # In each of the three formats a value is NaN or infinite where all bits of its exponent are set.
        bits = np.frombuffer(data, dtype=f"<u{_WIDTHS[dtype]}")
        mask = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}[dtype]
        if np.any((bits & mask) == mask):
            raise NotFinite(
                f"{path.name}: {name} holds NaN or infinity.", "Train the version again; see the run's log."
            )


def _float_tensors(path: Path) -> Iterable[tuple[str, str, bytes]]:
    """The tensors of a safetensors file: name, type, raw bytes (format: huggingface.co/docs/safetensors)."""
    broken = ArtifactError(f"{path} is not a readable safetensors file.", "Fetch the version again.")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8 or (length := struct.unpack("<Q", head)[0]) > size - 8:
            raise broken
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            start = 8 + length
            for name, entry in tensors.items():
                if entry["dtype"] not in _WIDTHS:
                    raise ArtifactError(f"{path.name}: {name} is of type {entry['dtype']}.", "Publish floats.")
                begin, end = entry["data_offsets"]
                if not 0 <= begin <= end <= size - start or (end - begin) % _WIDTHS[entry["dtype"]]:
                    raise broken
                file.seek(start + begin)
                yield name, entry["dtype"], file.read(end - begin)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise broken from None
