"""Finding the passages of a context (`core/knowledge.py`) that answer a question.

Search takes two lists and adds their scores. Letters (`core/lexical.py`) find the words of the question; vectors find
other words for the same thing. For every passage that either of them proposes both scores are known, so nothing
depends on ranks: mixing ranks lets a poor list pull a good one down. The weight and the floors were chosen on held-out
questions; `npllm bench retrieval` measures them on others (docs/log.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from core import vectors
from core.letters import index_of

CANDIDATES = 50  # passages that each of the two lists proposes

# Score = cosine + LETTERS_WEIGHT x letters squared; without vectors, the second part alone. Squared, because a few
# shared letters say nothing and many decide. Chosen together with the floors, on held-out questions.
LETTERS_WEIGHT = 8.0
# What a passage in the question's own language is preferred by.
SAME_LANGUAGE = 0.2
# Below these scores a passage has nothing to do with the question: with vectors, and without.
FLOOR = 0.40
FLOOR_LETTERS = LETTERS_WEIGHT * 0.14**2


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Attributes:
        score: what hits are ordered by; above the floor everywhere.
        lexical: how much of the question's letters stand in it, 0 to 1.
        cosine: of the question's vector and its own; None without vectors.
    """

    id: UUID
    title: str
    text: str
    language: str
    score: float
    lexical: float
    cosine: float | None


def search(
    session: Session,
    *,
    context: str,
    question: str,
    query_vector: Sequence[float] | None,
    model: str | None,
    limit: int,
    language: str | None = None,
    floor: float | None = None,
) -> list[Hit]:
    """The passages of a context that answer a question, best first; none where nothing fits.

    Args:
        query_vector: the question's; None searches by letters alone (the embedder does not answer).
        model: whose vector it is: only vectors of this model are compared with it.
        limit: the most hits.
        language: of the question, where it is known: a passage in it goes before its translation, and one in another
            language is still found where it fits better.
        floor: hits below this score are left out; None takes the project's, 0 leaves none out.
    """
    if limit <= 0:
        return []
    index = index_of(session, context)
    lexical = index.search(question, CANDIDATES)
    near: list[UUID] = []
    if query_vector is not None and model is not None:
        near = vectors.nearest(
            session, context=context, vector=query_vector, model=model, limit=CANDIDATES, rows=len(index)
        )
    proposed = list(dict.fromkeys([*lexical, *near]))
    if not proposed:
        return []
    missing = [key for key in near if key not in lexical]
    lexical |= dict(zip(missing, index.scores_of(question, missing), strict=True))
    rows = _candidates(session, context, proposed, query_vector if model is not None else None, model)
    hits = []
    for id, title, passage, spoken, cosine in rows:
        score = (cosine or 0.0) + LETTERS_WEIGHT * lexical[id] ** 2
        least = floor if floor is not None else (FLOOR_LETTERS if cosine is None else FLOOR)
        if score >= least:
            hits.append(Hit(id, title, passage, spoken, score, lexical[id], cosine))
    return sorted(hits, key=lambda hit: (-hit.score - SAME_LANGUAGE * (hit.language == language), hit.id))[:limit]


def _candidates(
    session: Session, context: str, ids: list[UUID], vector: Sequence[float] | None, model: str | None
) -> Sequence[tuple[UUID, str, str, str, float | None]]:
    """What is shown and scored of the proposed passages; the context and whether they still stand are checked here."""
    if vector is None:
        rows = session.execute(
            text(
                "SELECT id, title, text, language, NULL FROM npllm.knowledge"
                " WHERE id = ANY(:ids) AND context = :context AND active"
            ),
            {"ids": ids, "context": context},
        )
    else:
        schema = vectors.schema(session)
        rows = session.execute(
            text(
                "SELECT k.id, k.title, k.text, k.language,"
                f" 1 - (e.embedding OPERATOR({schema}.<=>) CAST(:vector AS {schema}.vector))"
                " FROM npllm.knowledge k LEFT JOIN npllm.knowledge_embeddings e"
                " ON e.knowledge_id = k.id AND e.model = :model"
                " WHERE k.id = ANY(:ids) AND k.context = :context AND k.active"
            ),
            {"ids": ids, "context": context, "vector": vectors.literal(vector), "model": model},
        )
    return [tuple(row) for row in rows]
