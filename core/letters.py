"""The letter index of each context, one per process, kept up with the table.

Each search asks Postgres for the context's newest stamp (one look into a B-tree) and reads only what changed since.
The stamps rise in the order of commits, because `core/knowledge.py` takes a lock per context before it stamps.
"""

import threading
from dataclasses import dataclass, field
from datetime import datetime
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from core.lexical import LexicalIndex
from core.passages import indexed_text

_REBUILD_ABOVE = 0.3  # share of the index's numbers that stand empty


@dataclass
class _Kept:
    index: LexicalIndex = field(default_factory=LexicalIndex)
    seen: datetime | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_kept: WeakKeyDictionary[Engine, dict[str, _Kept]] = WeakKeyDictionary()
_kept_lock = threading.Lock()


def index_of(session: Session, context: str) -> LexicalIndex:
    """The context's letter index, with every change that was committed before now.

    The first question of a process reads the whole context: about 0.2 s for 1,000 passages, 10 s for 50,000.
    """
    with _kept_lock:
        kept = _kept.setdefault(session.get_bind().engine, {}).setdefault(context, _Kept())
    with kept.lock:
        newest = session.execute(
            text("SELECT max(updated_at) FROM npllm.knowledge WHERE context = :context"), {"context": context}
        ).scalar()
        if newest == kept.seen:
            return kept.index
        if newest is None or (kept.seen is not None and newest < kept.seen) or kept.index.wasted > _REBUILD_ABOVE:
            # All gone, a change that was rolled back or a database restored from a copy, or many changes: anew.
            kept.index, kept.seen = LexicalIndex(), None
        changed = session.execute(
            text(
                "SELECT id, title, text, active FROM npllm.knowledge WHERE context = :context"
                " AND (CAST(:seen AS timestamptz) IS NULL AND active OR updated_at > :seen) ORDER BY id"
            ).execution_options(yield_per=1000),
            {"context": context, "seen": kept.seen},
        )
        for id, title, passage, active in changed:
            if active:
                kept.index.put(id, indexed_text(title, passage))
            else:
                kept.index.drop(id)
        kept.seen = newest
        return kept.index
