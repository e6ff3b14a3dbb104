"""The passages' vectors in Postgres: stored beside their model's name, and the nearest of one context found.

pgvector may lie in any schema, so each of its names is written with it.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.db import vector_schema

# Up to here all vectors of the context are compared: exact, and quicker than an index that has to be searched past
# other contexts' rows (docs/log.md).
EXACT_ROWS = 5_000
# Above, HNSW: how many neighbours it keeps in view, and how many rows it may look at for a context among many.
EF_SEARCH = 200
MAX_SCAN = 40_000


def store(session: Session, id: UUID, model: str, vector: Sequence[float], updated_at: datetime) -> None:
    """Store a passage's vector, unless the passage has changed since its text was read (`updated_at` then)."""
    session.execute(
        text(
            "INSERT INTO npllm.knowledge_embeddings (knowledge_id, model, context, embedding)"
            f" SELECT k.id, :model, k.context, CAST(:vector AS {schema(session)}.vector) FROM npllm.knowledge k"
            " WHERE k.id = :id AND k.active AND k.updated_at = :updated_at"
            " ON CONFLICT (knowledge_id, model) DO UPDATE SET embedding = excluded.embedding"
        ),
        {"id": id, "model": model, "vector": literal(vector), "updated_at": updated_at},
    )


def drop(session: Session, id: UUID) -> None:
    """Drop a passage's vectors."""
    session.execute(text("DELETE FROM npllm.knowledge_embeddings WHERE knowledge_id = :id"), {"id": id})


def drop_other_models(session: Session, model: str) -> None:
    session.execute(text("DELETE FROM npllm.knowledge_embeddings WHERE model <> :model"), {"model": model})


def build_index(session: Session, model: str) -> None:
    """An HNSW index over the model's vectors, once a context is too large to compare them all; else nothing.

    HNSW wants a fixed dimension, so each model has a partial index of its own (pgvector's README, on mixed
    dimensions). Building it holds back writes to the table, not reads: about a minute for 100,000 vectors.
    """
    named = schema(session)
    largest = session.execute(
        text(
            f"SELECT count(*), max({named}.vector_dims(embedding)) FROM npllm.knowledge_embeddings"
            " WHERE model = :model GROUP BY context ORDER BY 1 DESC LIMIT 1"
        ),
        {"model": model},
    ).one_or_none()
    if largest is None or largest[0] <= EXACT_ROWS:
        return
    # Below what the graph needs (2 KB a vector here), building takes many times as long; for this transaction only.
    session.execute(text("SELECT set_config('maintenance_work_mem', '512MB', true)"))
    # A partial index's condition takes no parameter: the model's name stands in it as a quoted literal.
    quoted = session.execute(text("SELECT quote_literal(:model)"), {"model": model}).scalar_one()
    name = f"hnsw_knowledge_embeddings_{hashlib.sha256(model.encode()).hexdigest()[:12]}"
    session.connection().exec_driver_sql(
        f"CREATE INDEX IF NOT EXISTS {name} ON npllm.knowledge_embeddings USING hnsw"
        f" ((embedding::{named}.vector({int(largest[1])})) {named}.vector_cosine_ops) WHERE model = {quoted}"
    )


def nearest(
    session: Session, *, context: str, vector: Sequence[float], model: str, limit: int, rows: int
) -> list[UUID]:
    """The passages of a context whose vectors are nearest, best first: always as many as there are, up to `limit`.

    A plain HNSW scan takes the nearest of all contexts and filters afterwards, so that a small context gets nothing.

    Args:
        rows: how many passages the context has.
    """
    if rows > EXACT_ROWS:
        found = _by_index(session, context, vector, model, limit)
        if len(found) >= limit:
            return found
        # Fewer than asked for: the scan gave up, or many have no vector yet. Only comparing them all can tell.
    return _exactly(session, context, vector, model, limit)


def _exactly(session: Session, context: str, vector: Sequence[float], model: str, limit: int) -> list[UUID]:
    named = schema(session)
    # OFFSET 0 keeps the planner from using HNSW's order, without copying the vectors as a materialised CTE would.
    found = session.execute(
        text(
            "SELECT knowledge_id FROM (SELECT knowledge_id,"
            f" embedding OPERATOR({named}.<=>) CAST(:vector AS {named}.vector) AS distance"
            " FROM npllm.knowledge_embeddings WHERE context = :context AND model = :model OFFSET 0) AS mine"
            " ORDER BY distance LIMIT :limit"
        ),
        {"vector": literal(vector), "context": context, "model": model, "limit": limit},
    )
    return list(found.scalars())


def _by_index(session: Session, context: str, vector: Sequence[float], model: str, limit: int) -> list[UUID]:
    named, dimension = schema(session), len(vector)
    # For this transaction only: a pooler in transaction mode hands the connection to others after it. The settings'
    # names are known once pgvector is loaded into the connection; before, Postgres takes them on trust.
    session.execute(
        text(
            "SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true),"
            " set_config('hnsw.ef_search', :ef_search, true), set_config('hnsw.max_scan_tuples', :max_scan, true)"
        ),
        {"ef_search": str(EF_SEARCH), "max_scan": str(MAX_SCAN)},
    )
    # "Relaxed" means nearly in order: sorted again outside.
    found = session.execute(
        text(
            "WITH near AS MATERIALIZED (SELECT knowledge_id,"
            f" CAST(embedding AS {named}.vector({dimension})) OPERATOR({named}.<=>)"
            f" CAST(:vector AS {named}.vector({dimension})) AS distance"
            " FROM npllm.knowledge_embeddings WHERE context = :context AND model = :model"
            " ORDER BY distance LIMIT :limit) SELECT knowledge_id FROM near ORDER BY distance"
        ),
        {"vector": literal(vector), "context": context, "model": model, "limit": limit},
    )
    return list(found.scalars())


def schema(session: Session) -> str:
    """The schema that pgvector lies in, quoted."""
    return f'"{vector_schema(session.get_bind().engine)}"'


def literal(vector: Sequence[float]) -> str:
    """A vector as pgvector reads it."""
    return "[" + ",".join(map(repr, map(float, vector))) + "]"
