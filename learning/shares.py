"""How much of a night one person, and one topic, may fill. Pure functions.

What is over a share waits for the next night; it is not lost (`learning/curate.py`).
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

PER_PERSON = 20
PERSON_SHARE = 0.02
ENOUGH_PEOPLE = 50  # with fewer, two in a hundred is less than one example of each
TOPIC_TIMES = 3.0  # a topic's even share


def person_cap(examples_of: Counter[Hashable], *, reviewed: bool, night: int | None = None) -> int:
    """Most examples of one person: 20, and 2 % of the night, which has at most `night` examples.

    Where fewer than fifty people taught, 2 % would leave less than one of each. A reviewer's corrections are then
    bounded by the twenty alone (the owner of a shop who tries the bot out is one person); what nobody has reviewed
    is bounded to one (docs/decisions/0012).
    """
    if len(examples_of) < ENOUGH_PEOPLE:
        return PER_PERSON if reviewed else 1
    for cap in range(PER_PERSON, 1, -1):
        size = sum(min(count, cap) for count in examples_of.values())
        if cap <= PERSON_SHARE * (size if night is None else min(size, night)):
            return cap
    return 1


def topic_cap(topics: Sequence[str]) -> int:
    """Most examples of one topic: three times its even share, so that one flood of questions is not the night."""
    different = len(set(topics))
    return len(topics) if different < 2 else math.ceil(TOPIC_TIMES * len(topics) / different)
