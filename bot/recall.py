"""What the model gets to see for one turn: the last turns, and what was looked up where they do not suffice."""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import ModelUnavailable
from core.prompts import Language
from core.search import search
from core.tables import Message
from core.text import words
from integrations.openai.embeddings import Embeddings

log = logging.getLogger(__name__)

# A message of nothing but these words needs no search: the conversation suffices.
_SMALL_TALK = frozenset(
    """oi ola opa eai e ai bom boa dia tarde noite tudo bem td blz beleza obrigado obrigada obg valeu vlw brigado
    brigada muito tchau ate logo mais abraco abracos hi hello hey good morning afternoon evening thanks thank you
    bye how are quem voce vc who ok certo entendi perfeito show legal um uma pessoa atendente humano falar com quero
    por favor please a an the to talk person human tem alguem aqui ai""".split()
)
_PORTUGUESE = frozenset(
    """voces voce qual quais quanto quanta custa preco que como onde tem para pra nao sim uma com por meu minha colchao
    entrega prazo troca garantia oi ola bom boa obrigado obrigada posso quero queria vcs vc esta qto eh ta aceita
    fica sao dia casal solteiro""".split()
)
_ENGLISH = frozenset(
    """the what which how much does do is are can you i my we to for of price cost where when delivery return hello hi
    thanks thank please mattress your have it any there""".split()
)


@dataclass(frozen=True)
class Recalled:
    """What was found for a turn.

    Attributes:
        passages: texts, best first; None where no search was made.
        memories: ids of those passages, as kept on the message.
        history: (question, answer) pairs, oldest first.
    """

    passages: list[str] | None
    memories: list[str] = field(default_factory=list)
    history: list[tuple[str, str]] = field(default_factory=list)


def language_of(text: str, otherwise: Language) -> Language:
    """Portuguese or English, by the small words; `otherwise` (the conversation's) where they do not say."""
    said = words(text)
    portuguese, english = sum(w in _PORTUGUESE for w in said), sum(w in _ENGLISH for w in said)
    if portuguese == english:
        return otherwise
    return "pt" if portuguese > english else "en"


def needs_search(question: str) -> bool:
    """Whether the question asks for something that the conversation cannot hold."""
    said = words(question)
    return bool(said) and not set(said) <= _SMALL_TALK


def recall(
    session: Session,
    *,
    context: str,
    question: str,
    history: Sequence[tuple[str, str]],
    language: Language,
    vector: Sequence[float] | None,
    model: str | None,
    limit: int,
) -> Recalled:
    """Look the question up in the context's knowledge. A short follow-up is looked up with what it follows."""
    if not needs_search(question):
        return Recalled(None, history=list(history))
    hits = search(
        session, context=context, question=search_text(question, history), language=language, query_vector=vector,
        model=model, limit=limit,
    )  # fmt: skip
    return Recalled([hit.text for hit in hits], [str(hit.id) for hit in hits], list(history))


def search_text(question: str, history: Sequence[tuple[str, str]]) -> str:
    """'e o de casal?' says little on its own."""
    if history and len(words(question)) <= 4:
        return f"{history[-1][0]} {question}"
    return question


def embed(embeddings: Embeddings | None, text: str) -> list[float] | None:
    """The question's vector; None where the server does not answer: words alone still find most of it."""
    if embeddings is None:
        return None
    try:
        return embeddings.embed([text])[0]
    except ModelUnavailable as error:
        log.warning("Searching by words alone: %s", error)
        return None


def recent_turns(session: Session, conversation_id: uuid.UUID, turns: int) -> list[tuple[str, str]]:
    """The conversation's last answered turns, oldest first."""
    if turns == 0:
        return []
    answer = select(Message).where(
        Message.conversation_id == conversation_id, Message.direction == "out", Message.kind == "text",
        Message.in_reply_to.is_not(None), Message.deleted_at.is_(None),
    )  # fmt: skip
    pairs: list[tuple[str, str]] = []
    for reply in session.scalars(answer.order_by(Message.id.desc()).limit(turns)):
        asked = session.get(Message, reply.in_reply_to)
        if asked is not None and asked.deleted_at is None:
            pairs.append((asked.text, reply.text))
    return pairs[::-1]
