"""Versions: numbered without gaps, crowned by compare-and-set, fetched only with proof."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from factories import BASE, make_adapter, make_version
from sqlalchemy import Engine, select

from core import artifacts, events, registry
from core.db import transaction
from core.errors import ArtifactError, ChangedBytes, Conflict, NotFound, UnsafeFile, WrongBase
from core.registry import FolderStore
from core.tables import AdapterVersion

MANIFEST = {"base": BASE, "files": {}, "format": 1}


def test_numbers_have_no_gap_and_no_double_under_concurrency(engine: Engine) -> None:
    """Eight at once, one in three of them failing after it had its number."""
    barrier = threading.Barrier(8)

    def register(i: int) -> None:
        barrier.wait()
        for turn in range(3):
            try:
                with transaction(engine) as session:
                    registry.register(
                        session, context="customers", source="night", location="x", sha256=f"{i}-{turn}",
                        manifest=MANIFEST,
                    )  # fmt: skip
                    if turn == 1:
                        raise RuntimeError("the night fails after all")
            except RuntimeError:
                pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(register, range(8)))
    with transaction(engine) as session:
        versions = registry.all_versions(session, "customers")
        assert [version.number for version in versions] == list(range(1, 17))
        assert [version.name for version in versions] == [f"customers-v{n}" for n in range(1, 17)]
        announced = [e["data"]["version"] for e in events.listing(session) if e["type"] == "version.registered"]
        assert sorted(announced) == sorted(version.name for version in versions)


def test_contexts_count_on_their_own(engine: Engine) -> None:
    with transaction(engine) as session:
        assert make_version(session).name == "customers-v1"
        assert make_version(session, context="employees").name == "employees-v1"
        assert make_version(session).name == "customers-v2"


def test_finding_a_version(engine: Engine) -> None:
    with transaction(engine) as session:
        version = make_version(session)
        assert registry.by_name(session, "customers-v1") is version
        assert registry.by_name(session, str(version.id)) is version
        for name in ("customers-v2", str(uuid.uuid4()), "", "'; DROP TABLE"):
            with pytest.raises(NotFound, match="There is no version"):
                registry.by_name(session, name)
        with pytest.raises(NotFound):
            registry.get_context(session, "suppliers")


def test_of_two_who_crown_at_once_one_wins(engine: Engine) -> None:
    with transaction(engine) as session:
        first, second = make_version(session).id, make_version(session).id
    barrier = threading.Barrier(2)
    outcomes: list[uuid.UUID | None] = []

    def crown(version: uuid.UUID) -> None:
        barrier.wait()
        try:
            with transaction(engine) as session:
                registry.crown(session, "customers", version, expected=None)
            outcomes.append(version)
        except Conflict:
            outcomes.append(None)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(crown, (first, second)))
    with transaction(engine) as session:
        champion = registry.champion(session, "customers")
        assert outcomes.count(None) == 1
        assert champion is not None
        assert champion.id in outcomes


def test_back_to_the_base_needs_the_right_expectation(engine: Engine) -> None:
    with transaction(engine) as session:
        version = make_version(session, champion=True)
    with pytest.raises(Conflict), transaction(engine) as session:
        registry.crown(session, "customers", None, expected=None)
    with transaction(engine) as session:
        registry.crown(session, "customers", None, expected=version.id)
        assert registry.champion(session, "customers") is None


class TestFolderStore:
    @pytest.fixture
    def store(self, tmp_path: Path) -> FolderStore:
        return FolderStore(tmp_path / "store")

    def test_the_same_hash_twice_is_one_copy(self, tmp_path: Path, store: FolderStore) -> None:
        sha256 = make_adapter(tmp_path / "v")
        first = store.put(tmp_path / "v", context="customers", sha256=sha256)
        assert store.put(tmp_path / "v", context="customers", sha256=sha256) == first
        assert store.fetch(first, sha256) == tmp_path / "store" / "customers" / sha256
        assert [path.name for path in (tmp_path / "store" / "customers").iterdir()] == [sha256]

    def test_many_put_the_same_at_once(self, tmp_path: Path, store: FolderStore) -> None:
        sha256 = make_adapter(tmp_path / "v")
        with ThreadPoolExecutor(8) as pool:
            locations = set(pool.map(lambda _: store.put(tmp_path / "v", context="c", sha256=sha256), range(8)))
        assert len(locations) == 1
        artifacts.verify(store.fetch(locations.pop(), sha256), sha256=sha256)

    def test_a_copy_that_fails_leaves_nothing_behind(
        self, tmp_path: Path, store: FolderStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sha256 = make_adapter(tmp_path / "v")

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as broken:
            broken.setattr("shutil.copytree", full)
            with pytest.raises(OSError, match="No space left"):
                store.put(tmp_path / "v", context="customers", sha256=sha256)
        assert list((tmp_path / "store" / "customers").iterdir()) == []
        store.put(tmp_path / "v", context="customers", sha256=sha256)

    def test_files_that_are_gone(self, store: FolderStore) -> None:
        with pytest.raises(ArtifactError, match=r"gone.*backup"):
            store.fetch("folder:customers/abc", "abc")


class TestFetchVerified:
    """The only way to get a folder to load."""

    @pytest.fixture
    def version(self, engine: Engine, tmp_path: Path) -> AdapterVersion:
        with transaction(engine) as session:
            return make_version(session, store=FolderStore(tmp_path / "store"), folder=tmp_path / "made")

    def folder(self, tmp_path: Path, version: AdapterVersion) -> Path:
        return tmp_path / "store" / version.location.removeprefix("folder:")

    def test_proved(self, tmp_path: Path, version: AdapterVersion) -> None:
        store = FolderStore(tmp_path / "store")
        assert registry.fetch_verified(store, version, base_revision=BASE["revision"]).is_dir()

    def test_changed_on_disk(self, tmp_path: Path, version: AdapterVersion) -> None:
        weights = self.folder(tmp_path, version) / artifacts.WEIGHTS
        weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
        with pytest.raises(ChangedBytes):
            registry.fetch_verified(FolderStore(tmp_path / "store"), version, base_revision=None)

    def test_resealed_on_disk(self, tmp_path: Path, version: AdapterVersion) -> None:
        folder = self.folder(tmp_path, version)
        make_adapter(folder, seed=99)
        with pytest.raises(ChangedBytes, match="not the one that was registered"):
            registry.fetch_verified(FolderStore(tmp_path / "store"), version, base_revision=None)

    def test_planted_on_disk(self, tmp_path: Path, version: AdapterVersion) -> None:
        (self.folder(tmp_path, version) / "adapter_model.bin").write_bytes(b"\x80\x04.")
        with pytest.raises(UnsafeFile):
            registry.fetch_verified(FolderStore(tmp_path / "store"), version, base_revision=None)

    def test_without_its_manifest(self, tmp_path: Path, version: AdapterVersion) -> None:
        (self.folder(tmp_path, version) / artifacts.MANIFEST).unlink()
        with pytest.raises(ChangedBytes, match="lost its manifest"):
            registry.fetch_verified(FolderStore(tmp_path / "store"), version, base_revision=None)

    def test_for_another_base(self, tmp_path: Path, version: AdapterVersion) -> None:
        with pytest.raises(WrongBase):
            registry.fetch_verified(FolderStore(tmp_path / "store"), version, base_revision="sha256:other")

    @pytest.mark.parametrize("state", ["refused", "quarantined", "retired"])
    def test_not_to_be_served(self, engine: Engine, tmp_path: Path, version: AdapterVersion, state: str) -> None:
        with transaction(engine) as session:
            found = session.scalars(select(AdapterVersion)).one()
            found.state = state
        with pytest.raises(Conflict, match=f"is {state} and is not served"):
            registry.fetch_verified(FolderStore(tmp_path / "store"), found, base_revision=None)
