"""One chat turn, top to bottom.

    receive   who speaks, in which conversation; the message is saved
    recall    the last turns, and what was looked up
    route     which version answers
    generate  it, or the next in the chain
    guard     what may not be said
    save      reply, outbox, assignment and "handled", in one transaction
    (send)    bot/outbox.py

No model is called inside a transaction, and running a turn twice says nothing twice: the incoming message is
remembered on its ledger row, and a reply is unique per message it answers.
"""

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from bot import guardrails, handover, limits, media, outbox, people, signals
from bot.answers import NOT_ASKED, Generated, Turn, handled, save, version_of
from bot.lanes import Lease
from bot.recall import Recalled, embed, language_of, recall, recent_turns, search_text
from bot.router import Route, Served
from bot.slack.live import begin
from bot.wiring import Awake
from core import events
from core.db import transaction
from core.errors import NpllmError
from core.messages import InboundMessage
from core.prompts import Language, chat_messages
from core.tables import Conversation, InboundEvent, Message, new_id, now
from integrations.openai.model import Reply

log = logging.getLogger(__name__)

READABLE = frozenset({"text"})


def take_turn(
    awake: Awake, event_id: int, message: InboundMessage, lane: Lease,
    before: Sequence[tuple[int, InboundMessage]] = (),
) -> None:  # fmt: skip
    """Answer one message of the ledger; returns when the reply is in the outbox (or none is due).

    Args:
        before: what the same person wrote just before it, with their events: answered together.

    Raises:
        Unavailable: the ledger or every model is away; the event stays unhandled and is tried again.
        LeaseLost: somebody else has the lane now.
    """
    turns: list[tuple[int, Turn]] = []
    for one_id, said in (*before, (event_id, message)):
        turn = receive(awake, one_id, said, lane)
        if turn is None:
            continue
        if turn.fixed_reply is not None and turn.kind != "notice":
            _say(awake, one_id, turn, lane)
        else:
            turns.append((one_id, turn))
    if before:
        turns = _still_due(awake, turns, lane)
    if not turns:
        return
    event_id, turn = _one_turn(turns)
    if turn.fixed_reply is not None:
        _say(awake, event_id, turn, lane)
        return
    awake.show_typing(message)
    live = begin(awake, message, turn.message_id, turn.language)
    found = look_up(awake, turn)
    route = awake.router.route(turn.context, str(turn.customer_id), turn.audience)
    generated = generate(awake, turn, route, found, on_text=live or awake.web.writer(turn.message))
    if live is not None:
        generated = replace(generated, shown=live.state())
    names = [name] if (name := message.person.name) else []
    version = version_of(generated.served)
    awake.tracer.trace(turn.context, turn.message.text, found.passages, generated.text, version, names)
    save(awake, event_id, turn, lane, generated, route, found)


def _say(awake: Awake, event_id: int, turn: Turn, lane: Lease) -> None:
    """A sentence that no model is asked for."""
    assert turn.fixed_reply is not None
    save(awake, event_id, turn, lane, Generated(turn.fixed_reply, None, None, (), ()), None, Recalled(None))


def _still_due(awake: Awake, turns: list[tuple[int, Turn]], lane: Lease) -> list[tuple[int, Turn]]:
    """The turns that a later message of the same burst left standing: it may have been "PARAR"."""
    if not turns:
        return []
    with transaction(awake.engine) as session:
        lane.fence(session)
        customer = session.get_one(people.Customer, turns[0][1].customer_id)
        state = session.get_one(Conversation, turns[-1][1].conversation_id).state
        refusal = "opted out" if customer.opted_out_at is not None else "with a person" if state == "person" else None
        if refusal is not None:
            for event_id, _ in turns:
                handled(session.get_one(InboundEvent, event_id), refusal)
            return []
        ask = people.should_ask_consent(customer, turns[-1][1].message.channel)
    return [(event_id, replace(turn, ask_consent=turn.ask_consent and ask)) for event_id, turn in turns]


def _one_turn(turns: list[tuple[int, Turn]]) -> tuple[int, Turn]:
    """The last question leads and holds all their words; media without words get their sentence only if alone."""
    questions = [pair for pair in turns if pair[1].fixed_reply is None] or turns[-1:]
    event_id, leader = questions[-1]
    if len(turns) == 1:
        return event_id, leader
    said = "\n".join(turn.message.text for _, turn in questions)
    others = tuple(other for other, _ in turns if other != event_id)
    return event_id, replace(leader, message=replace(leader.message, text=said), together=others)


def receive(awake: Awake, event_id: int, message: InboundMessage, lane: Lease) -> Turn | None:
    """Save the message; None where nothing more is to be done: a repeat, an opt-out, talk that is not for us."""
    settings = awake.settings
    with transaction(awake.engine) as session:
        lane.fence(session)
        event = session.get_one(InboundEvent, event_id)
        if event.handled_at is not None:
            return None
        customer = people.identify(session, message.person, message.context)
        known = session.scalar(
            select(Message).where(
                Message.channel == message.channel, Message.provider_message_id == message.provider_message_id,
                Message.direction == "in",
            )
        )  # fmt: skip
        if known is not None and event.outcome != f"received:{known.id}":
            handled(event, "repeat")
            return None
        if message.address.get("ambient") and not _is_our_thread(session, lane.lane):
            handled(event, "not for us")
            return None
        conversation = people.conversation_of(
            session, message, customer, lane.lane, idle_hours=settings.conversation_idle_hours
        )
        language = language_of(message.text, _language(conversation.language or settings.language))
        conversation.language = customer.language = language
        if known is None:
            known = _save_incoming(session, message, event.received_at, conversation, customer, awake)
            event.outcome = f"received:{known.id}"
            signals.record_remark(session, message, lane.lane)
        turn = Turn(
            message=message,
            message_id=known.id,
            customer_id=customer.id,
            conversation_id=conversation.id,
            context=conversation.context,
            language=language,
            ask_consent=people.should_ask_consent(customer, message.channel),
            audience=people.audience_of(customer, message.channel),
        )
        word = people.opt_words(message.text)
        if word == "out":
            customer.opted_out_at = now()
            outbox.withdraw(session, customer.id)
            handled(event, "opted out")
            return None
        if word == "in" and (customer.opted_out_at is not None or message.kind == "opt_in"):
            customer.opted_out_at = None
            handled(event, "opted in")
            return None
        if word == "no_training":
            people.set_consent(session, customer.id, False)
            _forbid_training(session, customer.id)
        if customer.opted_out_at is not None:
            handled(event, "opted out")
            return None
        if word == "no_training":
            return replace(turn, fixed_reply=people.NO_CONSENT[language], kind="consent", ask_consent=False)
        consent = people.consent_answer(customer, message.text)
        if consent is not None:
            people.set_consent(session, customer.id, consent)
            if consent:
                _permit_training(session, conversation.id)
            texts = people.THANKS_FOR_CONSENT if consent else people.NO_CONSENT
            return replace(turn, fixed_reply=texts[language], kind="consent", ask_consent=False)
        if conversation.state == "person":
            if handover.wants_bot(message.text):
                return replace(turn, fixed_reply=handover.BACK[language], kind="back", ask_consent=False)
            handled(event, "with a person")
            return None
        if handover.wants_person(message.text) or handover.takes_offer(session, conversation, message.text):
            text = handover.sentence(settings, language)
            return replace(turn, fixed_reply=text, kind="handover", ask_consent=False)
        if not message.text:
            if message.kind in READABLE:
                handled(event, "blank")
                return None
            return replace(turn, fixed_reply=guardrails.CANNOT_READ[language], kind="notice", ask_consent=False)
        return turn


def look_up(awake: Awake, turn: Turn) -> Recalled:
    """History and passages for this turn; the vector is asked for between two short transactions."""
    with transaction(awake.engine) as session:
        history = recent_turns(session, turn.conversation_id, awake.settings.history_turns)
    vector = embed(awake.embeddings, search_text(turn.message.text, history))
    with transaction(awake.engine) as session:
        return recall(
            session,
            context=turn.context,
            question=turn.message.text,
            history=history,
            language=turn.language,
            vector=vector,
            model=awake.embeddings.name,
            limit=awake.settings.retrieval_passages,
        )


def generate(
    awake: Awake, turn: Turn, route: Route, found: Recalled, on_text: Callable[[str], None] | None = None
) -> Generated:
    """The first answer that the chain gives: the routed version, the champion, the frozen base, then
    FALLBACK_MODELS. If all fail, an apology: the customer is never left without a word."""
    settings = awake.settings
    messages = chat_messages(
        language=turn.language,
        assistant=settings.assistant_name,
        business=settings.business_name,
        question=turn.message.text,
        passages=found.passages,
        history=found.history,
    )
    sources = [message["content"] for message in messages]
    failures: list[str] = []
    deadline = time.monotonic() + settings.reply_timeout
    stream = guardrails.StreamGuard(sources, on_text) if on_text else None

    def ask(name: str, call: Callable[..., Reply]) -> Reply | None:
        left = deadline - time.monotonic()
        if left <= 0:
            failures.append(f"{name}: {NOT_ASKED}")
            return None
        try:
            return call(messages, max_tokens=settings.reply_max_tokens, timeout=left, on_text=stream)
        except NpllmError as error:
            failures.append(f"{name}: {error.message}")
            log.warning("No answer from %s: %s", name, error)
            return None

    for served in (route.version, *route.fallbacks):
        if reply := ask(served.name or "base", partial(awake.models.reply, served)):
            guarded = guardrails.guard(reply.text, language=turn.language, sources=sources)
            return Generated(guarded.text, served, reply, guarded.flags, tuple(failures))
    for server, model in awake.models.outside:
        if reply := ask(model, partial(server.reply, model=model)):
            guarded = guardrails.guard(reply.text, language=turn.language, sources=sources)
            return Generated(guarded.text, Served(None, model), reply, guarded.flags, tuple(failures))
    return Generated(guardrails.TROUBLE[turn.language], None, None, ("no_model",), tuple(failures))


def _save_incoming(
    session: Session, message: InboundMessage, received_at: datetime, conversation: Conversation,
    writer: people.Customer, awake: Awake,
) -> Message:  # fmt: skip
    """Under its writer: a Slack thread is the conversation of whoever began it, and others speak there too."""
    saved = Message(
        id=new_id(),
        conversation_id=conversation.id,
        customer_id=writer.id,
        context=conversation.context,
        channel=message.channel,
        direction="in",
        role="customer",
        kind=message.kind,
        text=message.text,
        provider_message_id=message.provider_message_id,
        sent_at=limits.written_at(message.sent_at, received_at),
        edited_at=message.edited_at,
        language=conversation.language,
        consent=people.may_learn_from(writer, message.channel, slack_learning=awake.settings.slack_learning),
    )
    session.add(saved)
    session.flush()
    media.remember(session, awake.settings, saved, message)
    events.record(
        session,
        "interaction.received",
        context=conversation.context,
        channel=message.channel,
        conversation=conversation.id,
        message=str(saved.id),
        provider_message_id=message.provider_message_id,
        kind=message.kind,
    )
    return saved


def _permit_training(session: Session, conversation_id: uuid.UUID) -> None:
    """A yes to the question counts for the conversation it was asked in."""
    session.execute(update(Message).where(Message.conversation_id == conversation_id).values(consent=True))


def _forbid_training(session: Session, customer_id: uuid.UUID) -> None:
    session.execute(update(Message).where(Message.customer_id == customer_id).values(consent=False))


def _is_our_thread(session: Session, lane: str) -> bool:
    return session.scalar(select(Conversation.id).where(Conversation.lane == lane).limit(1)) is not None


def _language(value: str | None) -> Language:
    return "en" if value == "en" else "pt"
