"""Adapter files in a private bucket: kept once, fetched whole, proved before they are loaded."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import serving
from supabase_server import FakeStorage

from core import artifacts
from core.errors import ArtifactError, ChangedBytes, Unavailable
from core.registry import FolderStore
from core.settings import Settings
from integrations.supabase import artifact_store
from integrations.supabase.storage import BucketStore

BUCKET = "npllm-adapters"
KEY = "sb_secret_for_tests"


@pytest.fixture
def storage() -> Iterator[tuple[FakeStorage, str]]:
    fake = FakeStorage()
    with serving(fake.app) as url:
        yield fake, url


@pytest.fixture
def store(storage: tuple[FakeStorage, str], tmp_path: Path) -> BucketStore:
    return BucketStore(url=storage[1], key=KEY, bucket=BUCKET, cache=tmp_path / "cache")


@pytest.fixture
def version(tmp_path: Path) -> tuple[Path, str]:
    """A sealed folder (its weights are no weights: storage does not look into them)."""
    folder = tmp_path / "version"
    folder.mkdir()
    (folder / artifacts.WEIGHTS).write_bytes(bytes(range(256)) * 40)
    (folder / artifacts.CONFIG).write_text("{}")
    return folder, artifacts.write_manifest(folder, {"base": {"model": "tiny", "revision": "r"}})


def test_a_version_goes_there_and_back(
    storage: tuple[FakeStorage, str], store: BucketStore, version: tuple[Path, str]
) -> None:
    folder, sha256 = version
    location = store.put(folder, context="customers", sha256=sha256)
    assert location == f"bucket:customers/{sha256}"
    back = store.fetch(location, sha256)
    assert {path.name for path in back.iterdir()} == {path.name for path in folder.iterdir()}
    assert artifacts.file_sha256(back / artifacts.MANIFEST) == sha256
    fake = storage[0]
    assert fake.buckets == {BUCKET: False}  # private
    assert {kind for _, kind in fake.objects.values()} == {"application/octet-stream"}
    assert fake.keys == {KEY}


def test_the_same_hash_twice_is_success_without_a_second_copy(
    storage: tuple[FakeStorage, str], store: BucketStore, version: tuple[Path, str]
) -> None:
    folder, sha256 = version
    store.put(folder, context="customers", sha256=sha256)
    uploads = storage[0].uploads
    store.put(folder, context="customers", sha256=sha256)
    assert storage[0].uploads == uploads


def test_other_bytes_under_the_same_path_are_refused(
    storage: tuple[FakeStorage, str], store: BucketStore, version: tuple[Path, str]
) -> None:
    folder, sha256 = version
    store.put(folder, context="customers", sha256=sha256)
    key = f"{BUCKET}/customers/{sha256}/{artifacts.WEIGHTS}"
    storage[0].objects[key] = (b"other", "application/octet-stream")
    with pytest.raises(ArtifactError, match="other bytes"):
        store.put(folder, context="customers", sha256=sha256)


def test_a_byte_changed_in_the_bucket_is_found_before_loading(
    storage: tuple[FakeStorage, str], store: BucketStore, version: tuple[Path, str]
) -> None:
    folder, sha256 = version
    location = store.put(folder, context="customers", sha256=sha256)
    storage[0].broken.add(f"{BUCKET}/customers/{sha256}/{artifacts.WEIGHTS}")
    with pytest.raises(ChangedBytes):
        artifacts.verify(store.fetch(location, sha256), sha256=sha256)


def test_a_download_that_breaks_off_leaves_nothing_behind(
    storage: tuple[FakeStorage, str], store: BucketStore, version: tuple[Path, str]
) -> None:
    folder, sha256 = version
    location = store.put(folder, context="customers", sha256=sha256)
    kept = storage[0].objects.pop(f"{BUCKET}/customers/{sha256}/{artifacts.WEIGHTS}")
    with pytest.raises(Unavailable, match="SUPABASE_SECRET_KEY"):
        store.fetch(location, sha256)
    storage[0].objects[f"{BUCKET}/customers/{sha256}/{artifacts.WEIGHTS}"] = kept
    assert (store.fetch(location, sha256) / artifacts.WEIGHTS).stat().st_size == 10_240


def test_it_is_fetched_once(storage: tuple[FakeStorage, str], store: BucketStore, version: tuple[Path, str]) -> None:
    folder, sha256 = version
    location = store.put(folder, context="customers", sha256=sha256)
    first = store.fetch(location, sha256)
    storage[0].objects.clear()
    assert store.fetch(location, sha256) == first


def test_a_manifest_that_lists_a_strange_file_is_refused(
    storage: tuple[FakeStorage, str], store: BucketStore, version: tuple[Path, str]
) -> None:
    folder, sha256 = version
    (folder / "run_me.py").write_text("print('no')")
    sha256 = artifacts.write_manifest(folder, {"base": {"model": "tiny", "revision": "r"}})
    location = store.put(folder, context="customers", sha256=sha256)
    with pytest.raises(ArtifactError, match="run_me"):
        store.fetch(location, sha256)


def test_where_files_are_kept_follows_the_settings(storage: tuple[FakeStorage, str], tmp_path: Path) -> None:
    assert isinstance(artifact_store(Settings(data_dir=tmp_path)), FolderStore)
    assert isinstance(
        artifact_store(Settings(data_dir=tmp_path, supabase_url=storage[1])), FolderStore
    )  # a key is missing
    both = Settings(data_dir=tmp_path, supabase_url=storage[1], supabase_secret_key=KEY)
    assert isinstance(artifact_store(both), BucketStore)


def test_the_legacy_key_is_read_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="SUPABASE_SECRET_KEY"):
        legacy = Settings(data_dir=tmp_path, supabase_service_role_key="eyJ")
    assert legacy.supabase_secret_key is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Settings(data_dir=tmp_path, supabase_secret_key=KEY)
