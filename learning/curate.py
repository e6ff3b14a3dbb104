"""From what people said of answers to what a night may learn.

    reviewers' corrections and approvals, then answers people liked
    -> consent -> nothing deleted or caught by a guard -> redact -> not too long -> no doubles, exact or near
    -> no suspects
    -> topics -> shares (a person's, a topic's, the night's) -> train / hold-out

Every answer that was considered leaves a row: one that is not learned keeps its reason in `dropped`, without the text
where we may not have it or it comes again. The counts are the night's funnel. Two kinds of dropped rows go on living:

    waiting      over a share: considered again by the next night
    quarantine   unlike everything else, or made to be learned: the annotation queue shows it to a reviewer
"""

import hashlib
import re
import uuid
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import and_, delete, exists, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.prompts import ChatMessage, Language, chat_messages, question_in
from core.redact import Redactor
from core.settings import Settings
from core.tables import Annotation, AnnotationItem, Conversation, Customer, Feedback, Message, TrainingExample, new_id
from core.text import fold, words
from learning import suspects
from learning.dataset import Example
from learning.shares import person_cap, topic_cap
from learning.taken_back import LIKED, take_back
from learning.topics import embed, find_topics, letters

REWARDS = {"correct": 1.0, "approve": 0.9, "liked": 0.7}
NEAR = 0.94  # cosine of letter counts from which two texts with the same figures are one
REMEMBERED = 2_000  # of a context's newest examples that new ones are compared with
WAITING = ("enough of this person", "enough of this topic", "the night is full", "with a person")
QUARANTINE = "quarantine: "  # begins the reason; bot/review shows these to a reviewer


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


@dataclass
class Considered:
    """A candidate on its way through the funnel; `reason` says where it fell out."""

    candidate: Candidate
    example: Example | None = None
    reason: str | None = None
    topic: str | None = None

    @property
    def question(self) -> str:
        """Redacted, without the passages beside it."""
        return question_in(self.example.messages[-1]["content"]) if self.example else ""

    @property
    def reviewed(self) -> bool:
        return self.candidate.source == "annotation"

    @property
    def corrected(self) -> bool:
        return self.reviewed and self.candidate.reward == REWARDS["correct"]


def curate(
    session: Session,
    context: str,
    run_id: uuid.UUID,
    settings: Settings,
    *,
    seed: int = 0,
    limit: int | None = None,
    fits: Callable[[Example], bool] = lambda example: True,
) -> dict[str, int]:
    """Write the night's new examples; returns the funnel. Running it twice adds nothing.

    Args:
        limit: most new examples (SLEEP_MAX_EXAMPLES); the best rewarded come first.
        fits: whether the base can be trained on an example; one that is too long is dropped.
    """
    session.execute(
        delete(TrainingExample).where(TrainingExample.context == context, TrainingExample.dropped.in_(WAITING))
    )
    funnel: Counter[str] = Counter(take_back(session, context))
    considered = [Considered(found) for found in [*_reviewed(session, context), *_liked(session, context)]]
    for one in considered:
        _examine(session, one, settings)
        if one.example is not None and not fits(one.example):
            one.example, one.reason = None, "too long"
    _drop_doubles(session, context, considered)
    _quarantine_suspects(considered)
    _sort_into_topics(considered, settings, seed)
    _keep_to_shares(considered, settings.sleep_max_examples if limit is None else limit)
    rows = [_row(one, run_id) for one in considered]
    learned = [row for row in rows if row["dropped"] is None]
    conversations = {one.candidate.message.id: str(one.candidate.message.conversation_id) for one in considered}
    for row in _held_out(learned, conversations):
        row["split"] = "holdout"
    for row in rows:
        session.execute(insert(TrainingExample).values(**row).on_conflict_do_nothing())
    funnel["considered"] = len(considered)
    for one in considered:
        if one.reason is not None:
            funnel[f"dropped: {one.reason}"] += 1
    funnel["learned"] = sum(row["split"] == "train" for row in learned)
    funnel["held out"] = len(learned) - funnel["learned"]
    return {name: count for name, count in funnel.items() if count or name in ("learned", "held out")}


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


def _examine(session: Session, one: Considered, settings: Settings) -> None:
    """Give the candidate its redacted example, or the reason why it gets none."""
    candidate = one.candidate
    if not candidate.message.consent or candidate.customer.consent == "denied" or candidate.customer.opted_out_at:
        one.reason = "no consent"
    elif _deleted(session, candidate.message):
        one.reason = "deleted"
    elif candidate.source == "feedback" and candidate.message.route.get("flags"):
        one.reason = "caught by a guard"
    elif not candidate.question.strip() or not candidate.answer.strip():
        one.reason = "empty"
    elif session.get_one(Conversation, candidate.message.conversation_id).state == "person":
        one.reason = "with a person"
    else:
        one.example = _example(candidate, settings)


def _deleted(session: Session, answer: Message) -> bool:
    """Whether its author took the question or the answer away, after a reviewer saw it even."""
    asked = session.get(Message, answer.in_reply_to) if answer.in_reply_to else None
    return answer.deleted_at is not None or (asked is not None and asked.deleted_at is not None)


def _example(candidate: Candidate, settings: Settings) -> Example:
    """What the model read and should have said, normalised and redacted."""
    redact = Redactor.of(settings, candidate.customer.name)
    messages: list[ChatMessage] = chat_messages(
        language=_language(candidate.message.language),
        assistant=settings.assistant_name,
        business=settings.business_name,
        question=redact(candidate.question),
        passages=candidate.passages,
        history=[(redact(said), redact(replied)) for said, replied in candidate.history],
    )
    group = str(candidate.message.conversation_id)
    return Example(tuple(messages), redact(candidate.answer).strip(), candidate.reward, group)


def _left(considered: Sequence[Considered]) -> list[Considered]:
    return [one for one in considered if one.reason is None]


def _drop_doubles(session: Session, context: str, considered: Sequence[Considered]) -> None:
    """The same words, or nearly the same with the same figures, tonight or among what was learned before.

    Figures are compared apart: "custa 10 reais" and "custa 19 reais" share almost all letters and say two things. So do
    "sim, entregamos" and "não entregamos" in a long answer: what a reviewer wrote is a double of the same words alone.
    """
    earlier = session.execute(
        select(TrainingExample.sha256, TrainingExample.messages, TrainingExample.answer)
        .where(
            TrainingExample.context == context, TrainingExample.dropped.is_(None), TrainingExample.source != "starter"
        )
        .order_by(TrainingExample.created_at.desc())
        .limit(REMEMBERED)
    ).all()  # fmt: skip
    hashes = {row.sha256 for row in earlier}
    texts = [_both(question_in(str(row.messages[-1]["content"])), row.answer) for row in earlier if row.messages]
    exact = {fold(text) for text in texts}
    for one in _left(considered):
        assert one.example is not None
        text = _both(one.question, one.example.answer)
        if one.example.hash in hashes or fold(text) in exact:
            one.reason = "double"
        hashes.add(one.example.hash)
        exact.add(fold(text))
    left = _left(considered)
    if not left:
        return
    new = [_both(one.question, one.example.answer) for one in left if one.example]
    everything = [*texts, *new]
    vectors, figures = letters(everything, size=4096), [_figures(text) for text in everything]
    fallen: set[int] = set()
    for one, (i, like) in zip(left, _near(vectors, len(texts)), strict=True):
        same = (everything[j] for j in like if j not in fallen and figures[j] == figures[i])
        if any(not one.corrected or words(text) == words(everything[i]) for text in same):
            one.reason = "nearly a double"
            fallen.add(i)


def _near(vectors: NDArray[np.float64], first: int) -> Iterator[tuple[int, list[int]]]:
    """From the vector `first` on, each one's place and those before it that are near to it."""
    block = 256  # one product for so many: one for each would read all of them each time
    for start in range(first, len(vectors), block):
        for i, likeness in enumerate(vectors[start : start + block] @ vectors.T, start):
            yield i, np.flatnonzero(likeness[:i] >= NEAR).tolist()


def _both(question: str, answer: str) -> str:
    return f"{question}\n{answer}"


def _figures(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+", text))


def _quarantine_suspects(considered: Sequence[Considered]) -> None:
    """Only what no reviewer has looked at."""
    left = _left(considered)
    phrases = suspects.own_phrases([one.candidate.customer.id for one in left], [one.question for one in left])
    for one, phrase in zip(left, phrases, strict=True):
        assert one.example is not None
        if one.reviewed:
            continue
        # Not the conversation: who wants an address learned would only have to say it first.
        sources = [one.example.messages[0]["content"], *(one.candidate.passages or [])]
        if suspects.gives_orders(one.question, one.example.answer):
            one.reason = f"{QUARANTINE}speaks to the model"
        elif suspects.new_links(one.example.answer, sources):
            one.reason = f"{QUARANTINE}an address from nowhere"
        elif phrase is not None:
            one.reason = f"{QUARANTINE}one person's phrase"


def _sort_into_topics(considered: Sequence[Considered], settings: Settings, seed: int) -> None:
    left = _left(considered)
    if not left:
        return
    questions = [one.question for one in left]
    topics = find_topics(questions, embed(questions, settings)[0], seed=seed)
    for one, topic, outlier in zip(left, topics.labels, topics.outlier, strict=True):
        one.topic = topic
        if outlier and not one.reviewed:
            one.reason = f"{QUARANTINE}unlike everything else"


def _keep_to_shares(considered: Sequence[Considered], limit: int) -> None:
    """Reviewed ones first, the best rewarded first; what is over a share waits."""
    left = sorted(_left(considered), key=lambda one: -one.candidate.reward)
    night, reasons = limit, _over_shares(left, limit, limit)
    # A person's share is of the night that is left in the end, which topics and its limit make smaller.
    while (kept := reasons.count(None)) < night:
        night, reasons = kept, _over_shares(left, limit, kept)
    for one, reason in zip(left, reasons, strict=True):
        one.reason = reason


def _over_shares(left: Sequence[Considered], limit: int, night: int) -> list[str | None]:
    """Why each waits, None where it does not; a person's share is of at most `night` examples."""
    of_person: Counter[Hashable] = Counter(one.candidate.customer.id for one in left)
    most_of_topic = topic_cap([one.topic or "" for one in left])
    most = {reviewed: person_cap(of_person, reviewed=reviewed, night=night) for reviewed in (True, False)}
    persons: Counter[Hashable] = Counter()
    topics: Counter[str] = Counter()
    reasons: list[str | None] = []
    for one in left:
        person, topic = one.candidate.customer.id, one.topic or ""
        reason = None
        if persons[person] >= most[one.reviewed]:
            reason = "enough of this person"
        elif topics[topic] >= most_of_topic:
            reason = "enough of this topic"
        elif sum(persons.values()) >= limit:
            reason = "the night is full"
        else:
            persons[person] += 1
            topics[topic] += 1
        reasons.append(reason)
    return reasons


def _row(one: Considered, run_id: uuid.UUID) -> dict[str, Any]:
    candidate, example = one.candidate, one.example
    nothing = hashlib.sha256(f"dropped:{candidate.message.id}".encode()).hexdigest()
    # A quarantined example keeps its (redacted) words for the person who looks; the hash stays free for its approval.
    kept = example if one.reason is None or one.reason.startswith(QUARANTINE) else None
    return {
        "id": new_id(),
        "context": candidate.message.context,
        "sha256": example.hash if example and one.reason is None else nothing,
        "customer_id": candidate.customer.id,
        "message_id": candidate.message.id,
        "source": candidate.source,
        "messages": list(kept.messages) if kept else [],
        "answer": kept.answer if kept else "",
        "reward": candidate.reward,
        "topic": one.topic,
        "language": candidate.message.language,
        "split": "train",
        "run_id": run_id,
        "dropped": one.reason,
    }


def _held_out(rows: Sequence[dict[str, Any]], conversations: Mapping[uuid.UUID, str]) -> list[dict[str, Any]]:
    """A fifth of the night, at least two rows of ten or more: conversations drawn by their hash.

    Whole ones: two turns of one conversation, one of them trained on, would measure memory. Only a conversation that is
    larger than the fifth, where smaller ones do not fill it, gives its last turns and no more: one person who tries the
    bot out in one long talk would hold out all that there is to learn.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(conversations[row["message_id"]], []).append(row)
    wanted = len(rows) // 5 if len(rows) >= 10 else 0
    drawn = sorted(groups, key=lambda group: (len(groups[group]) > wanted, hashlib.sha256(group.encode()).hexdigest()))
    held: list[dict[str, Any]] = []
    for group in drawn:
        if (missing := wanted - len(held)) <= 0:
            break
        turns = sorted(groups[group], key=lambda row: row["message_id"])
        held += turns if len(turns) <= wanted else turns[-missing:]
    return held


def to_example(row: TrainingExample) -> Example:
    """A stored example as the trainer reads it."""
    return Example(tuple(row.messages), row.answer, row.reward, str(row.message_id or row.sha256))


def _language(value: str | None) -> Language:
    return "en" if value == "en" else "pt"
