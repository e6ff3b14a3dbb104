"""Adapter files in a private Storage bucket. https://supabase.com/docs/reference/python/storage-from-upload

The path holds the version's SHA-256, so a file is never overwritten: "already exists" is success once its bytes are
proved equal. What comes back is checked by `core.artifacts.verify` before anything loads it, as from any source.
"""

import shutil
from pathlib import Path
from typing import Any

from storage3.exceptions import StorageApiError
from supabase import create_client

from core.artifacts import ALLOWED_FILES, MANIFEST, read_manifest
from core.errors import ArtifactError, Unavailable
from core.registry import copy_whole


class BucketStore:
    """An `ArtifactStore` in a bucket, with a local cache.

    Args:
        key: the secret key (sb_secret_...): it bypasses row-level security and never leaves the backend.
        cache: a folder of the data directory.
    """

    def __init__(self, *, url: str, key: str, bucket: str, cache: Path) -> None:
        self.client = create_client(url, key)
        self.bucket = bucket
        self.cache = cache

    def put(self, folder: Path, *, context: str, sha256: str) -> str:
        """Upload a sealed folder, its manifest last: a version is there when its manifest is."""
        self._make_bucket()
        names = [name for name in read_manifest(folder)["files"]] + [MANIFEST]
        for name in names:
            self._upload(f"{context}/{sha256}/{name}", (folder / name).read_bytes())
        return f"bucket:{context}/{sha256}"

    def fetch(self, location: str, sha256: str) -> Path:
        """Download a version once; later calls find it in the cache."""
        path = location.removeprefix("bucket:")
        target = self.cache / path
        if target.is_dir():
            return target
        beside = target.with_name(f".{target.name}.part")
        beside.mkdir(parents=True, exist_ok=True)
        (beside / MANIFEST).write_bytes(self._download(f"{path}/{MANIFEST}"))
        for name in read_manifest(beside)["files"]:
            if name not in ALLOWED_FILES:
                raise ArtifactError(f"The manifest of {location} lists {name}.", "Retire this version.")
            (beside / name).write_bytes(self._download(f"{path}/{name}"))
        copy_whole(beside, target)
        return target

    def remove(self, location: str) -> None:
        """Delete a version's files in the bucket and in the cache."""
        path = location.removeprefix("bucket:")
        try:
            self.client.storage.from_(self.bucket).remove([f"{path}/{name}" for name in sorted(ALLOWED_FILES)])
        except StorageApiError as error:
            raise self._trouble(error) from error
        shutil.rmtree(self.cache / path, ignore_errors=True)

    def _make_bucket(self) -> None:
        try:
            self.client.storage.create_bucket(self.bucket, options={"public": False})
        except StorageApiError as error:
            if not _says_exists(error):
                raise self._trouble(error) from error

    def _upload(self, path: str, data: bytes) -> None:
        options: Any = {"content-type": "application/octet-stream", "upsert": "false"}
        try:
            self.client.storage.from_(self.bucket).upload(path, data, options)
        except StorageApiError as error:
            if not _says_exists(error):
                raise self._trouble(error) from error
            if self._download(path) != data:
                raise ArtifactError(
                    f"{self.bucket}/{path} holds other bytes.", "Delete it there, then try again."
                ) from error

    def _download(self, path: str) -> bytes:
        try:
            return bytes(self.client.storage.from_(self.bucket).download(path))
        except StorageApiError as error:
            raise self._trouble(error) from error

    def _trouble(self, error: StorageApiError) -> Unavailable:
        return Unavailable(
            f"Supabase Storage refused: {error.message}", "Check SUPABASE_URL, SUPABASE_SECRET_KEY and the bucket."
        )


def _says_exists(error: StorageApiError) -> bool:
    return str(error.status) == "409" or "already exists" in str(error.message).lower() or error.code == "Duplicate"
