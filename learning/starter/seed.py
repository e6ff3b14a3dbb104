"""The starter's own dialogues in the replay buffer: what version 1 knows, later nights must not forget."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.tables import TrainingExample, new_id
from learning.dataset import Example
from learning.starter.corpus import corpus, held_out

REPLAYED = 300
HELD_OUT = 60


def ensure_starter_examples(session: Session, context: str) -> int:
    """Put them in once per context; returns how many were new."""
    if session.scalar(
        select(TrainingExample.id)
        .where(TrainingExample.context == context, TrainingExample.source == "starter")
        .limit(1)
    ):
        return 0
    added = 0
    for split, dialogues in (("train", corpus(REPLAYED)), ("holdout", held_out(HELD_OUT))):
        for dialogue in dialogues:
            example: Example = dialogue.example()
            row = {
                "id": new_id(), "context": context, "sha256": example.hash, "source": "starter", "split": split,
                "messages": list(example.messages), "answer": example.answer,
            }  # fmt: skip
            statement = insert(TrainingExample).values(**row).on_conflict_do_nothing().returning(TrainingExample.id)
            added += session.execute(statement).first() is not None
    return added
