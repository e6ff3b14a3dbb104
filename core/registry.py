"""Which versions there are, who is champion, and where their files lie.

The registry's rows are written by the night (and by `adapters import`); the champion changes only through a
rollout or an operator, by compare-and-set.
"""

import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from core import artifacts, events
from core.errors import ArtifactError, ChangedBytes, Conflict, NotFound
from core.tables import AdapterVersion, Context

ERASED = "erased"  # the location of a version whose files are gone for good


class ArtifactStore(Protocol):
    """Where adapter files are kept. `location` is what the registry's row holds."""

    def put(self, folder: Path, *, context: str, sha256: str) -> str:
        """Keep a copy of a sealed folder; the same hash twice is success."""

    def fetch(self, location: str, sha256: str) -> Path:
        """A local folder with the version's files."""

    def remove(self, location: str) -> None:
        """Delete a version's files; those of one that is not there are deleted already."""


@dataclass(frozen=True)
class FolderStore:
    """Artifacts in one folder of the data directory: ROOT/CONTEXT/SHA256/."""

    root: Path

    def put(self, folder: Path, *, context: str, sha256: str) -> str:
        target = self.root / context / sha256
        copy_whole(folder, target)
        return f"folder:{context}/{sha256}"

    def fetch(self, location: str, sha256: str) -> Path:
        folder = self.root / location.removeprefix("folder:")
        if not folder.is_dir():
            raise ArtifactError(f"The files of {location} are gone from {self.root}.", "Restore them from a backup.")
        return folder

    def remove(self, location: str) -> None:
        shutil.rmtree(self.root / location.removeprefix("folder:"), ignore_errors=True)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a folder so that it is never there half: written beside, then renamed."""
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as beside:
        shutil.copytree(source, Path(beside) / "new")
        try:
            (Path(beside) / "new").rename(target)
        except OSError:
            if not target.is_dir():  # another process was first: same hash, same bytes
                raise


def by_name(session: Session, name: str) -> AdapterVersion:
    """A version by its name (`customers-v3`) or id.

    Raises:
        NotFound: there is none.
    """
    found = session.scalar(select(AdapterVersion).where(AdapterVersion.name == name))
    if found is None:
        try:
            found = session.get(AdapterVersion, uuid.UUID(name))
        except ValueError:
            pass
    if found is None:
        raise NotFound(f"There is no version '{name}'.", "npllm adapters list shows them all.")
    return found


def all_versions(session: Session, context: str | None = None) -> list[AdapterVersion]:
    """Every version, by context and number."""
    query = select(AdapterVersion).order_by(AdapterVersion.context, AdapterVersion.number)
    return list(session.scalars(query.where(AdapterVersion.context == context) if context else query))


def champion(session: Session, context: str) -> AdapterVersion | None:
    """The version that serves a context; None means the frozen base."""
    return session.scalar(
        select(AdapterVersion).join(Context, Context.champion_id == AdapterVersion.id).where(Context.name == context)
    )


def get_context(session: Session, name: str) -> Context:
    found = session.get(Context, name)
    if found is None:
        raise NotFound(f"There is no context '{name}'.", "npllm contexts list names them.")
    return found


def crown(session: Session, context: str, version: uuid.UUID | None, *, expected: uuid.UUID | None) -> None:
    """Make `version` the champion (None: the frozen base), if it still is `expected`.

    Raises:
        Conflict: somebody else changed it meanwhile.
    """
    changed = session.execute(
        update(Context)
        .where(Context.name == context, Context.champion_id.is_not_distinct_from(expected))
        .values(champion_id=version)
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined]
        raise Conflict(
            f"The champion of '{context}' changed meanwhile.", "Look at `npllm rollout status` and try again."
        )


def register(
    session: Session,
    *,
    context: str,
    source: str,
    location: str,
    sha256: str,
    manifest: dict[str, Any],
    parent_id: uuid.UUID | None = None,
    run_id: uuid.UUID | None = None,
    state: str = "registered",
    reasons: list[str] | None = None,
) -> AdapterVersion:
    """Give a sealed artifact its number and name. The context's row is locked: numbers have no gap and no double."""
    session.execute(select(Context.name).where(Context.name == context).with_for_update())
    number = 1 + (session.scalar(select(func.max(AdapterVersion.number)).where(AdapterVersion.context == context)) or 0)
    name = f"{context}-v{number}"
    version = AdapterVersion(
        context=context,
        number=number,
        name=name,
        source=source,
        location=location,
        sha256=sha256,
        manifest=manifest,
        base_model=manifest["base"]["model"],
        base_revision=manifest["base"]["revision"],
        parent_id=parent_id,
        run_id=run_id,
        state=state,
        reasons=reasons or [],
    )
    session.add(version)
    session.flush()
    events.record(
        session, "version.registered", context=context, version=name, state=state, source=source, sha256=sha256
    )
    return version


def fetch_verified(store: ArtifactStore, version: AdapterVersion, *, base_revision: str | None) -> Path:
    """A version's files, proved to be the registered ones: the only way to get a folder to load.

    Raises:
        ArtifactError: see `core.artifacts.verify`.
    """
    if version.state != "registered":
        raise Conflict(f"{version.name} is {version.state} and is not served.", "npllm adapters show says why.")
    folder = store.fetch(version.location, version.sha256)
    if not (folder / artifacts.MANIFEST).exists():
        raise ChangedBytes(f"{folder} has lost its manifest.", "Restore the version's files from a backup.")
    artifacts.verify(folder, sha256=version.sha256, base_revision=base_revision)
    return folder
