"""Bring the database to the newest migration, and make the coming months' partitions."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from core.db import get_engine, is_transaction_pooler
from core.errors import SettingError
from core.partitions import ensure_partitions
from core.tables import SCHEMA

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"
_LOCK = 0x6E706C6C6D  # "npllm": two starters do not migrate at once


def migrate(url: str) -> None:
    """Run what is missing, under a lock.

    Raises:
        SettingError: the URL is a pooler in transaction mode, which forgets what a migration sets.
    """
    if is_transaction_pooler(url):
        raise SettingError(
            "Migrations need a direct connection, and port 6543 is a pooler in transaction mode.",
            "Set MIGRATIONS_DATABASE_URL to the direct address or the session pooler (port 5432).",
        )
    with get_engine(url).connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        try:
            command.upgrade(alembic_config(connection), "head")
            ensure_partitions(connection)
            connection.commit()
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
            connection.commit()


def is_current(connection: Connection) -> bool:
    context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
    return set(context.get_current_heads()) == set(ScriptDirectory(str(MIGRATIONS)).get_heads())


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config
