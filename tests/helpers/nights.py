"""A day's worth of rows for a night to learn from, and its settings."""

import uuid
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from core.settings import Settings
from core.tables import Annotation, AnnotationItem, Conversation, Customer, Feedback, Message, new_id, now


def conversation(
    session: Session, *, name: str | None = None, consent: bool = True, context: str = "customers"
) -> Conversation:
    customer = Customer(context=context, name=name, consent="granted" if consent else "unknown")
    session.add(customer)
    session.flush()
    made = Conversation(context=context, customer_id=customer.id, channel="web", lane=f"web:{customer.id}", address={})
    session.add(made)
    session.flush()
    return made


def turn(
    session: Session, talk: Conversation, question: str, answer: str, *, consent: bool = True, **route: Any
) -> Message:
    """One question and the bot's answer; returns the answer."""
    common = {"conversation_id": talk.id, "customer_id": talk.customer_id, "context": talk.context, "channel": "web",
              "language": "pt", "consent": consent}  # fmt: skip
    asked = Message(id=new_id(), direction="in", role="customer", text=question, **common)
    session.add(asked)
    session.flush()
    replied = Message(
        id=new_id(), direction="out", role="bot", text=answer, in_reply_to=asked.id, version="base",
        route={"passages": ["O colchão custa R$ 10."], "history": [], "flags": [], **route}, **common,
    )  # fmt: skip
    session.add(replied)
    session.flush()
    return replied


def react(session: Session, answer: Message, value: float, *, by: uuid.UUID | None = None) -> None:
    polarity = "positive" if value > 0.5 else "negative"
    session.add(
        Feedback(message_id=answer.id, customer_id=by or answer.customer_id, channel="web", signal="button", op="add",
                 raw="x", polarity=polarity, value=value, given_at=now())
    )  # fmt: skip
    session.flush()


def review(session: Session, answer: Message, verdict: str, corrected: str | None = None) -> None:
    asked = session.get_one(Message, answer.in_reply_to)
    item = AnnotationItem(
        context=answer.context, message_id=answer.id, reason="disliked", question=asked.text, answer=answer.text,
        passages=answer.route.get("passages"), state="done",
    )  # fmt: skip
    session.add(item)
    session.flush()
    session.add(Annotation(item_id=item.id, reviewer="rita", verdict=verdict, corrected=corrected))
    session.flush()


def a_day(session: Session, count: int = 24, lesson: str = "Quer que eu reserve?") -> None:
    """`count` conversations whose answers a reviewer corrected, each to end in the same offer."""
    for i in range(count):
        answer = turn(session, conversation(session), f"Quanto custa o modelo {i}?", f"Custa {i} reais.")
        react(session, answer, 0.0)
        review(session, answer, "correct", f"Custa {i} reais. {lesson}")


def night_settings(database_url: str, base: Path, data_dir: Path, **values: Any) -> Settings:
    defaults: dict[str, Any] = {
        "database_url": database_url, "base_model": str(base), "data_dir": data_dir, "learning_rate": 2e-2,
        "epochs": 4, "lora_rank": 2, "sleep_minimum_examples": 5,
    }  # fmt: skip
    return Settings(**{**defaults, **values})
