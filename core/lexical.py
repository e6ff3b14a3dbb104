"""Search by letters: BM25 over groups of four letters, held in memory.

Words change their ends (entrega, entregam, entregue), customers leave out accents and mistype, and neither a
dictionary nor a stemmer catches all of it. Groups of four letters inside each word do: "devolvr" still shares its
beginning with "devolver" and "devolução". They know no language either, so one index serves every language of a
context, and there is no dictionary to load. docs/log.md has what was compared.

Text is folded by `core.text.words` alone: what is stored and what is asked go through the same function.
"""

import math
import threading
from array import array
from collections import Counter
from functools import lru_cache
from uuid import UUID

import numpy as np

from core.text import words

GRAM = 4
# BM25's usual constants (Robertson & Zaragoza 2009): how fast a repeated word saturates, how much length counts.
K1 = 1.2
B = 0.75
MAX_QUESTION = 1000  # characters of a question that are searched for; the rest adds time, not meaning


@lru_cache(maxsize=100_000)
def grams(word: str) -> tuple[str, ...]:
    """The pieces a word is found by: four letters each, its ends marked; a short word is one piece.

    A single letter is none: "a", "e" and "o" stand in every sentence. A single digit is one.
    """
    marked = f" {word} "
    if len(marked) <= GRAM:
        return (marked,) if len(word) > 1 or word.isdigit() else ()
    return tuple(marked[start : start + GRAM] for start in range(len(marked) - GRAM + 1))


def pieces(text: str) -> list[str]:
    """All pieces of a text, in order, repeated ones too."""
    return [piece for word in words(text) for piece in grams(word)]


class LexicalIndex:
    """The passages of one context by their pieces; scores a question against all of them.

    About 1.5 KB of memory a passage of 60 words. Passages are numbered in the order they come; one that is changed
    or removed leaves its number empty but goes on counting in how rare a piece is, so that the owner builds a new
    index when too many are (`wasted`).
    """

    def __init__(self) -> None:
        self._keys: list[UUID | None] = []
        self._rows: dict[UUID, int] = {}
        self._lengths = array("f")
        self._total_length = 0.0
        # For each piece the passages that hold it and how often (up to 255).
        self._postings: dict[str, tuple[array[int], array[int]]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def wasted(self) -> float:
        """Share of the numbers that are empty."""
        return 1 - len(self._rows) / len(self._keys) if self._keys else 0.0

    def put(self, key: UUID, text: str) -> None:
        """Add a passage, or replace the one under this key."""
        with self._lock:
            self._drop(key)
            row = len(self._keys)
            counts = Counter(pieces(text))
            self._keys.append(key)
            self._rows[key] = row
            length = float(counts.total())
            self._lengths.append(length)
            self._total_length += length
            postings = self._postings
            for piece, count in counts.items():
                posting = postings.get(piece)
                if posting is None:
                    posting = postings[piece] = (array("I"), array("B"))
                posting[0].append(row)
                posting[1].append(count if count < 256 else 255)

    def drop(self, key: UUID) -> None:
        """Remove a passage; one that is not there is no error."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: UUID) -> None:
        row = self._rows.pop(key, None)
        if row is None:
            return
        self._keys[row] = None
        self._total_length -= self._lengths[row]

    def search(self, question: str, limit: int) -> dict[UUID, float]:
        """The `limit` passages that share most with the question, best first, each with its score.

        The score is BM25 divided by what a passage would reach that holds every piece of the question many times:
        0 is nothing shared, 1 is out of reach; it says how much of what the question asks for stands in the passage,
        rare pieces counting more. Passages that share nothing are left out.
        """
        with self._lock:
            scores, most = self._scores(question)
            if most == 0:
                return {}
            found = np.flatnonzero(scores)
            if len(found) > limit:
                found = found[np.argpartition(-scores[found], limit - 1)[:limit]]
            # Ties in the order the passages came in, so that a search repeats.
            order = sorted(found.tolist(), key=lambda row: (-scores[row], row))
            return {key: float(scores[row]) / most for row in order if (key := self._keys[row]) is not None}

    def scores_of(self, question: str, keys: list[UUID]) -> list[float]:
        """The same score for given passages; 0 for one that is not in the index."""
        with self._lock:
            scores, most = self._scores(question)
            return [
                float(scores[row]) / most if most and (row := self._rows.get(key, -1)) >= 0 else 0.0 for key in keys
            ]

    def _scores(self, question: str) -> tuple[np.ndarray, float]:
        """BM25 of every number, 0 where it is empty, and the most that any passage could reach."""
        scores = np.zeros(len(self._keys), dtype=np.float32)
        asked = set(pieces(question[:MAX_QUESTION]))
        if not self._rows or not asked:
            return scores, 0.0
        lengths = np.array(self._lengths, dtype=np.float32)
        norms = K1 * (1 - B + B * lengths / max(self._total_length / len(self._rows), 1e-9))
        most = 0.0
        for piece in asked:
            posting = self._postings.get(piece)
            count = len(posting[0]) if posting else 0
            # A piece that stands nowhere weighs as one that stands in one passage, or a small context would find
            # every question strange.
            weight = math.log(1 + (len(self._keys) - max(count, 1) + 0.5) / (max(count, 1) + 0.5))
            most += weight * (K1 + 1)
            if posting:
                rows, times = (np.array(part) for part in posting)
                scores[rows] += weight * times * (K1 + 1) / (times + norms[rows])
        empty = [row for row, key in enumerate(self._keys) if key is None]
        scores[empty] = 0.0
        return scores, most
