"""From what people said of answers to what a night may learn.

    reviewers' corrections and approvals, then answers people liked
    -> consent -> nothing caught by a guard -> redact -> no doubles -> at most 20 per person -> train / hold-out

Every answer that was considered leaves a row: one that is not learned keeps its reason in `dropped`, without the
text where the reason is that we may not have it. The counts are the night's funnel.
"""

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, exists, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.prompts import ChatMessage, Language, chat_messages
from core.redact import Redactor
from core.settings import Settings
from core.tables import Annotation, AnnotationItem, Customer, Feedback, Message, TrainingExample, new_id
from core.text import fold
from learning.dataset import Example

PER_PERSON = 20
LIKED = 0.75  # four stars, or a thumb up
REWARDS = {"correct": 1.0, "approve": 0.9, "liked": 0.7}


@dataclass(frozen=True)
class Candidate:
    """One answer that might be learned, as it stands in the tables."""

    message: Message
    question: str
    answer: str
    passages: list[str] | None
    history: list[tuple[str, str]]
    customer: Customer
    source: str
    reward: float


def curate(session: Session, context: str, run_id: uuid.UUID, settings: Settings) -> dict[str, int]:
    """Write the night's new examples; returns the funnel. Running it twice adds nothing."""
    funnel: Counter[str] = Counter()
    known = set(session.scalars(select(TrainingExample.sha256).where(TrainingExample.context == context)))
    folded: set[str] = set()
    per_person: Counter[uuid.UUID] = Counter()
    rows: list[dict[str, Any]] = []
    conversations: dict[uuid.UUID, str] = {}
    for candidate in [*_reviewed(session, context), *_liked(session, context)]:
        funnel["considered"] += 1
        example, reason = _examine(candidate, settings)
        if example is not None and reason is None:
            key = fold(example.messages[-1]["content"] + example.answer)
            if example.hash in known or key in folded:
                reason = "double"
            elif per_person[candidate.customer.id] >= PER_PERSON:
                reason = "enough of this person"
            known.add(example.hash)
            folded.add(key)
        if reason is not None:
            funnel[f"dropped: {reason}"] += 1
        else:
            per_person[candidate.customer.id] += 1
        conversations[candidate.message.id] = str(candidate.message.conversation_id)
        rows.append(_row(candidate, example, reason, run_id))
    learned = [row for row in rows if row["dropped"] is None]
    for row in _held_out(learned, conversations):
        row["split"] = "holdout"
    for row in rows:
        session.execute(insert(TrainingExample).values(**row).on_conflict_do_nothing())
    funnel["learned"] = sum(row["split"] == "train" for row in learned)
    funnel["held out"] = len(learned) - funnel["learned"]
    return dict(funnel)


def _reviewed(session: Session, context: str) -> Iterator[Candidate]:
    """Answers a reviewer corrected or approved and no night has considered yet."""
    rows = session.execute(
        select(AnnotationItem, Annotation, Message, Customer)
        .join(Annotation, Annotation.item_id == AnnotationItem.id)
        .join(Message, Message.id == AnnotationItem.message_id)
        .join(Customer, Customer.id == Message.customer_id)
        .where(
            AnnotationItem.context == context, Annotation.verdict.in_(("correct", "approve")),
            ~exists().where(TrainingExample.message_id == Message.id, TrainingExample.source == "annotation"),
        )
        .order_by(Annotation.created_at, Annotation.id)
    )  # fmt: skip
    for item, annotation, message, customer in rows:
        answer = annotation.corrected if annotation.verdict == "correct" else item.answer
        history = [(said, replied) for said, replied in item.history]
        yield Candidate(
            message, item.question, answer or "", item.passages, history, customer, "annotation",
            REWARDS[annotation.verdict],
        )  # fmt: skip


def _liked(session: Session, context: str) -> Iterator[Candidate]:
    """Answers somebody liked, nobody disliked, and no reviewer has judged."""
    disliked = exists().where(
        Feedback.message_id == Message.id, Feedback.superseded_at.is_(None), Feedback.polarity == "negative"
    )
    liked = exists().where(Feedback.message_id == Message.id, Feedback.superseded_at.is_(None), Feedback.value >= LIKED)
    judged = exists().where(and_(AnnotationItem.message_id == Message.id, Annotation.item_id == AnnotationItem.id))
    rows = session.execute(
        select(Message, Customer)
        .join(Customer, Customer.id == Message.customer_id)
        .where(
            Message.context == context, Message.direction == "out", Message.kind == "text", liked, ~disliked, ~judged,
            Message.deleted_at.is_(None), ~exists().where(TrainingExample.message_id == Message.id),
        )
        .order_by(Message.id)
    )  # fmt: skip
    for message, customer in rows:
        asked = session.get(Message, message.in_reply_to)
        if asked is None or asked.deleted_at is not None:
            continue
        history = [(said, replied) for said, replied in message.route.get("history", [])]
        yield Candidate(
            message, asked.text, message.text, message.route.get("passages"), history, customer, "feedback",
            REWARDS["liked"],
        )  # fmt: skip


def _examine(candidate: Candidate, settings: Settings) -> tuple[Example | None, str | None]:
    """The redacted example, or the reason why it is none."""
    if not candidate.message.consent or candidate.customer.consent == "denied" or candidate.customer.opted_out_at:
        return None, "no consent"
    if candidate.source == "feedback" and candidate.message.route.get("flags"):
        return None, "caught by a guard"
    if not candidate.question.strip() or not candidate.answer.strip():
        return None, "empty"
    redact = Redactor(
        names=[candidate.customer.name] if candidate.customer.name else [],
        keep=[settings.assistant_name, settings.business_name],
    )
    messages: list[ChatMessage] = chat_messages(
        language=_language(candidate.message.language),
        assistant=settings.assistant_name,
        business=settings.business_name,
        question=redact(candidate.question),
        passages=candidate.passages,
        history=[(redact(said), redact(replied)) for said, replied in candidate.history],
    )
    group = str(candidate.message.conversation_id)
    return Example(tuple(messages), redact(candidate.answer).strip(), candidate.reward, group), None


def _row(candidate: Candidate, example: Example | None, reason: str | None, run_id: uuid.UUID) -> dict[str, Any]:
    nothing = hashlib.sha256(f"dropped:{candidate.message.id}".encode()).hexdigest()
    kept = example is not None and reason is None
    return {
        "id": new_id(),
        "context": candidate.message.context,
        "sha256": example.hash if kept and example else nothing,
        "customer_id": candidate.customer.id,
        "message_id": candidate.message.id,
        "source": candidate.source,
        "messages": list(example.messages) if kept and example else [],
        "answer": example.answer if kept and example else "",
        "reward": candidate.reward,
        "topic": None,
        "language": candidate.message.language,
        "split": "train",
        "run_id": run_id,
        "dropped": reason,
    }


def _held_out(rows: Sequence[dict[str, Any]], conversations: Mapping[uuid.UUID, str]) -> list[dict[str, Any]]:
    """A fifth of the night's conversations, at least two rows of ten or more, drawn by a hash of the conversation.

    Whole conversations: two turns of one conversation, one of them trained on, would measure memory.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(conversations[row["message_id"]], []).append(row)
    order = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    wanted = len(rows) // 5 if len(rows) >= 10 else 0
    held: list[dict[str, Any]] = []
    for group in order:
        if len(held) >= wanted:
            break
        held += groups[group]
    return held


def to_example(row: TrainingExample) -> Example:
    """A stored example as the trainer reads it."""
    return Example(tuple(row.messages), row.answer, row.reward, str(row.message_id or row.sha256))


def _language(value: str | None) -> Language:
    return "en" if value == "en" else "pt"
