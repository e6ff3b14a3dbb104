"""An answer and all that goes with it, in one transaction: the message, its outbox rows, the unit it is evidence for,
and the ledger's "handled".

Every turn comes through here, so it is three statements and not a dozen: one that reads and locks, one that counts,
one that writes.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, bindparam, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from bot import guardrails, handover, people, units
from bot.lanes import Lease
from bot.recall import Recalled
from bot.router import BASE, Route, Served
from bot.wiring import Awake
from core import events
from core.db import transaction
from core.messages import InboundMessage, Verdict, feedback_button
from core.plans import Audience
from core.prompts import Language
from core.tables import Base, Conversation, Customer, InboundEvent, Lane, Message, OutboxItem, new_id, now
from core.text import length, split_text
from integrations.openai.model import Reply

NOT_ASKED = "not asked"  # why a version gave no answer: those before it had taken all the time
ANSWERED = (
    "id", "conversation_id", "customer_id", "context", "channel", "direction", "role", "kind", "text", "in_reply_to",
    "language", "created_at", "consent", "version", "adapter_version_id", "rollout_id", "arm",
    "assignment_probability", "memories", "route", "latency_ms", "first_token_ms", "prompt_tokens",
    "completion_tokens", "cost_usd",
)  # fmt: skip
PART = (
    "id", "message_id", "conversation_id", "in_reply_to", "kind", "part", "parts", "channel", "lane", "payload"
)  # fmt: skip


def _bound(table: type[Base], columns: tuple[str, ...]) -> dict[str, Any]:
    """Every column's parameter, named after both."""
    name, types = table.__tablename__, table.__table__.c
    return {column: bindparam(f"{name}_{column}", type_=types[column].type) for column in columns}


def _values(table: type[Base], row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{table.__tablename__}_{column}": value for column, value in row.items()}


# Built once: building a statement takes longer than running it. Columns, not rows of the mapper: those take longer too.
_STANDING = (
    select(
        InboundEvent.handled_at, Conversation.context, Conversation.channel, Conversation.address, Conversation.lane,
        Conversation.state, Message.customer_id, Message.consent, Customer.opted_out_at, units.LEFT.label("left"),
    )
    .select_from(Lane)
    .join(InboundEvent, InboundEvent.id == bindparam("event"))
    .join(Conversation, Conversation.id == bindparam("conversation"))
    .join(Message, Message.id == bindparam("asked"))
    .join(Customer, Customer.id == Message.customer_id)
    .where(Lane.lane == bindparam("lane"), Lane.holder == bindparam("holder"))
    .with_for_update(of=Lane)  # the fence
)  # fmt: skip
_FIRST_PART = (
    insert(OutboxItem)
    .values(_bound(OutboxItem, PART))
    .on_conflict_do_nothing()
    .add_cte(
        insert(Message).values(_bound(Message, ANSWERED)).cte("answer"),
        update(InboundEvent)
        .where(InboundEvent.id == bindparam("event"))
        .values(handled_at=bindparam("handled"), outcome=bindparam("outcome"), error=None)
        .cte("done"),
    )
)
_OTHER_PARTS = insert(OutboxItem).values(_bound(OutboxItem, PART)).on_conflict_do_nothing()


@dataclass(frozen=True)
class Turn:
    """What one incoming message leads to; ids only, so that nothing is held over the model call."""

    message: InboundMessage
    message_id: uuid.UUID
    customer_id: uuid.UUID
    conversation_id: uuid.UUID
    context: str
    language: Language
    ask_consent: bool
    audience: Audience = "all"
    fixed_reply: str | None = None
    kind: str = "text"
    together: tuple[int, ...] = ()  # events of earlier messages that this turn answers too


@dataclass(frozen=True)
class Generated:
    """A guarded reply and who gave it."""

    text: str
    served: Served | None
    reply: Reply | None
    flags: tuple[str, ...]
    failures: tuple[str, ...]
    shown: dict[str, Any] = field(default_factory=dict)  # what the channel showed of it already, for the outbox


def save(
    awake: Awake,
    event_id: int,
    turn: Turn,
    lane: Lease,
    generated: Generated,
    route: Route | None,
    found: Recalled,
) -> None:
    """Reply, outbox rows, assignment and the ledger's "handled": all of them, or none. Nothing but "handled" where the
    person opted out while the answer was made, or somebody of the team took the conversation.

    Raises:
        LeaseLost: somebody else has the lane now.
    """
    with transaction(awake.engine) as session:
        standing = session.connection().execute(
            _STANDING,
            {"event": event_id, "conversation": turn.conversation_id, "asked": turn.message_id, "lane": lane.lane,
             "holder": lane.holder},
        ).first()  # fmt: skip
        if standing is None:
            raise lane.lost()
        if standing.handled_at is not None:
            return
        if (why := _not_wanted(turn, standing, generated)) is not None:
            for one in (event_id, *turn.together):
                handled(session.get_one(InboundEvent, one), why)
            return
        left = standing.left if generated.served is not None else None  # no version speaks, so none is left
        if turn.together:  # what is learned from is the whole question and its answer
            session.get_one(Message, turn.message_id).text = turn.message.text
        answer = _answer(turn, standing, left, generated, route, found, awake.settings.token_prices)
        ask_rating = route is not None and _count(session, turn, route, generated)
        first, *others = _parts(awake, turn, standing, answer, shown=generated.shown, ask_rating=ask_rating)
        session.connection().execute(
            _FIRST_PART,
            {"event": event_id, "handled": now(), "outcome": f"answered:{answer['id']}",
             **_values(Message, answer), **_values(OutboxItem, first)},
        )  # fmt: skip
        if others:
            session.connection().execute(_OTHER_PARTS, [_values(OutboxItem, row) for row in others])
        if left:  # the transcript shows where a version that was taken back stopped speaking
            events.record(
                session, "version.left", context=standing.context, channel=standing.channel,
                conversation=turn.conversation_id, message=str(answer["id"]), left=left, version=answer["version"],
            )  # fmt: skip
        if turn.kind == "handover":
            conversation = session.get_one(Conversation, turn.conversation_id)
            handover.ask(session, awake.settings, conversation, by="customer", said=turn.message.text)
        elif turn.kind == "back":
            handover.give_back_conversation(session, session.get_one(Conversation, turn.conversation_id), by="customer")
        if turn.ask_consent:
            _ask_consent(session, turn, standing)
        for other in turn.together:
            handled(session.get_one(InboundEvent, other), f"answered together:{answer['id']}")


def _not_wanted(turn: Turn, standing: Row[Any], generated: Generated) -> str | None:
    """Why the bot does not say this any more; what the channel shows already (Slack's growing message) is finished."""
    if standing.opted_out_at is not None:
        return "opted out"
    if standing.state == "person" and turn.kind not in ("back", "consent") and not generated.shown:
        return "with a person"
    return None


def _answer(
    turn: Turn,
    standing: Row[Any],
    left: str | None,
    generated: Generated,
    route: Route | None,
    found: Recalled,
    prices: Mapping[str, tuple[float, float]],
) -> dict[str, Any]:
    """The answer's row."""
    reply, served = generated.reply, generated.served
    return {
        "id": new_id(),
        "conversation_id": turn.conversation_id,
        "customer_id": standing.customer_id,
        "context": standing.context,
        "channel": standing.channel,
        "direction": "out",
        "role": "bot",
        "kind": turn.kind,
        "text": generated.text,
        "in_reply_to": turn.message_id,
        "language": turn.language,
        "created_at": now(),
        "consent": standing.consent,
        "version": version_of(served),
        "adapter_version_id": served.id if served else None,
        "rollout_id": route.rollout_id if route else None,
        "arm": route.arm if route and served == route.version else None,
        "assignment_probability": route.probability if route and route.rollout_id else None,
        "memories": found.memories,
        "route": {
            "passages": found.passages,
            "history": [list(pair) for pair in found.history],
            "flags": list(generated.flags),
            "failures": list(generated.failures),
            "said": reply.text if reply and generated.flags else None,
            **(units.logged(route) if route else {}),
            **({"left": left} if left else {}),
        },
        "latency_ms": reply.latency_ms if reply else None,
        "first_token_ms": reply.first_token_ms if reply else None,
        "prompt_tokens": reply.prompt_tokens if reply else None,
        "completion_tokens": reply.completion_tokens if reply else None,
        "cost_usd": cost_of(reply, prices) if reply else None,
    }


def cost_of(reply: Reply, prices: Mapping[str, tuple[float, float]]) -> float:
    """Dollars, by TOKEN_PRICES (per million tokens in and out); our own machines' tokens cost nothing."""
    price_in, price_out = prices.get(reply.model, (0.0, 0.0))
    return (reply.prompt_tokens * price_in + reply.completion_tokens * price_out) / 1e6


def _count(session: Session, turn: Turn, route: Route, generated: Generated) -> bool:
    """The unit's count; True where the rollout's coin says that this first answer asks for a rating."""
    ours = (route.version, *route.fallbacks)
    failed = generated.served != route.version or "empty" in generated.flags
    outage = generated.served not in ours and not any(why.endswith(NOT_ASKED) for why in generated.failures)
    latency = generated.reply.latency_ms if generated.reply else None
    outcome = units.Outcome(failed, latency, generated.flags, outage)
    is_new = units.count_reply(session, turn.customer_id, route, outcome)
    return is_new and route.solicited


def _parts(
    awake: Awake,
    turn: Turn,
    standing: Row[Any],
    answer: Mapping[str, Any],
    *,
    shown: dict[str, Any],
    ask_rating: bool,
) -> list[dict[str, Any]]:
    """Every part is a row before anything is sent; buttons stand under the last one, where they fit, else under a
    short question of their own."""
    client = awake.channel(standing.channel)
    text = f"{answer['text']}\n\n{guardrails.ASK_RATING[turn.language]}" if ask_rating else answer["text"]
    parts = split_text(text, client.max_text)
    rateable = turn.kind == "text" and awake.settings.feedback_buttons
    room = client.limits.text_with_buttons
    if rateable and room is not None and length(parts[-1]) > room:
        question = guardrails.ASK_RATING if ask_rating else guardrails.DID_IT_HELP
        parts = [*split_text(answer["text"], client.max_text), question[turn.language]]
    rows = []
    for number, part in enumerate(parts, 1):
        payload: dict[str, Any] = {"address": standing.address, "text": part}
        if shown and number == 1:
            payload["extra"] = shown
        if rateable and number == len(parts):
            payload["buttons"] = _buttons(str(answer["id"]), turn.language)[: client.limits.buttons]
        rows.append({
            "id": new_id(), "message_id": answer["id"], "conversation_id": turn.conversation_id,
            "in_reply_to": turn.message_id, "kind": "answer", "part": number, "parts": len(parts),
            "channel": standing.channel, "lane": standing.lane, "payload": payload,
        })  # fmt: skip
    return rows


def _buttons(answer_id: str, language: Language) -> list[list[str]]:
    problem = guardrails.PROBLEM[language]
    shown: list[tuple[Verdict, str]] = [("up", "👍"), ("down", "👎"), ("problem", problem)]
    return [[feedback_button(answer_id, verdict), title] for verdict, title in shown]


def _ask_consent(session: Session, turn: Turn, standing: Row[Any]) -> None:
    """With the first answer, never alone."""
    session.execute(update(Customer).where(Customer.id == turn.customer_id).values(consent_asked_at=now()))
    question = Message(
        id=new_id(), conversation_id=turn.conversation_id, customer_id=turn.customer_id, context=turn.context,
        channel=standing.channel, direction="out", role="bot", kind="consent",
        text=people.CONSENT_QUESTION[turn.language], language=turn.language,
    )  # fmt: skip
    session.add(question)
    session.flush()
    session.add(
        OutboxItem(
            message_id=question.id, conversation_id=turn.conversation_id, in_reply_to=turn.message_id, kind="consent",
            channel=standing.channel, lane=standing.lane, payload={"address": standing.address, "text": question.text},
        )
    )  # fmt: skip


def handled(event: InboundEvent, outcome: str) -> None:
    event.handled_at, event.outcome, event.error = now(), outcome, None


def version_of(served: Served | None) -> str | None:
    if served is None:
        return None
    return "base" if served == BASE else served.name
