"""What was learned and may be no longer: its person withdrew, its author deleted it, or it was judged otherwise."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import ColumnElement, exists, or_, select, update
from sqlalchemy.orm import Session, aliased

from core.tables import Annotation, AnnotationItem, Customer, Feedback, Message, TrainingExample

LIKED = 0.75  # four stars, or a thumb up


def take_back(session: Session, context: str) -> Counter[str]:
    """What earlier nights learned and may be learned no longer leaves the replay buffer and the hold-outs.

    Its row and its hash stay, without the text: an erasure still finds the versions that learned it.
    """
    judged = exists().where(
        AnnotationItem.message_id == TrainingExample.message_id, Annotation.item_id == AnnotationItem.id,
        Annotation.verdict.in_(("correct", "reject")),
    )  # fmt: skip
    vote = exists().where(Feedback.message_id == TrainingExample.message_id, Feedback.superseded_at.is_(None))
    disliked, liked = vote.where(Feedback.polarity == "negative"), vote.where(Feedback.value >= LIKED)
    otherwise = (TrainingExample.source == "feedback") & (judged | disliked | ~liked)
    taken: Counter[str] = Counter()
    for reason, true in (
        ("consent withdrawn", _withdrawn()), ("deleted", _deleted_since()), ("judged otherwise since", otherwise),
    ):  # fmt: skip
        learned = update(TrainingExample).where(TrainingExample.context == context, TrainingExample.dropped.is_(None))
        statement = learned.where(true).values(dropped=reason, messages=[], answer="")
        taken[f"taken back: {reason}"] = session.execute(
            statement, execution_options={"synchronize_session": False}
        ).rowcount  # type: ignore[attr-defined]
    return taken


def withdrawn_since(session: Session, context: str, hashes: Sequence[str]) -> bool:
    """Whether one of these examples may be learned no longer: its person withdrew, or its author deleted it."""
    theirs = TrainingExample.context == context, TrainingExample.sha256.in_(hashes)
    # Dropped: what was said before it was taken back (bot/signals.py).
    gone = or_(TrainingExample.dropped.is_not(None), _withdrawn(), _deleted_since())
    query = select(TrainingExample.id).where(*theirs, gone).limit(1)
    return session.scalar(query) is not None


def _withdrawn() -> ColumnElement[bool]:
    return exists().where(
        Customer.id == TrainingExample.customer_id,
        or_(Customer.consent == "denied", Customer.opted_out_at.is_not(None)),
    )


def _deleted_since() -> ColumnElement[bool]:
    answer, asked = aliased(Message), aliased(Message)
    return exists().where(
        answer.id == TrainingExample.message_id, asked.id == answer.in_reply_to,
        or_(answer.deleted_at.is_not(None), asked.deleted_at.is_not(None)),
    )  # fmt: skip
