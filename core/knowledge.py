"""What answers may be taken from: passages of a context, put in and kept up to date; `core/search.py` finds them again.

Whoever changes passages does it through this module: a change takes a lock per context and stamps its rows with the
clock, and by that stamp each process notices what its letter index has not read yet.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core import vectors
from core.errors import BadInput, NotFound, TooLarge
from core.markdown import sections_of
from core.passages import MAX_WORDS, indexed_text, passages_of
from core.tables import new_id

MAX_DOCUMENT = 1_000_000  # characters in one `add`


@dataclass(frozen=True)
class Passage:
    """A passage as it is stored."""

    id: UUID
    context: str
    language: str
    title: str
    text: str
    source: str
    updated_at: datetime


# Putting in --------------------------------------------------------------------------------------------------------


def add(
    session: Session, *, context: str, language: str, text: str, title: str = "", source: str = "",
    markdown: bool = False,
) -> list[UUID]:  # fmt: skip
    """Add a document; it is cut into passages that share its title and source.

    A Markdown document is cut under its headings: each passage begins with its own, and is searched by those around it.

    A passage that the context already has is not added again, one that was removed comes back; both keep their id.

    Returns:
        The passages' ids, in the order of the document.

    Raises:
        NotFound: there is no such context.
        BadInput, TooLarge: there is no text, or too much of it.
    """
    if len(text) > MAX_DOCUMENT:
        raise TooLarge(
            f"The document has {len(text)} characters, at most {MAX_DOCUMENT} are taken.", "Add it in parts."
        )
    title, text = _cleaned(title), _cleaned(text)
    if markdown:
        parts = [
            (". ".join(filter(None, [title, *section.above])), part)
            for section in sections_of(text)
            for part in section.passages()
        ]
    else:
        parts = [(title, part) for part in passages_of(text)]
    if not parts:
        raise BadInput("There is no text to add.", "Give the passage's text.")
    _lock(session, context)
    return [_insert(session, context, language, above, part, source) for above, part in parts]


def _insert(session: Session, context: str, language: str, title: str, part: str, source: str) -> UUID:
    try:
        with session.begin_nested():
            found: UUID = session.execute(
                _INSERT,
                {
                    "id": new_id(),
                    "context": context,
                    "language": language,
                    "title": title,
                    "text": part,
                    "source": source,
                    "sha256": _sha256(language, title, part),
                },
            ).scalar_one()
            return found
    except IntegrityError as error:
        raise NotFound(f"There is no context '{context}'.", "npllm contexts list names them.") from error


_INSERT = text(
    """
    INSERT INTO npllm.knowledge (id, context, language, title, text, source, sha256, active, created_at, updated_at)
    VALUES (:id, :context, :language, :title, :text, :source, :sha256, true, clock_timestamp(), clock_timestamp())
    ON CONFLICT (context, sha256) DO UPDATE SET
        source = excluded.source,
        updated_at = CASE WHEN knowledge.active THEN knowledge.updated_at ELSE excluded.updated_at END,
        active = true
    RETURNING id
    """
)


def update(session: Session, id: UUID, *, text: str, title: str | None = None) -> None:
    """Give a passage another text; its vectors are dropped until it is embedded again (`reembed`).

    Raises:
        NotFound: there is no such passage, or it was removed.
        BadInput: no text, more than a passage holds, or another passage of the context says the same.
    """
    found = _get(session, id)
    parts = passages_of(_cleaned(text))
    if len(parts) != 1:
        raise BadInput(
            f"A passage holds 1 to {MAX_WORDS} words in one paragraph, this text makes {len(parts)} passages.",
            "Remove the passage and add the text anew.",
        )
    title = found.title if title is None else _cleaned(title)
    _lock(session, found.context)
    try:
        with session.begin_nested():
            session.execute(
                _sql(
                    "UPDATE npllm.knowledge SET title = :title, text = :text, sha256 = :sha256,"
                    " updated_at = clock_timestamp() WHERE id = :id"
                ),
                {"id": id, "title": title, "text": parts[0], "sha256": _sha256(found.language, title, parts[0])},
            )
    except IntegrityError as error:
        raise BadInput("Another passage of this context says exactly this.", "Remove this one instead.") from error
    vectors.drop(session, id)


def remove(session: Session, id: UUID) -> None:
    """Take a passage out of every answer from now on. Its text stays, for the messages that were answered from it.

    Raises:
        NotFound: there is no such passage, or it was removed before.
    """
    _lock(session, _get(session, id).context)
    session.execute(
        _sql("UPDATE npllm.knowledge SET active = false, updated_at = clock_timestamp() WHERE id = :id"), {"id": id}
    )
    vectors.drop(session, id)


def remove_others(session: Session, context: str, *, source: str, keep: Sequence[UUID]) -> int:
    """Remove what an earlier state of a document said and this one does not.

    Args:
        source: the document's name; `keep`: its passages as they are now.
    """
    _lock(session, context)
    gone = session.scalars(
        _sql(
            "UPDATE npllm.knowledge SET active = false, updated_at = clock_timestamp()"
            " WHERE context = :context AND source = :source AND active AND id <> ALL(:keep) RETURNING id"
        ),
        {"context": context, "source": source, "keep": list(keep)},
    ).all()
    for id in gone:
        vectors.drop(session, id)
    return len(gone)


def erase(session: Session, id: UUID) -> None:
    """Destroy a passage's content, removed or not. An empty row stays, so that every process's index forgets it too.

    Raises:
        NotFound: there is no such passage.
    """
    _lock(session, _get(session, id, removed_too=True).context)
    session.execute(
        _sql(
            "UPDATE npllm.knowledge SET active = false, title = '', text = '', source = '', sha256 = :mark,"
            " updated_at = clock_timestamp() WHERE id = :id"
        ),
        {"id": id, "mark": f"erased:{id}"},
    )
    vectors.drop(session, id)


def list_passages(
    session: Session, context: str, *, limit: int | None = None, after: UUID | None = None
) -> list[Passage]:
    """The passages of a context, oldest first; `after` is the last id of the page before."""
    rows = session.execute(
        _sql(
            f"SELECT {_COLUMNS} FROM npllm.knowledge WHERE context = :context AND active"
            " AND (CAST(:after AS uuid) IS NULL OR id > :after) ORDER BY id LIMIT :limit"
        ),
        {"context": context, "after": after, "limit": limit},
    )
    return [Passage(*row) for row in rows]


_COLUMNS = "id, context, language, title, text, source, updated_at"


def _get(session: Session, id: UUID, *, removed_too: bool = False) -> Passage:
    row = session.execute(
        _sql(f"SELECT {_COLUMNS} FROM npllm.knowledge WHERE id = :id AND (active OR :removed_too)"),
        {"id": id, "removed_too": removed_too},
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no passage {id}.", "See `npllm knowledge list`.")
    return Passage(*row)


def _lock(session: Session, context: str) -> None:
    """One change to a context at a time, until its transaction ends: so that stamps rise in the order of commits."""
    session.execute(
        _sql("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"npllm.knowledge:{context}"}
    )


def _cleaned(text: str) -> str:
    """Postgres takes no NUL."""
    return text.replace("\x00", "").strip()


def _sha256(language: str, title: str, text: str) -> str:
    return hashlib.sha256("\x00".join((language, title, text)).encode()).hexdigest()


_sql = text  # parameters are called `text` here


# Vectors -----------------------------------------------------------------------------------------------------------


def reembed(
    transaction: Callable[[], AbstractContextManager[Session]],
    *,
    model: str,
    embed: Callable[[Sequence[str]], list[list[float]]],
    batch: int = 64,
    report: Callable[[int], None] = lambda done: None,
) -> int:
    """Give every passage that has none a vector of `model`, and drop those of other models.

    Made to be stopped and started again: each batch is a transaction of its own, and the model is called in none.
    Until it ends, passages without a vector are found by their letters alone.

    Args:
        transaction: opens one: `lambda: core.db.transaction(engine)`.
        embed: one vector per text; all of one length.
        report: called after each batch with the number of passages done.

    Returns:
        How many passages were given a vector.
    """
    done = 0
    while True:
        with transaction() as session:
            waiting = session.execute(
                _sql(
                    "SELECT k.id, k.title, k.text, k.updated_at FROM npllm.knowledge k WHERE k.active AND NOT EXISTS"
                    " (SELECT FROM npllm.knowledge_embeddings e WHERE e.knowledge_id = k.id AND e.model = :model)"
                    " ORDER BY k.id LIMIT :batch"
                ),
                {"model": model, "batch": batch},
            ).all()
        if not waiting:
            break
        made = embed([indexed_text(row.title, row.text) for row in waiting])
        with transaction() as session:
            for row, vector in zip(waiting, made, strict=True):
                vectors.store(session, row.id, model, vector, row.updated_at)
        done += len(waiting)
        report(done)
    with transaction() as session:
        vectors.drop_other_models(session, model)
        vectors.build_index(session, model)
    return done
