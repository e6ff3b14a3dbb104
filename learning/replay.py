"""Experience replay: what earlier nights learned, in every batch of tonight's.

The buffer is the `examples` table. A draw is deterministic by seed and keeps no state: each example gets
-ln(u)/weight with u from a hash of seed and id, and the smallest are taken (Efraimidis & Spirakis 2006, weighted
sampling without replacement). Within equal strata (the nights they came from) so that an old topic does not vanish
under new ones; good and recent examples a little more often, often replayed ones a little less.
"""

import hashlib
import math
import uuid
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.tables import TrainingExample, now

BUFFER = 2_000  # newest examples of a context that may be replayed
HALF_LIFE_DAYS = 90.0


def buffer(session: Session, context: str, *, before: uuid.UUID) -> list[TrainingExample]:
    """What may be replayed in the night `before`: everything trained on in other nights, the starter's included."""
    query = select(TrainingExample).where(
        TrainingExample.context == context, TrainingExample.split == "train", TrainingExample.dropped.is_(None),
        TrainingExample.run_id.is_distinct_from(before),
    )  # fmt: skip
    return list(session.scalars(query.order_by(TrainingExample.created_at.desc()).limit(BUFFER)))


def draw(candidates: Sequence[TrainingExample], count: int, *, seed: int) -> list[TrainingExample]:
    """At most `count` examples, spread evenly over the strata."""
    strata: dict[object, list[TrainingExample]] = defaultdict(list)
    for example in candidates:
        strata[example.run_id].append(example)
    ordered = [
        sorted(members, key=lambda example: _key(example, seed))
        for _, members in sorted(strata.items(), key=lambda item: str(item[0]))
    ]
    drawn: list[TrainingExample] = []
    depth = 0
    while len(drawn) < min(count, len(candidates)):
        drawn += [members[depth] for members in ordered if depth < len(members)]
        depth += 1
    return drawn[:count]


def count_for(new: int, share: float) -> int:
    """How many to replay so that they are `share` of all that is trained on."""
    return math.ceil(new * share / (1 - share))


def mark(session: Session, drawn: Sequence[TrainingExample]) -> None:
    """Remember that they were replayed once more."""
    ids = [example.id for example in drawn]
    session.execute(
        update(TrainingExample).where(TrainingExample.id.in_(ids)).values(replayed=TrainingExample.replayed + 1)
    )


def weight(example: TrainingExample, at: datetime) -> float:
    age = (at - example.created_at).total_seconds() / 86400
    return (0.5 + example.reward) * 2 ** (-age / HALF_LIFE_DAYS) / math.sqrt(1 + example.replayed)


def _key(example: TrainingExample, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{example.sha256}".encode()).digest()
    uniform = (int.from_bytes(digest[:8], "big") + 1) / (2**64 + 1)
    return -math.log(uniform) / weight(example, now())
