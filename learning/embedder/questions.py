"""Portuguese questions with the passage that answers each: what the embedder is for, after it can read.

The starter's writer makes them, each of another shop, with other figures: no question of the example shop is among
them, and what is measured on it stays held out.
"""

from dataclasses import dataclass
from itertools import islice

from core.shop import CONTEXTS, passages
from learning.starter.corpus import stream


@dataclass(frozen=True)
class Asked:
    """A question, the passage that answers it, and what else was shown beside it."""

    question: str
    passage: str
    others: tuple[str, ...] = ()


def asked(size: int, *, seed: int) -> list[Asked]:
    """`size` questions of training dialogues, the same for the same seed; only such as one passage alone answers."""
    found = (
        Asked(dialogue.question, right[0], tuple(passage for passage in dialogue.passages if passage != right[0]))
        for dialogue in stream(seed, held=False)
        if dialogue.language == "pt" and dialogue.kind in ("answer", "complaint") and not dialogue.history
        if dialogue.passages and dialogue.needed
        if len(right := [p for p in dialogue.passages if all(figure in p for figure in dialogue.needed)]) == 1
    )
    return list(islice(found, size))


def shop_titles() -> list[Asked]:
    """The example shop's passages under their titles; never its questions."""
    return [Asked(passage.title, passage.text) for context in CONTEXTS for passage in passages(context, "pt")]
