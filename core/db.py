"""Connections to the ledger.

Everything here also holds behind a pooler in transaction mode (Supabase's port 6543, PgBouncer): no prepared
statements, nothing that is set for longer than a transaction. Tables are named with their schema, so that no
search_path is needed; pgvector may lie in any schema and is looked up (`vector_schema`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from core.errors import SettingError, Unavailable

if TYPE_CHECKING:
    from core.settings import Settings

TRANSACTION_POOLER_PORT = 6543  # Supabase's
# A server that vanished without a word (a half-open connection) is noticed by the kernel within about ten seconds:
# a thread that waits for it is not lost. libpq's names; milliseconds for the last, seconds for the others.
NOTICE_DEAD_PEERS = {
    "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000
}  # fmt: skip
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def psycopg_url(url: str) -> str:
    """A DATABASE_URL as psycopg reads it: encrypted wherever the server is another machine.

    Raises:
        SettingError: it is no Postgres URL.
    """
    parts = urlsplit(url)
    if parts.scheme.split("+")[0] not in ("postgres", "postgresql"):
        raise SettingError(
            f"DATABASE_URL begins with '{parts.scheme}:'.", "Give a postgresql://user:password@host:port/database URL."
        )
    query = dict(parse_qsl(parts.query))
    if parts.hostname not in LOOPBACK | {None} and "sslmode" not in query:
        query["sslmode"] = "require"
    return urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query), ""))


def is_transaction_pooler(url: str) -> bool:
    return urlsplit(url).port == TRANSACTION_POOLER_PORT


def need_database(settings: "Settings") -> str:
    """Raises:
    SettingError: none is set.
    """
    if not settings.database_url:
        raise SettingError("There is no database.", "Start `npllm up`, or set DATABASE_URL.")
    return settings.database_url


@lru_cache(maxsize=8)
def get_engine(url: str, pool_size: int = 8) -> Engine:
    """One engine per process and URL.

    A small pool with `pool_pre_ping` also in front of a transaction pooler: with many short calls it was faster
    than opening a connection each time (docs/log.md).
    """
    return create_engine(
        psycopg_url(url).replace("postgresql://", "postgresql+psycopg://", 1),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        pool_recycle=300,
        hide_parameters=True,  # an error in a log must not quote what people wrote
        connect_args={
            "prepare_threshold": None,
            "connect_timeout": 5,
            "application_name": "npllm",
            **NOTICE_DEAD_PEERS,
        },
    )


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """One unit of work: committed at the end, rolled back on any error. Never held over a model call.

    Raises:
        Unavailable: the database does not answer.
    """
    try:
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session
    except OperationalError as error:
        if error.connection_invalidated or "connect" in str(error.orig).lower():
            raise Unavailable(
                "The database does not answer.", "Look at `npllm status`, or check DATABASE_URL with `npllm doctor`."
            ) from error
        raise


@lru_cache(maxsize=8)
def vector_schema(engine: Engine) -> str:
    """Where pgvector lives: `extensions` on Supabase and on the embedded Postgres, anywhere else elsewhere."""
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
                " WHERE e.extname = 'vector'"
            )
        ).scalar()
    if found is None:
        raise SettingError("This database has no pgvector.", "Run `npllm migrate`; it needs the extension 'vector'.")
    return str(found)
