"""How a document becomes passages: what one answer may be taken from, and one vector stands for."""

import re
from collections.abc import Iterable

# A passage is what stands in the prompt: at 60 words three of them fit beside the question in a small model, and one
# vector still means one thing.
MAX_WORDS = 60

_SENTENCE = re.compile(r"(?<=[.!?…])\s+(?=\S)|\n+")
_CLAUSE = re.compile(r"(?<=[,;:])\s+")


def passages_of(document: str, most: int = MAX_WORDS) -> list[str]:
    """Cut a document into passages of at most `most` words.

    Cuts fall between sentences; inside one only where it alone is too long, then after a comma, and only then
    between words. A blank line always ends a passage: what stands in a paragraph of its own is a subject of its own.
    """
    passages: list[str] = []
    for paragraph in re.split(r"\n\s*\n", document):
        current: list[str] = []
        for part in _parts(paragraph, most):
            if current and len(" ".join([*current, part]).split()) > most:
                passages.append(" ".join(current))
                current = []
            current.append(part)
        if current:
            passages.append(" ".join(current))
    return passages


def _parts(paragraph: str, most: int) -> Iterable[str]:
    """Sentences of at most `most` words; a longer one in pieces."""
    for sentence in _SENTENCE.split(paragraph):
        said = sentence.split()
        if len(said) <= most:
            if said:
                yield " ".join(said)
            continue
        for clause in _CLAUSE.split(sentence):
            words = clause.split()
            for start in range(0, len(words), most):
                yield " ".join(words[start : start + most])


def indexed_text(title: str, text: str) -> str:
    """What is searched in: a passage's text below its title, as it also goes to the embedder."""
    return f"{title}. {text}" if title else text
