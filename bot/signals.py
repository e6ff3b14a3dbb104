"""What people do with an answer: reactions, buttons, stars, words, comments.

`feedback` is append-only; per person and answer one row is current. A reaction to a message whose id is not known
yet is kept as an orphan and resolved when it is.
"""

import uuid
from datetime import timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from bot import media, people, units
from core import events
from core.messages import InboundEdit, InboundMessage, InboundSignal
from core.reactions import Rating, emoji_rating, slack_rating, stars_rating, text_rating, word_rating
from core.tables import (
    AnnotationItem,
    Conversation,
    Customer,
    Feedback,
    Message,
    OutboxItem,
    TrainingExample,
    now,
)

UNQUOTED_MINUTES = 30  # how long after an answer a bare emoji is taken to mean it
UNQUOTED_CONFIDENCE = 0.6
ORPHAN_HOURS = 24
MAX_COMMENT = 2000


def record_signal(session: Session, signal: InboundSignal, lane: str, *, saved: bool = False) -> Feedback | None:
    """Store one signal, make it the current vote, and let it vote in a running rollout.

    Args:
        saved: its words are a message of the conversation already: the team sees them.

    Returns the row; None where there is nothing it can be about, or where it is meant for a person of the team.
    """
    context = "employees" if signal.channel == "slack" else "customers"
    customer = people.identify(session, signal.person, context)
    if signal.target:
        lock_target(session, signal.channel, signal.target)
    answer = _answer_of(session, signal, customer, lane)
    talk = _talk_with_the_team(session, signal, answer, lane)
    if talk is not None:
        if not saved:
            _tell_the_team(session, signal, talk)
        return None
    rating = _rating(signal)
    feedback = Feedback(
        message_id=answer.id if answer else None,
        customer_id=customer.id,
        channel=signal.channel,
        target=signal.target,
        signal=signal.signal,
        op=signal.op,
        raw=signal.raw[:200],
        polarity=rating.polarity,
        value=rating.value,
        comment=signal.comment,
        confidence=1.0 if signal.target or signal.answer_id else UNQUOTED_CONFIDENCE,
        given_at=signal.given_at or now(),
    )
    if answer is None:
        if signal.target is None:
            return None  # a bare emoji with no recent answer says nothing about any
        session.add(feedback)  # an orphan: our message's id may be stored a moment later
        session.flush()
        return feedback
    _make_current(session, feedback)
    _announce(session, feedback, answer)
    return feedback


def _talk_with_the_team(
    session: Session, signal: InboundSignal, answer: Message | None, lane: str
) -> Conversation | None:
    """The conversation, where a thumb or stars go to a person of the team: they say nothing about the bot."""
    if answer is not None and answer.role == "person":
        return session.get_one(Conversation, answer.conversation_id)
    if signal.target or signal.answer_id:
        return None
    theirs = select(Conversation).where(Conversation.lane == lane.removeprefix("signals/"))
    latest = session.scalar(theirs.order_by(Conversation.last_message_at.desc()).limit(1))
    return latest if latest is not None and latest.state == "person" else None


def _tell_the_team(session: Session, signal: InboundSignal, talk: Conversation) -> None:
    if signal.raw:  # else a reaction was taken back
        session.add(
            Message(
                conversation_id=talk.id, customer_id=talk.customer_id, context=talk.context, channel=signal.channel,
                direction="in", role="customer", text=signal.raw, language=talk.language, consent=False,
            )
        )  # fmt: skip


def record_remark(session: Session, message: InboundMessage, lane: str) -> None:
    """A message that is answered as any other, and says something about an answer too.

    Words that reply to an answer which the person disliked are their comment on it. A rating word without a quote
    ("errado") is probably about the last answer; a rating that was given on purpose stands before it. On the website,
    where somebody waits for an answer and the thumbs are buttons, so is a typed emoji.
    """
    person, channel = message.person, message.channel
    if message.quoted is None:
        rating = word_rating(message.text) or (text_rating(message.text) if channel == "web" else None)
        if rating is not None and rating.value is not None and rating.signal != "flag":
            word = InboundSignal(channel, person, "keyword", "replace", message.text)
            record_signal(session, word, lane, saved=True)
    elif _disliked(session, message):
        comment = InboundSignal(
            channel, person, "comment", "add", "", target=message.quoted, comment=message.text[:MAX_COMMENT]
        )
        record_signal(session, comment, lane, saved=True)


def _disliked(session: Session, message: InboundMessage) -> bool:
    answer = _by_provider_id(session, message.channel, str(message.quoted))
    customer = people.known(session, message.person)
    if answer is None or customer is None:
        return False
    vote = select(Feedback.polarity).where(
        Feedback.message_id == answer.id, Feedback.customer_id == customer.id, Feedback.superseded_at.is_(None)
    )
    return session.scalar(vote) == "negative"


def lock_target(session: Session, channel: str, target: str) -> None:
    """Who stores a reaction and who stores that its message was sent take turns, so that neither misses the other."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{channel}:{target}", 0))))


def resolve_orphans(session: Session, channel: str, target: str) -> int:
    """Give orphans their answer once its provider id is known; returns how many."""
    orphans = session.scalars(
        select(Feedback)
        .where(
            Feedback.message_id.is_(None), Feedback.channel == channel, Feedback.target == target,
            Feedback.created_at > now() - timedelta(hours=ORPHAN_HOURS),
        )
        .order_by(Feedback.given_at, Feedback.id)
    ).all()  # fmt: skip
    answer = _by_provider_id(session, channel, target)
    if answer is None:
        return 0
    for orphan in orphans:
        # Superseded until it is known to be the current one: two current rows are refused, even for a moment.
        orphan.message_id, orphan.superseded_at = answer.id, now()
        session.flush()
        _make_current(session, orphan)
        _announce(session, orphan, answer)
    return len(orphans)


def record_edit(session: Session, edit: InboundEdit) -> bool:
    """The person changed or took back a message: the revision is kept, nothing is answered again.

    Returns False for a change of what was taken back: there it changes nothing any more.
    """
    message = session.scalar(
        select(Message).where(
            Message.channel == edit.channel, Message.provider_message_id == edit.provider_message_id,
            Message.direction == "in",
        )
    )  # fmt: skip
    if message is None:
        return True
    before, at = message.text, edit.at or now()
    if edit.text is not None and message.deleted_at is not None:
        return False
    if edit.text is not None and message.edited_at is not None and at < message.edited_at:
        return True  # a later change came before this one
    if edit.text is None:
        message.deleted_at, message.text, message.consent = now(), "", False
        media.forget(session, message)
        _forget_comment(session, message, before)
    else:
        message.edited_at, message.text = at, edit.text
    leader = _revise_burst(session, message, before)
    if edit.text is None:
        _forget_quotes(session, message, leader)
    return True


def _forget_comment(session: Session, message: Message, words: str) -> None:
    """The words may also stand under an answer, as what the person did not like about it."""
    if words:
        theirs = update(Feedback).where(Feedback.customer_id == message.customer_id)
        session.execute(theirs.where(Feedback.comment == words[:MAX_COMMENT]).values(comment=None))


def _forget_quotes(session: Session, message: Message, leader: Message | None) -> None:
    """What was made of the words: review items and examples of their answer; and later answers remember them as said
    before, with what was made of those."""
    asked = [message.id, *([leader.id] if leader else [])]
    replies = {reply.id: reply.text for reply in session.scalars(select(Message).where(Message.in_reply_to.in_(asked)))}
    session.execute(delete(AnnotationItem).where(AnnotationItem.message_id.in_(replies)))
    later = select(Message).where(
        Message.conversation_id == message.conversation_id, Message.direction == "out", Message.id > message.id
    )
    quoting = set(replies)
    for answer in session.scalars(later):
        history = answer.route.get("history", [])
        kept = [pair for pair in history if pair[1] not in replies.values()]
        if kept != history:
            answer.route = {**answer.route, "history": kept}
            quoting.add(answer.id)
    session.execute(update(AnnotationItem).where(AnnotationItem.message_id.in_(quoting)).values(history=[]))
    learned = update(TrainingExample).where(TrainingExample.message_id.in_(quoting))
    session.execute(learned.values(dropped="deleted", messages=[], answer=""))


def _revise_burst(session: Session, message: Message, before: str) -> Message | None:
    """Where it was answered together with later messages, the last of them holds its words too; returns that one."""
    later = select(Message).where(
        Message.conversation_id == message.conversation_id, Message.direction == "in", Message.id > message.id,
        Message.created_at < message.created_at + timedelta(minutes=5),
        Message.text.contains(f"{before}\n", autoescape=True),
    )  # fmt: skip
    leader = session.scalar(later.order_by(Message.id).limit(1)) if before else None
    if leader is not None:
        leader.text = leader.text.replace(f"{before}\n", f"{message.text}\n" if message.text else "", 1)
    return leader


def _rating(signal: InboundSignal) -> Rating:
    if signal.op == "remove":
        return Rating("neutral", None, signal.signal)
    if signal.channel == "slack" and signal.signal == "reaction" and not signal.answer_id:
        return text_rating(signal.raw) or slack_rating(signal.raw)
    if signal.signal == "stars":
        digits = "".join(c for c in signal.raw if c.isdigit())
        return text_rating(signal.raw) or stars_rating(int(digits[:1] or 3))
    if signal.signal == "flag":
        return Rating("negative", 0.0, "flag")
    return text_rating(signal.raw) or word_rating(signal.raw) or emoji_rating(signal.raw)


def _answer_of(session: Session, signal: InboundSignal, customer: Customer, lane: str) -> Message | None:
    """The answer a signal is about: by our id on a button, by the vendor's id of any part, else the last one."""
    if signal.answer_id:
        try:
            message = session.get(Message, uuid.UUID(signal.answer_id))
        except ValueError:
            return None
        return message if message is not None and message.direction == "out" else None
    if signal.target:
        return _by_provider_id(session, signal.channel, signal.target)
    recent = now() - timedelta(minutes=UNQUOTED_MINUTES)
    conversation = select(Conversation.id).where(Conversation.lane == lane.removeprefix("signals/"))
    return session.scalar(
        select(Message)
        .where(
            Message.conversation_id.in_(conversation), Message.direction == "out", Message.kind == "text",
            Message.created_at > recent, Message.customer_id == customer.id,
        )
        .order_by(Message.id.desc())
        .limit(1)
    )  # fmt: skip


def _by_provider_id(session: Session, channel: str, provider_id: str) -> Message | None:
    row = session.scalar(
        select(OutboxItem).where(OutboxItem.channel == channel, OutboxItem.provider_message_id == provider_id)
    )
    return session.get(Message, row.message_id) if row else None


def _make_current(session: Session, feedback: Feedback) -> None:
    """One current vote per person and answer. An older signal that arrives late does not replace a newer one."""
    current = session.scalar(
        select(Feedback)
        .where(
            Feedback.message_id == feedback.message_id, Feedback.customer_id == feedback.customer_id,
            Feedback.superseded_at.is_(None), Feedback.id != feedback.id,
        )
        .with_for_update()
    )  # fmt: skip
    if current is None:
        feedback.superseded_at = None
        session.add(feedback)
        session.flush()
        return
    if feedback.signal == "comment":
        current.comment = feedback.comment  # words to the vote that stands, not another vote
        feedback.superseded_at = now()
        session.add(feedback)
        session.flush()
        return
    stale = feedback.given_at < current.given_at or _is_a_guess_beside(feedback, current)
    if stale or _leaves_standing(feedback, current):
        feedback.superseded_at = now()
        session.add(feedback)
        session.flush()
        return
    if feedback.channel == "slack" and feedback.op == "remove" and (left := _still_given(session, feedback)):
        feedback.superseded_at = current.superseded_at = now()
        session.add(feedback)
        session.flush()
        left.superseded_at = None
        session.flush()
        return
    if feedback.op == "add" and current.value is not None:
        feedback.op = "replace"
    session.execute(update(Feedback).where(Feedback.id == current.id).values(superseded_at=now()))
    feedback.superseded_at = None
    session.add(feedback)
    session.flush()


def _leaves_standing(feedback: Feedback, current: Feedback) -> bool:
    """What is taken back takes no other rating with it; and on Slack, where one person gives several reactions, one
    that says nothing (👀) stands beside a rating, not in its place. Only the website names no rating to take back:
    there it is the one that stands."""
    if feedback.op == "remove" and feedback.channel == "web":
        return False
    if feedback.op == "remove":
        return current.signal != feedback.signal or (bool(feedback.raw) and current.raw != feedback.raw)
    says_nothing = feedback.signal == "reaction" and feedback.value is None
    return feedback.channel == "slack" and says_nothing and current.value is not None


def _still_given(session: Session, removed: Feedback) -> Feedback | None:
    """What the person gave this answer on Slack before, and did not take back: the latest rating of it."""
    earlier = select(Feedback).where(
        Feedback.message_id == removed.message_id, Feedback.customer_id == removed.customer_id,
        Feedback.id != removed.id, Feedback.signal != "comment",
    )  # fmt: skip
    given: dict[tuple[str | None, ...], Feedback] = {}
    for row in (*session.scalars(earlier.order_by(Feedback.given_at, Feedback.id)), removed):
        what = (row.target, row.raw) if row.signal == "reaction" else (row.signal,)
        given.pop(what, None)
        if row.op != "remove" and row.value is not None:
            given[what] = row
    return next(reversed(given.values()), None)


def _is_a_guess_beside(feedback: Feedback, current: Feedback) -> bool:
    """A word that only may be about this answer does not replace a rating that certainly is."""
    return feedback.signal == "keyword" and feedback.confidence < current.confidence and current.value is not None


def _announce(session: Session, feedback: Feedback, answer: Message) -> None:
    events.record(
        session,
        "feedback.recorded",
        context=answer.context,
        channel=feedback.channel,
        conversation=answer.conversation_id,
        message=str(answer.id),
        provider_message_id=feedback.target or answer.provider_message_id,
        polarity=feedback.polarity,
        op=feedback.op,
        signal=feedback.signal,
        raw=feedback.raw,
        version=answer.version,
        flood=units.is_flood(session, feedback.customer_id),
    )
    if feedback.superseded_at is None and feedback.value is not None:
        units.count_vote(session, answer, feedback.customer_id, feedback.value)
