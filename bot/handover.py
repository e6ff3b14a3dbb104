"""A person of the team takes a conversation over, and gives it back.

    asked      by the customer's own words, by a yes to "shall I call a person?", or by an operator
    taken      somebody of the team says "mine"; whoever answers has taken it
    returned   by the team, by the customer ("BOT"), or by the clock after HANDOVER_MINUTES of silence of the team

While it lasts the conversation's state is `person`: what the customer writes is kept, and the bot says nothing. The
team's words leave through the same outbox. Writes the table `handovers`.
"""

import logging
import uuid
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import redis
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from bot import guardrails, people, units
from core import events, jobs
from core.errors import BadInput, Conflict, NotAllowed, NotFound
from core.hours import is_open, parse_hours
from core.prompts import Language
from core.redact import Redactor
from core.settings import Settings
from core.tables import Conversation, Customer, Handover, Message, OutboxItem, new_id, now
from core.text import split_text, words
from integrations.redis.queue import enqueue
from integrations.slack.desk import HANDOVER, place

log = logging.getLogger(__name__)

MAX_PART = 1_500  # characters; every channel takes as many
OFFERED_MINUTES = 30  # how long a "yes" is taken as one to our offer
BACK_WORDS = frozenset({"bot", "robo", "voltar ao bot", "back to bot", "assistente"})

_PERSONS = frozenset("pessoa atendente atendentes humano humana alguem vendedor vendedora equipe gente".split())
_CALLS = frozenset("falar conversar fala chamar chama chame passar passa transferir transfere transfira".split())
_ALONE = frozenset(
    """atendente humano humana pessoa real atendimento um uma quero por favor preciso de prefiro agente operador
    com""".split()
)
_PERSONS_EN = frozenset("human person agent someone somebody representative operator".split())
_CALLS_EN = frozenset("talk speak chat transfer connect call get".split())
_ALONE_EN = frozenset("human person agent a an real please i want need representative operator live".split())
MAX_ANSWER = 4_000  # characters of one answer of a person
_LONGEST = 12  # words; a longer message asks for something else too

CALLED: dict[Language, str] = {
    "pt": "Certo, vou chamar uma pessoa da equipe. Ela continua a conversa por aqui.",
    "en": "All right, I will call a person of the team. They will go on from here.",
}
CLOSED: dict[Language, str] = {
    "pt": "Nossa equipe não está atendendo agora, mas anotei seu pedido: uma pessoa responde por aqui assim que "
    "voltar. Para continuar comigo enquanto isso, escreva BOT.",
    "en": "Our team is not in right now, but I have noted your request: a person will answer here once they are back. "
    "To go on with me meanwhile, write BOT.",
}
BACK: dict[Language, str] = {
    "pt": "Pronto, estou de volta. Como posso ajudar?",
    "en": "Here I am again. How can I help?",
}
_NOTICE: dict[Language, str] = {
    "pt": "Pedido de atendimento por uma pessoa ({channel}): `{said}`\nResponder: {where}",
    "en": "Somebody asks for a person ({channel}): `{said}`\nAnswer: {where}",
}

_BUTTONS: dict[Language, dict[str, str]] = {
    "pt": {"reply": "Responder", "return": "Devolver ao bot"},
    "en": {"reply": "Answer", "return": "Back to the bot"},
}


def wants_person(text: str) -> bool:
    """Whether a message asks for a person and for nothing else."""
    said = words(text)
    if not said or len(said) > _LONGEST:
        return False
    for persons, calls, alone in ((_PERSONS, _CALLS, _ALONE), (_PERSONS_EN, _CALLS_EN, _ALONE_EN)):
        named = persons | {"agente", "operador", "atendimento"} if persons is _PERSONS else persons
        if set(said) & persons and set(said) & calls:
            return True
        if set(said) <= alone and set(said) & named - {"gente"}:
            return True
    return False


def takes_offer(session: Session, conversation: Conversation, text: str) -> bool:
    """Whether this is a yes to the bot's own "shall I call a person?"."""
    if " ".join(words(text)) not in people.YES:
        return False
    last = session.scalar(
        select(Message)
        .where(Message.conversation_id == conversation.id, Message.direction == "out")
        .order_by(Message.id.desc())
        .limit(1)
    )
    recent = last is not None and now() - last.created_at < timedelta(minutes=OFFERED_MINUTES)
    return last is not None and recent and last.text in guardrails.DONT_KNOW.values()


def wants_bot(text: str) -> bool:
    return " ".join(words(text)) in BACK_WORDS


def sentence(settings: Settings, language: Language, at: datetime | None = None) -> str:
    """What the customer is told: somebody comes, or somebody comes later."""
    local = (at or now()).astimezone(ZoneInfo(settings.timezone))
    return (CALLED if is_open(parse_hours(settings.business_hours), local) else CLOSED)[language]


def ask(session: Session, settings: Settings, conversation: Conversation, *, by: str, said: str = "") -> Handover:
    """Hand a conversation over; the one that is open stands."""
    standing = session.scalar(_open().where(Handover.conversation_id == conversation.id))
    if standing is not None:
        return standing
    handover = Handover(id=new_id(), conversation_id=conversation.id, asked_by=by)
    session.add(handover)
    conversation.state = "person"
    session.flush()
    _record(session, "handover.requested", conversation, handover, by)
    answer = session.scalar(
        select(Message)
        .where(Message.conversation_id == conversation.id, Message.role == "bot", Message.kind == "text")
        .order_by(Message.id.desc())
        .limit(1)
    )
    if answer is not None:
        units.count_hand_over(session, answer)
    if settings.slack_handover_channel:
        _notify(session, settings, conversation, handover, said)
    return handover


def listing(session: Session, *, everything: bool = False) -> list[tuple[Handover, Conversation]]:
    """The open ones, oldest first; or all."""
    query = select(Handover, Conversation).join(Conversation, Conversation.id == Handover.conversation_id)
    query = query if everything else query.where(Handover.returned_at.is_(None))
    return [(handover, conversation) for handover, conversation in session.execute(query.order_by(Handover.asked_at))]


def find(session: Session, name: str) -> Handover:
    """The open handover whose id begins so.

    Raises:
        NotFound: there is none, or more than one.
    """
    found = [handover for handover, _ in listing(session) if str(handover.id).startswith(name)]
    if len(found) != 1:
        what = "no open handover" if not found else "more than one"
        raise NotFound(f"There is {what} '{name}'.", "npllm handover list")
    return found[0]


def take(session: Session, handover: Handover, *, by: str) -> None:
    """Say "mine".

    Raises:
        Conflict: somebody else has it, or it was given back.
    """
    session.refresh(handover, with_for_update=True)
    if handover.returned_at is not None:
        raise Conflict("This conversation was given back to the bot.", "npllm handover list")
    if handover.taken_by not in (None, by):
        raise Conflict(f"{handover.taken_by} has this conversation.", "Talk to them, or take another.")
    if handover.taken_by is None:
        handover.taken_by, handover.taken_at = by, now()
        _record(session, "handover.taken", session.get_one(Conversation, handover.conversation_id), handover, by)


def reply(session: Session, handover: Handover, text: str, *, by: str) -> str:
    """Answer as a person; takes the conversation if nobody has. Returns the lane whose outbox has something now.

    Raises:
        BadInput: the answer is empty, or too long.
        Conflict: somebody else has it, or it was given back.
        NotAllowed: the person wants no more messages.
    """
    text = text.replace("\x00", "").replace("\r\n", "\n").strip()
    if not text:
        raise BadInput("The answer is empty.", "Write it first.")
    if len(text) > MAX_ANSWER:
        raise BadInput(f"The answer has more than {MAX_ANSWER} characters.", "Send it in two.")
    conversation = session.get_one(Conversation, handover.conversation_id)
    if session.get_one(Customer, conversation.customer_id).opted_out_at is not None:
        raise NotAllowed("This person asked for no more messages (PARAR).", "Give the conversation back to the bot.")
    take(session, handover, by=by)
    handover.last_reply_at = now()
    message = Message(
        id=new_id(), conversation_id=conversation.id, customer_id=conversation.customer_id,
        context=conversation.context, channel=conversation.channel, direction="out", role="person", kind="person",
        text=text, language=conversation.language,
    )  # fmt: skip
    session.add(message)
    session.flush()
    parts = split_text(text, MAX_PART)
    for number, part in enumerate(parts, 1):
        session.add(
            OutboxItem(
                message_id=message.id, conversation_id=conversation.id, kind="person", part=number, parts=len(parts),
                channel=conversation.channel, lane=conversation.lane,
                payload={"address": conversation.address, "text": part},
            )
        )  # fmt: skip
    return conversation.lane


def said(session: Session, conversation_id: uuid.UUID, most: int) -> list[Message]:
    """The latest messages of a conversation, oldest first."""
    latest = select(Message).where(Message.conversation_id == conversation_id, Message.kind != "notice")
    return list(session.scalars(latest.order_by(Message.created_at.desc(), Message.id.desc()).limit(most)))[::-1]


def redactor(session: Session, settings: Settings, conversation: Conversation) -> Redactor:
    """For what the team reads of a conversation in Slack; it knows what the channel calls the person."""
    return Redactor.of(settings, session.get_one(Customer, conversation.customer_id).name)


def ring(client: redis.Redis, lane: str) -> None:
    """An answer waits in this lane's outbox; without Redis the sweeper finds it."""
    try:
        enqueue(client, jobs.SEND, lane)
    except redis.RedisError as error:
        log.warning("The answer waits for the sweeper: %s", error)


def give_back(session: Session, handover: Handover, *, by: str) -> None:
    """The bot answers again from the next message on."""
    session.refresh(handover, with_for_update=True)
    if handover.returned_at is not None:
        return
    handover.returned_at, handover.returned_by = now(), by
    conversation = session.get_one(Conversation, handover.conversation_id)
    if conversation.state == "person":
        conversation.state = "bot"
    _record(session, "handover.returned", conversation, handover, by)


def give_back_conversation(session: Session, conversation: Conversation, *, by: str) -> None:
    """The same, whether or not somebody had been asked for. The handover's row first, as everywhere: no deadlock."""
    for handover in session.scalars(_open().where(Handover.conversation_id == conversation.id)):
        give_back(session, handover, by=by)
    conversation.state = "bot"


def return_stale(session: Session, settings: Settings) -> int:
    """Give back what the team has been silent about for too long; returns how many."""
    limit = now() - timedelta(minutes=settings.handover_minutes)
    last = func.coalesce(Handover.last_reply_at, Handover.taken_at, Handover.asked_at)
    stale = session.scalars(_open().where(last < limit).with_for_update(skip_locked=True)).all()
    for handover in stale:
        give_back(session, handover, by="time-out")
    return len(stale)


def _open() -> Select[Any]:
    return select(Handover).where(Handover.returned_at.is_(None))


def _record(session: Session, type: events.EventType, conversation: Conversation, handover: Handover, by: str) -> None:
    events.record(
        session, type, context=conversation.context, channel=conversation.channel, conversation=conversation.id,
        handover=str(handover.id), by=by,
    )  # fmt: skip


def _notify(session: Session, settings: Settings, conversation: Conversation, handover: Handover, said: str) -> None:
    """Tell the team in Slack: redacted, and through the outbox like everything that is said.

    A stranger's words stand on one line, as code: there no link of theirs can pass for ours.
    """
    redact = redactor(session, settings, conversation)
    quoted = " ".join(redact(said).replace("`", "'").split())
    text = _NOTICE["en" if settings.language == "en" else "pt"].format(
        channel=conversation.channel,
        said=quoted[:300] or "…",
        where=f"{settings.public_base_url}/handover/{handover.id}"
        if settings.public_base_url
        else f"npllm handover reply {handover.id} …",
    )
    message = Message(
        id=new_id(), conversation_id=conversation.id, customer_id=conversation.customer_id,
        context=conversation.context, channel="slack", direction="out", role="bot", kind="notice", text=text,
    )  # fmt: skip
    session.add(message)
    session.flush()
    team, channel = place(settings.slack_handover_channel or "")
    buttons = [[f"{HANDOVER}:{handover.id}:{what}", title] for what, title in _BUTTONS[settings.language].items()]
    session.add(
        OutboxItem(
            message_id=message.id, conversation_id=conversation.id, kind="notice", channel="slack",
            lane=f"slack:handover:{channel}",
            payload={"address": {"team": team, "channel": channel}, "text": text, "buttons": buttons},
        )
    )  # fmt: skip
