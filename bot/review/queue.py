"""The annotation queue: filled from feedback, claimed by one reviewer at a time, submitted once.

Claims take the row with FOR UPDATE SKIP LOCKED: two reviewers never get the same item. What a reviewer sees is
redacted when the item is made.
"""

import uuid
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import BigInteger, Text, and_, cast, exists, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from core import events
from core.errors import BadInput, Conflict, NotFound
from core.messages import clean_payload
from core.redact import Redactor
from core.settings import Settings
from core.tables import Annotation, AnnotationItem, Customer, Feedback, Message, TrainingExample, new_id, now

Verdict = Literal["approve", "correct", "reject"]
VERDICTS: tuple[Verdict, ...] = ("approve", "correct", "reject")
LOOK_BACK = timedelta(days=7)
MAX_ANSWER = 2_000  # characters of a correction
BATCH = 500


def fill(session: Session, settings: Settings) -> int:
    """Add answers that need a look; returns how many.

    Disliked ones first, then what a night put into quarantine, then those a guard caught, then a sample
    (REVIEW_SAMPLE) of all others, so that reviewers also see what nobody complained about.
    """
    answer, question = aliased(Message), aliased(Message)
    disliked = exists().where(
        Feedback.message_id == answer.id, Feedback.superseded_at.is_(None), Feedback.polarity == "negative"
    )
    guarded = func.jsonb_array_length(func.coalesce(answer.route["flags"], text("'[]'::jsonb"))) > 0
    # By a hash of the id, so that every run draws the same sample.
    place = func.abs(cast(func.hashtext(cast(answer.id, Text)), BigInteger)) % 10_000
    drawn = place < int(settings.review_sample * 10_000)
    quarantined = exists().where(TrainingExample.message_id == answer.id, TrainingExample.dropped.like("quarantine: %"))
    rows = session.execute(
        select(answer, question, disliked, guarded, quarantined)
        .join(question, question.id == answer.in_reply_to)
        .where(
            answer.direction == "out", answer.kind == "text", answer.created_at > now() - LOOK_BACK,
            answer.deleted_at.is_(None), question.deleted_at.is_(None), answer.version.is_not(None),
            or_(disliked, guarded, quarantined, and_(drawn, answer.created_at < now() - timedelta(minutes=10))),
            ~exists().where(AnnotationItem.message_id == answer.id),
        )
        .limit(BATCH)
    ).all()  # fmt: skip
    added = 0
    for answered, asked, is_disliked, is_guarded, is_quarantined in rows:
        reason = (
            "disliked" if is_disliked else "quarantined" if is_quarantined else "guarded" if is_guarded else "sample"
        )
        added += _add(session, settings, asked, answered, reason)
    return added


def _add(session: Session, settings: Settings, asked: Message, answered: Message, reason: str) -> int:
    customer = session.get(Customer, answered.customer_id)
    redact = Redactor.of(settings, customer.name if customer else None)
    priority = {"disliked": 1.0, "quarantined": 0.8, "guarded": 0.5, "sample": 0.1}[reason]
    history = [[redact(said), redact(replied)] for said, replied in answered.route.get("history", [])]
    values = {
        "id": new_id(),
        "context": answered.context,
        "message_id": answered.id,
        "reason": reason,
        "priority": priority + (0.2 if answered.arm == "challenger" else 0.0),
        "question": redact(asked.text),
        "answer": redact(answered.route.get("said") or answered.text),
        "passages": answered.route.get("passages"),
        "history": history,
        "version": answered.version,
    }
    statement = insert(AnnotationItem).values(**values).on_conflict_do_nothing().returning(AnnotationItem.id)
    return 0 if session.execute(statement).first() is None else 1


def claim_next(
    session: Session, reviewer: str, settings: Settings, context: str | None = None
) -> AnnotationItem | None:
    """Claim one more item for a reviewer, the most urgent first; None when none is open."""
    release_expired(session)
    query = select(AnnotationItem).where(AnnotationItem.state == "open")
    if context:
        query = query.where(AnnotationItem.context == context)
    item = session.scalar(
        query.order_by(AnnotationItem.priority.desc(), AnnotationItem.id).limit(1).with_for_update(skip_locked=True)
    )
    if item is not None:
        item.state, item.claimed_by = "claimed", reviewer
        item.claimed_until = now() + timedelta(minutes=settings.review_claim_minutes)
    return item


def claim(session: Session, item_id: str | uuid.UUID, reviewer: str, settings: Settings) -> AnnotationItem:
    """Claim one item by its id, for who is about to correct it.

    Raises:
        NotFound: no such item.
        Conflict: another reviewer has it, or it is done.
    """
    release_expired(session)
    item = _free(session, item_id, reviewer)
    item.state, item.claimed_by = "claimed", reviewer
    item.claimed_until = now() + timedelta(minutes=settings.review_claim_minutes)
    return item


def release_expired(session: Session) -> int:
    """Give back what nobody finished in time; returns how many."""
    released = session.execute(
        update(AnnotationItem)
        .where(AnnotationItem.state == "claimed", AnnotationItem.claimed_until < now())
        .values(state="open", claimed_by=None, claimed_until=None)
    )
    return int(released.rowcount)  # type: ignore[attr-defined]


def submit(
    session: Session,
    item_id: str | uuid.UUID,
    reviewer: str,
    verdict: Verdict,
    *,
    corrected: str | None = None,
    comment: str | None = None,
) -> Annotation:
    """Store a reviewer's decision and close the item.

    Raises:
        NotFound: no such item.
        Conflict: another reviewer has it, or it is done.
        BadInput: no such verdict, or a correction without a text.
    """
    if verdict not in VERDICTS:
        raise BadInput(f"There is no verdict '{verdict}'.", f"Choose {', '.join(VERDICTS)}.")
    corrected, comment = _kept(corrected), _kept(comment)
    if verdict == "correct" and not corrected:
        raise BadInput("A correction needs the corrected answer.", "Write what the bot should have said.")
    if len(corrected) > MAX_ANSWER:
        raise BadInput(f"The correction has more than {MAX_ANSWER} characters.", "Answers to customers are short.")
    item = _free(session, item_id, reviewer)
    annotation = Annotation(
        item_id=item.id, reviewer=reviewer, verdict=verdict, corrected=corrected or None, comment=comment or None,
    )  # fmt: skip
    session.add(annotation)
    item.state, item.done_at, item.claimed_until = "done", now(), None
    session.flush()
    answer = session.get_one(Message, item.message_id)
    events.record(
        session, "annotation.submitted", context=item.context, channel=answer.channel,
        conversation=answer.conversation_id, item=str(item.id), message=str(item.message_id), verdict=verdict,
        reviewer=reviewer,
    )  # fmt: skip
    return annotation


def release(session: Session, item_id: str | uuid.UUID, reviewer: str) -> None:
    """Put a claimed item back for somebody else."""
    item = _locked(session, item_id)
    if item.state == "claimed" and item.claimed_by == reviewer:
        item.state, item.claimed_by, item.claimed_until = "open", None, None


def open_items(session: Session, context: str | None = None) -> list[AnnotationItem]:
    """All items that wait, the most urgent first; claimed ones are not among them."""
    query = select(AnnotationItem).where(AnnotationItem.state == "open")
    if context:
        query = query.where(AnnotationItem.context == context)
    return list(session.scalars(query.order_by(AnnotationItem.priority.desc(), AnnotationItem.id)))


def as_json(item: AnnotationItem) -> dict[str, Any]:
    return {
        "id": str(item.id),
        "context": item.context,
        "message": str(item.message_id),
        "state": item.state,
        "reason": item.reason,
        "priority": item.priority,
        "question": item.question,
        "answer": item.answer,
        "passages": item.passages,
        "history": item.history,
        "version": item.version,
        "claimed_by": item.claimed_by,
        "claimed_until": item.claimed_until.isoformat() if item.claimed_until else None,
    }


def _kept(text: str | None) -> str:
    """What Postgres can keep of a text that was pasted; how it is laid out is the reviewer's."""
    kept: str = clean_payload(text or "")
    return kept.strip()


def _free(session: Session, item_id: str | uuid.UUID, reviewer: str) -> AnnotationItem:
    item = _locked(session, item_id)
    if item.state == "done":
        raise Conflict("This item is already done.", "Take the next one.")
    if item.state == "claimed" and item.claimed_by != reviewer:
        raise Conflict(f"{item.claimed_by} is working on this item.", "Take the next one.")
    return item


def _locked(session: Session, item_id: str | uuid.UUID) -> AnnotationItem:
    try:
        key = item_id if isinstance(item_id, uuid.UUID) else uuid.UUID(item_id)
    except ValueError:
        raise NotFound(f"There is no item '{item_id}'.", "npllm annotate list shows them.") from None
    item = session.get(AnnotationItem, key, with_for_update=True)
    if item is None:
        raise NotFound(f"There is no item '{item_id}'.", "npllm annotate list shows them.")
    return item
