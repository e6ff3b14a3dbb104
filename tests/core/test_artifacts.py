"""An adapter's folder: whatever was changed, swapped, planted or broken is refused before anything loads it."""

import contextlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import BASE, make_adapter, write_safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import artifacts
from core.errors import ArtifactError, ChangedBytes, NotFinite, UnsafeFile, WrongBase

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "version"
    make_adapter(made)
    return made


def resealed(folder: Path) -> str:
    """What a forger who can write everything but the registry does."""
    return artifacts.write_manifest(folder, {"base": BASE})


class TestWhole:
    def test_a_sealed_folder_is_fine(self, tmp_path: Path) -> None:
        sha256 = make_adapter(tmp_path / "v")
        manifest = artifacts.verify(tmp_path / "v", sha256=sha256, base_revision=BASE["revision"])
        assert manifest["base"] == BASE
        assert set(manifest["files"]) == {artifacts.WEIGHTS, artifacts.CONFIG}

    def test_the_hash_is_of_the_content(self, tmp_path: Path) -> None:
        first, again, other = (
            make_adapter(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
        )
        assert first == again != other

    def test_importance_and_a_model_card_may_lie_beside(self, folder: Path) -> None:
        (folder / "README.md").write_text("# A version")
        write_safetensors(folder / artifacts.IMPORTANCE, {"w": ("F16", np.ones(3, "<f2").tobytes())})
        artifacts.verify(folder, sha256=resealed(folder))


class TestChanged:
    @pytest.mark.parametrize("name", [artifacts.WEIGHTS, artifacts.CONFIG, artifacts.MANIFEST])
    @pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
    def test_one_flipped_bit(self, tmp_path: Path, name: str, where: float) -> None:
        sha256 = make_adapter(tmp_path / "v")
        path = tmp_path / "v" / name
        data = bytearray(path.read_bytes())
        data[int(where * (len(data) - 1))] ^= 1
        path.write_bytes(data)
        with pytest.raises(ArtifactError):
            artifacts.verify(tmp_path / "v", sha256=sha256)

    def test_a_flipped_bit_of_the_weights_is_named(self, folder: Path) -> None:
        data = bytearray((folder / artifacts.WEIGHTS).read_bytes())
        data[-1] ^= 1
        (folder / artifacts.WEIGHTS).write_bytes(data)
        with pytest.raises(ChangedBytes, match="adapter_model.safetensors has changed"):
            artifacts.verify(folder)

    def test_weights_swapped_with_another_versions(self, tmp_path: Path, folder: Path) -> None:
        make_adapter(tmp_path / "other", seed=2)
        shutil.copy(tmp_path / "other" / artifacts.WEIGHTS, folder / artifacts.WEIGHTS)
        with pytest.raises(ChangedBytes):
            artifacts.verify(folder)

    def test_a_whole_folder_swapped_with_another_versions(self, tmp_path: Path) -> None:
        sha256 = make_adapter(tmp_path / "mine")
        make_adapter(tmp_path / "theirs", seed=2)
        with pytest.raises(ChangedBytes, match="not the one that was registered"):
            artifacts.verify(tmp_path / "theirs", sha256=sha256)

    def test_truncated(self, folder: Path) -> None:
        data = (folder / artifacts.WEIGHTS).read_bytes()
        (folder / artifacts.WEIGHTS).write_bytes(data[: len(data) // 2])
        with pytest.raises(ChangedBytes):
            artifacts.verify(folder)

    def test_a_file_is_missing(self, folder: Path) -> None:
        (folder / artifacts.WEIGHTS).unlink()
        with pytest.raises(ChangedBytes, match="its manifest lists"):
            artifacts.verify(folder)

    def test_an_extra_file_of_an_allowed_name(self, folder: Path) -> None:
        (folder / "README.md").write_text("planted")
        with pytest.raises(ChangedBytes):
            artifacts.verify(folder)

    def test_a_configuration_retargeted_after_the_seal(self, folder: Path) -> None:
        config = json.loads((folder / artifacts.CONFIG).read_text())
        (folder / artifacts.CONFIG).write_text(json.dumps({**config, "target_modules": ["k_proj"]}))
        with pytest.raises(ChangedBytes):
            artifacts.verify(folder)


class TestUnsafe:
    @pytest.mark.parametrize("suffix", sorted(artifacts.PICKLE_SUFFIXES))
    def test_a_pickle_is_refused_even_when_sealed(self, folder: Path, suffix: str) -> None:
        (folder / f"adapter_model{suffix}").write_bytes(b"\x80\x04.")
        with pytest.raises(UnsafeFile, match="can run code"):
            artifacts.verify(folder, sha256=resealed(folder))

    @pytest.mark.parametrize("name", ["modeling_llama.py", "tokenizer.json", "ADAPTER_MODEL.BIN", ".hidden", "x.so"])
    def test_anything_else_is_refused_even_when_sealed(self, folder: Path, name: str) -> None:
        (folder / name).write_text("import os")
        with pytest.raises(UnsafeFile):
            artifacts.verify(folder, sha256=resealed(folder))

    def test_a_link_out_of_the_folder(self, tmp_path: Path, folder: Path) -> None:
        shutil.move(folder / artifacts.WEIGHTS, tmp_path / "elsewhere")
        (folder / artifacts.WEIGHTS).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UnsafeFile):
            artifacts.verify(folder, sha256=resealed(folder))

    def test_a_folder_inside(self, folder: Path) -> None:
        (folder / "README.md").mkdir()
        with pytest.raises(UnsafeFile):
            artifacts.verify(folder)

    @pytest.mark.parametrize(
        "change",
        [
            {"target_modules": ["embed_tokens"]},
            {"target_modules": ["q_proj", "lm_head"]},
            {"target_modules": "all-linear"},
            {"target_modules": [["q_proj"]]},
            {"target_modules": [None]},
            {"target_modules": {"q_proj": 1, "lm_head": 1}},
            {"target_modules": []},
            {"peft_type": "IA3"},
            {"peft_type": None},
            {"r": 0},
            {"r": 100_000},
            {"r": "many"},
            {"r": None},
            {"modules_to_save": ["lm_head"]},
            {"auto_mapping": {"base_model_class": "X", "parent_library": "os"}},
            {"trainable_token_indices": [1]},
            {"target_parameters": ["x"]},
            {"rank_pattern": {"q_proj": 5000}},
        ],
    )
    def test_a_sealed_configuration_that_asks_for_more_than_lora_on_linear_layers(
        self, folder: Path, change: dict[str, Any]
    ) -> None:
        config = json.loads((folder / artifacts.CONFIG).read_text())
        (folder / artifacts.CONFIG).write_text(json.dumps({**config, **change}))
        with pytest.raises(ArtifactError):
            artifacts.verify(folder, sha256=resealed(folder))

    @pytest.mark.parametrize("text", ["", "[]", "null", "5", "{", '{"r": 4}', "\udcff"])
    def test_a_configuration_that_is_none(self, folder: Path, text: str) -> None:
        (folder / artifacts.CONFIG).write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(ArtifactError):
            artifacts.verify(folder, sha256=resealed(folder))


class TestBase:
    def test_another_base(self, folder: Path) -> None:
        with pytest.raises(WrongBase, match="this host serves sha256:ffff"):
            artifacts.verify(folder, base_revision="sha256:ffff")

    @pytest.mark.parametrize(
        "manifest",
        [
            b"",
            b"[]",
            b"{}",
            b"\xff\xfe",
            b'{"format": 99, "base": {}, "files": {}}',
            b'{"format": 1, "files": {}}',
            b'{"format": 1, "base": {"model": "m", "revision": "r"}, "files": []}',
            b'{"format": 1, "base": {"model": "m", "revision": "r"}, "files": {"adapter_config.json": "x"}}',
            b"[" * 100_000,
        ],
    )
    def test_a_manifest_that_is_none(self, folder: Path, manifest: bytes) -> None:
        (folder / artifacts.MANIFEST).write_bytes(manifest)
        with pytest.raises(ArtifactError):
            artifacts.verify(folder)

    @pytest.mark.parametrize("base", ["smol", None, [], {}, {"model": "m"}, {"model": "m", "revision": 5}])
    def test_a_manifest_that_does_not_name_its_base(self, folder: Path, base: Any) -> None:
        artifacts.write_manifest(folder, {"base": base})
        with pytest.raises(ArtifactError, match="cannot be read as a manifest"):
            artifacts.verify(folder)

    def test_no_manifest_and_no_folder(self, tmp_path: Path, folder: Path) -> None:
        (folder / artifacts.MANIFEST).unlink()
        with pytest.raises(ArtifactError, match="holds no manifest"):
            artifacts.verify(folder)
        with pytest.raises(ArtifactError, match="not a folder"):
            artifacts.verify(tmp_path / "nowhere")


def f32(value: float) -> bytes:
    return np.array([0.5, value], "<f4").tobytes()


def f16(value: float) -> bytes:
    return np.array([0.5, value], "<f2").tobytes()


def bf16(value: float) -> bytes:
    """The upper half of a float of 32 bits."""
    return b"".join(struct.pack("<f", v)[2:] for v in (0.5, value))


class TestFinite:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize(("dtype", "raw"), [("F32", f32), ("F16", f16), ("BF16", bf16)])
    @pytest.mark.parametrize("name", [artifacts.WEIGHTS, artifacts.IMPORTANCE])
    def test_nan_and_infinity_are_refused(
        self, folder: Path, dtype: str, raw: Callable[[float], bytes], value: float, name: str
    ) -> None:
        write_safetensors(folder / name, {"fine": (dtype, raw(1.0)), "broken": (dtype, raw(value))})
        with pytest.raises(NotFinite, match="broken"):
            artifacts.verify(folder, sha256=resealed(folder))

    @pytest.mark.parametrize(
        ("dtype", "raw", "largest"), [("F32", f32, 3.4e38), ("F16", f16, 65504), ("BF16", bf16, 3e38)]
    )
    def test_the_largest_numbers_are_fine(
        self, folder: Path, dtype: str, raw: Callable[[float], bytes], largest: float
    ) -> None:
        write_safetensors(folder / artifacts.WEIGHTS, {"w": (dtype, raw(largest) + raw(-largest) + raw(0.0))})
        artifacts.verify(folder, sha256=resealed(folder))

    def test_other_types_than_floats(self, folder: Path) -> None:
        write_safetensors(folder / artifacts.WEIGHTS, {"w": ("I64", bytes(8))})
        with pytest.raises(ArtifactError, match="I64"):
            artifacts.verify(folder, sha256=resealed(folder))

    @pytest.mark.parametrize(
        "header",
        [
            {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}},
            {"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
            {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 7]}},
            {"w": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
            {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0]}},
            {"w": {"dtype": "F32", "shape": [2], "data_offsets": ["0", "8"]}},
            {"w": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}},
            {"w": {"shape": [2]}},
            {"w": 5},
            {"w": None},
            [],
            5,
            None,
        ],
    )  # fmt: skip
    def test_a_header_that_lies(self, folder: Path, header: Any) -> None:
        raw = json.dumps(header).encode()
        (folder / artifacts.WEIGHTS).write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(8))
        with pytest.raises(ArtifactError):
            artifacts.verify(folder, sha256=resealed(folder))

    @pytest.mark.parametrize("data", [b"", b"\x00" * 7, struct.pack("<Q", 2**62), struct.pack("<Q", 4) + b"{}"])
    def test_a_file_that_is_none(self, folder: Path, data: bytes) -> None:
        (folder / artifacts.WEIGHTS).write_bytes(data)
        with pytest.raises(ArtifactError):
            artifacts.verify(folder, sha256=resealed(folder))

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    @given(data=st.data())
    def test_whatever_is_broken_is_an_expected_error(self, folder: Path, data: st.DataObject) -> None:
        """Bytes changed at random in a sealed file: it is served, or refused in words; never a crash."""
        make_adapter(folder)
        path = folder / data.draw(st.sampled_from([artifacts.WEIGHTS, artifacts.CONFIG, artifacts.MANIFEST]))
        raw = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(raw[: data.draw(st.integers(1, len(raw)))])
        with contextlib.suppress(ArtifactError):
            artifacts.verify(folder, sha256=resealed(folder) if path.name != artifacts.MANIFEST else None)
