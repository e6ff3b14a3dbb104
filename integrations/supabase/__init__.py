"""Supabase: a private Storage bucket for adapter files. The database is reached as any Postgres."""

from core.registry import ArtifactStore, FolderStore
from core.settings import Settings


def artifact_store(settings: Settings) -> ArtifactStore:
    """Where this deployment keeps adapter files: the bucket if Supabase is set up, else a folder of the data
    directory."""
    folder = settings.data_dir / "adapters"
    if not settings.supabase_url or not settings.supabase_secret_key:
        return FolderStore(folder)
    from integrations.supabase.storage import BucketStore  # a second of imports, which only Supabase needs

    key = settings.supabase_secret_key.get_secret_value()
    return BucketStore(url=settings.supabase_url, key=key, bucket=settings.supabase_bucket, cache=folder)
