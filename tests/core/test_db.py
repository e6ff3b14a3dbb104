"""The ledger's tables as Supabase would see them, and the connection's habits."""

import psycopg
import pytest
from alembic import command
from sqlalchemy import Engine, text

from core.db import psycopg_url, transaction, vector_schema
from core.errors import SettingError, Unavailable
from core.migrate import alembic_config, is_current, migrate
from core.partitions import ensure_partitions, unprotected
from core.tables import SCHEMA, new_id
from integrations.postgres.embedded import EmbeddedPostgres


def test_tables_and_migrations_do_not_drift(engine: Engine) -> None:
    with engine.connect() as connection:
        command.check(alembic_config(connection))
        assert is_current(connection)


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    migrate(database_url)


def test_every_table_and_partition_has_row_level_security(engine: Engine) -> None:
    with engine.begin() as connection:
        ensure_partitions(connection)
        assert unprotected(connection) == []


class TestAsOnSupabase:
    """Roles `anon` and `authenticated`, schema `extensions`, as Supabase has them before we arrive."""

    @pytest.fixture
    def supabase_url(self, postgres: EmbeddedPostgres) -> str:
        base = postgres.url.rsplit("/", 1)[0]
        name = f"supa_{new_id().hex[:12]}"
        with psycopg.connect(f"{base}/postgres", autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}")
            for role in ("anon", "authenticated"):
                admin.execute(
                    f"DO $$ BEGIN CREATE ROLE {role} LOGIN PASSWORD 'public';"
                    " EXCEPTION WHEN duplicate_object THEN END $$"
                )
        with psycopg.connect(f"{base}/{name}", autocommit=True) as admin:
            admin.execute("CREATE SCHEMA extensions")
            admin.execute("GRANT USAGE ON SCHEMA public TO anon")
        migrate(f"{base}/{name}")
        return f"{base}/{name}"

    def test_the_public_role_sees_nothing(self, supabase_url: str) -> None:
        with psycopg.connect(supabase_url, autocommit=True) as admin:
            # Even where somebody exposes the schema by mistake, row-level security shows no row.
            admin.execute(f"INSERT INTO {SCHEMA}.contexts (name) VALUES ('secret')")
            admin.execute(f"GRANT USAGE ON SCHEMA {SCHEMA} TO anon")
        public = supabase_url.replace("npllm_owner:for-tests", "anon:public")
        with psycopg.connect(public, autocommit=True) as anon:
            for table in ("contexts", "messages", "events", "alembic_version"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    anon.execute(f"SELECT * FROM {SCHEMA}.{table}")
        with psycopg.connect(supabase_url, autocommit=True) as admin:
            admin.execute(f"GRANT SELECT ON {SCHEMA}.contexts TO anon")
        with psycopg.connect(public, autocommit=True) as anon:
            assert anon.execute(f"SELECT count(*) FROM {SCHEMA}.contexts").fetchone() == (0,)

    def test_pgvector_goes_where_supabase_puts_it(self, supabase_url: str) -> None:
        from core.db import get_engine

        assert vector_schema(get_engine(supabase_url)) == "extensions"
        get_engine(supabase_url).dispose()

    def test_pgvector_is_taken_where_it_lies(self, postgres: EmbeddedPostgres) -> None:
        from core.db import get_engine

        base, name = postgres.url.rsplit("/", 1)[0], f"elsewhere_{new_id().hex[:12]}"
        with psycopg.connect(f"{base}/postgres", autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}")
        with psycopg.connect(f"{base}/{name}", autocommit=True) as admin:
            admin.execute("CREATE SCHEMA somewhere")
            admin.execute("CREATE EXTENSION vector WITH SCHEMA somewhere")
        migrate(f"{base}/{name}")
        assert vector_schema(get_engine(f"{base}/{name}")) == "somewhere"
        get_engine(f"{base}/{name}").dispose()


def test_migrations_refuse_a_pooler_in_transaction_mode() -> None:
    with pytest.raises(SettingError, match="MIGRATIONS_DATABASE_URL"):
        migrate("postgresql://user:secret@pooler.example.com:6543/postgres")


def test_other_machines_are_reached_encrypted() -> None:
    assert "sslmode=require" in psycopg_url("postgresql://u:p@db.example.com:5432/postgres")
    assert "sslmode" not in psycopg_url("postgresql://u:p@127.0.0.1:5432/postgres")
    assert "sslmode=verify-full" in psycopg_url("postgres://u:p@db.example.com/x?sslmode=verify-full")


def test_a_url_that_is_none_names_the_next_step() -> None:
    with pytest.raises(SettingError, match="postgresql://"):
        psycopg_url("mysql://u:p@host/db")


def test_a_database_that_is_away_is_unavailable() -> None:
    from core.db import get_engine

    with pytest.raises(Unavailable), transaction(get_engine("postgresql://u:p@127.0.0.1:1/none")) as session:
        session.execute(text("SELECT 1"))


def test_rows_of_a_month_without_partition_are_kept(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(f"INSERT INTO {SCHEMA}.events (type, at) VALUES ('interaction.received', '2031-05-05T00:00:00Z')")
        )
        where = connection.execute(text(f"SELECT tableoid::regclass::text FROM {SCHEMA}.events")).scalar()
    assert where == f"{SCHEMA}.events_default"


def test_new_rows_go_to_their_months_partition(engine: Engine) -> None:
    from datetime import UTC, datetime

    month = datetime.now(UTC)
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO {SCHEMA}.events (type) VALUES ('interaction.received')"))
        where = connection.execute(text(f"SELECT tableoid::regclass::text FROM {SCHEMA}.events")).scalar()
    assert where == f"{SCHEMA}.events_{month:%Y_%m}"
