"""Monthly partitions of `messages` and `events`: made ahead of time, each with row-level security.

On Supabase a table without row-level security may be readable over REST; a partition is a table of its own.
"""

import uuid
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from core.tables import SCHEMA

MONTHS_AHEAD = 3
PUBLIC_ROLES = ("anon", "authenticated")  # Supabase's; they must see nothing of ours


def ensure_partitions(connection: Connection, today: datetime | None = None) -> list[str]:
    """Make this month's partitions and the next three months'; returns the names of those it made."""
    month = (today or datetime.now(UTC)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    made = []
    for _ in range(MONTHS_AHEAD + 1):
        following = _next_month(month)
        bounds = {
            "messages": (f"'{first_id(month)}'", f"'{first_id(following)}'"),
            "events": (f"'{month.isoformat()}'", f"'{following.isoformat()}'"),
        }
        for table, (start, end) in bounds.items():
            name = f"{table}_{month:%Y_%m}"
            if connection.execute(text("SELECT to_regclass(:name)"), {"name": f"{SCHEMA}.{name}"}).scalar() is None:
                parent = f"{SCHEMA}.{table} FOR VALUES FROM ({start}) TO ({end})"
                connection.execute(text(f"CREATE TABLE {SCHEMA}.{name} PARTITION OF {parent}"))
                protect(connection, name)
                made.append(name)
        month = following
    return made


def protect(connection: Connection, table: str) -> None:
    """Row-level security without a policy, and no rights for the roles that the internet may take."""
    connection.execute(text(f"ALTER TABLE {SCHEMA}.{table} ENABLE ROW LEVEL SECURITY"))
    for role in PUBLIC_ROLES:
        if connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}).scalar():
            connection.execute(text(f"REVOKE ALL ON {SCHEMA}.{table} FROM {role}"))


def unprotected(connection: Connection) -> list[str]:
    """Tables and partitions of ours without row-level security; the doctor and a test want none."""
    rows = connection.execute(
        text(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = :schema AND c.relkind IN ('r', 'p') AND NOT c.relrowsecurity ORDER BY 1"
        ),
        {"schema": SCHEMA},
    )
    return [row[0] for row in rows]


def first_id(at: datetime) -> uuid.UUID:
    """The smallest UUIDv7 of an instant: its milliseconds, then zeros."""
    return uuid.UUID(int=int(at.timestamp() * 1000) << 80)


def _next_month(month: datetime) -> datetime:
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
