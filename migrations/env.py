"""Alembic's entry: `npllm migrate` hands it a connection; `alembic check` compares tables and migrations."""

import re
from typing import Any

from alembic import context
from pgvector.sqlalchemy import Vector
from sqlalchemy import Connection, text

from core.tables import SCHEMA, Base

PARTITION = re.compile(r"^(messages|events)_(\d{4}_\d{2}|default)$")


def ours(item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Leave out what is made at run time: partitions, their foreign keys, one vector index per embedding model."""
    if kind == "table":
        return not (PARTITION.match(name or "") or name == "alembic_version")
    if kind == "foreign_key_constraint":
        return not any(PARTITION.search(element.target_fullname.split(".")[-2]) for element in item.elements)
    return not (kind == "index" and (name or "").startswith("hnsw_knowledge_embeddings_"))


def run(connection: Connection) -> None:
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    connection.commit()
    schema = connection.execute(text("SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'vector'"))
    connection.dialect.ischema_names[f"{schema.scalar()}.vector"] = Vector  # type: ignore[attr-defined]
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_schemas=True,
        include_name=lambda name, kind, parents: kind != "schema" or name == SCHEMA,
        include_object=ours,
        version_table_schema=SCHEMA,
        compare_type=True,
        compare_server_default=False,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    raise SystemExit("Run migrations with: npllm migrate")
