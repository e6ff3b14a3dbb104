"""Thousands of dialogues for the starter adapter, the same for the same seed.

Each is the exact input of `core.prompts.chat_messages` and the ideal answer. Example i of a seed depends on (seed, i)
alone, so a longer corpus begins with a shorter one. Kinds and shares stand in `SHARES`:

    answer      the right passage among none to two others; the answer copies its figures
    follow-up   the same, but the question leans on the turns before ("e o de casal?")
    unknown     the passages (or none) do not hold the answer: say so, offer a person of the team
    complaint   empathy, then the step a passage names
    talk        courtesy, asking for a person, what must be refused

A family is a handful of questions about the same passages: only choosing the passage tells their answers apart, and
training reads the passages once (learning/tree.py).

`held=True` draws from phrasings, names and figures that training never sees, and from a few fact kinds that are not
trained at all (`unseen`). Only training sees other trades' facts, and several facts in one passage.
"""

import random
from collections.abc import Iterable, Iterator
from itertools import count, islice

from core.prompts import Language
from learning.starter.dialogue import Dialogue
from learning.starter.families import FamilyWriter
from learning.starter.writer import Writer

ENGLISH_SHARE = 0.2
SHARES = {"answer": 0.41, "follow-up": 0.12, "unknown": 0.22, "complaint": 0.04, "talk": 0.21}
# Of the dialogues that are asked, never trained on; left as they are, so that the held-out sets stay comparable.
HELD_SHARES = {"answer": 0.50, "follow-up": 0.12, "unknown": 0.17, "complaint": 0.04, "talk": 0.17}
# Of the dialogues that are trained beside families, which have no turns before and always passages.
BESIDE_SHARES = {"answer": 0.10, "follow-up": 0.26, "unknown": 0.20, "complaint": 0.06, "talk": 0.38}


def corpus(size: int, *, seed: int = 0) -> list[Dialogue]:
    """`size` different training dialogues."""
    return list(islice(stream(seed, held=False), size))


def held_out(size: int, *, seed: int = 1) -> list[Dialogue]:
    """`size` different dialogues of phrasings, names and figures that `corpus` never uses."""
    return list(islice(stream(seed, held=True), size))


def stream(seed: int, *, held: bool) -> Iterator[Dialogue]:
    """Different dialogues without end."""
    return different(dialogue(seed, index, held=held) for index in count())


def dialogue(seed: int, index: int, *, held: bool = False, beside: bool = False) -> Dialogue:
    """One dialogue; `beside`: of those that are trained beside families."""
    rng = random.Random(f"{'held' if held else 'beside' if beside else 'train'}:{seed}:{index}")
    language: Language = "en" if rng.random() < ENGLISH_SHARE else "pt"
    shares = HELD_SHARES if held else BESIDE_SHARES if beside else SHARES
    kind = rng.choices(list(shares), weights=list(shares.values()))[0]
    return Writer(rng, language, held=held).write(kind)


def family(seed: int, index: int) -> list[Dialogue]:
    """Training questions about the same passages; the same for the same seed."""
    rng = random.Random(f"family:{seed}:{index}")
    language: Language = "en" if rng.random() < ENGLISH_SHARE else "pt"
    return FamilyWriter(rng, language, held=False).family()


def different(dialogues: Iterable[Dialogue]) -> Iterator[Dialogue]:
    """Each of them once."""
    seen: set[Dialogue] = set()
    for one in dialogues:
        if one not in seen:
            seen.add(one)
            yield one
