"""Experience replay: what earlier nights learned, in every batch of tonight's.

The buffer is the `examples` table. A draw is deterministic by seed and keeps no state: each example gets
-ln(u)/weight with u from a hash of seed and id, and the smallest are taken (Efraimidis & Spirakis 2006, weighted
sampling without replacement). Within equal strata (night x topic) so that an old topic does not vanish under new ones;
good and recent examples a little more often, often replayed ones a little less. Every epoch of a night replays other
examples: three epochs at one share see three times as many.
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

HALF_LIFE_DAYS = 90.0
MOST, LEAST = 0.25, 0.10  # bounds of the adaptive share
FORGOT, KEPT = 0.97, 0.99  # of the champion's accuracy on earlier hold-outs
CALM_NIGHTS = 5
BALANCE = 0.5  # of the loss: what earlier nights taught, however few rows stand for it (docs/log.md)


def buffer(session: Session, context: str, *, before: uuid.UUID) -> list[TrainingExample]:
    """What may be replayed in the night `before`: everything trained on in other nights, the starter's included.

    All of it, not the newest: whatever bound there was would drop the oldest topics first. In one order, so that a deep
    night that goes on has the batches that it began with.
    """
    query = select(TrainingExample).where(
        TrainingExample.context == context, TrainingExample.split == "train", TrainingExample.dropped.is_(None),
        TrainingExample.run_id.is_distinct_from(before),
    )  # fmt: skip
    return list(session.scalars(query.order_by(TrainingExample.sha256)))


def draw(candidates: Sequence[TrainingExample], count: int, *, seed: int) -> list[TrainingExample]:
    """At most `count` examples, spread evenly over the strata; where there are more strata than examples, over as many
    as fit, which ones is up to the seed."""
    strata: dict[tuple[str, str], list[TrainingExample]] = defaultdict(list)
    for example in candidates:
        strata[(str(example.run_id), example.topic or "")].append(example)
    keys = sorted(strata, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    ordered = [sorted(strata[key], key=lambda example: _key(example, seed)) for key in keys]
    drawn: list[TrainingExample] = []
    depth = 0
    while len(drawn) < min(count, len(candidates)):
        drawn += [members[depth] for members in ordered if depth < len(members)]
        depth += 1
    return drawn[:count]


def share_for(usual: float, retentions: Sequence[float]) -> float:
    """The share of a night, from what earlier nights kept (newest first): up at once after forgetting, slowly down.

    +4 points after each night that kept less than 97 %, -2 after every five in a row that kept 99 %; 10 to 25 %.
    A share of 0 stays 0.
    """
    if usual == 0:
        return 0.0
    share, calm = usual, 0
    for kept in reversed(retentions):
        calm = calm + 1 if kept >= KEPT else 0
        if kept < FORGOT:
            share = min(MOST, share + 0.04)
        elif calm == CALM_NIGHTS:
            share, calm = max(LEAST, share - 0.02), 0
    return round(share, 4)


def count_for(new: int, share: float) -> int:
    """How many to replay so that they are `share` of all that is trained on."""
    return math.ceil(new * share / (1 - share))


def balancing(share: float) -> float:
    """What a replayed row weighs where a new one weighs 1, so that those of this share make `BALANCE` of the loss; at
    least 1."""
    return max(1.0, (1 - share) / share * BALANCE / (1 - BALANCE))


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
