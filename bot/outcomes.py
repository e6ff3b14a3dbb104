"""Business metrics: what came of conversations, by the version that spoke last in them."""

import uuid
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.errors import BadInput, NotFound
from core.tables import BusinessOutcome, Conversation, Message, new_id

LONGEST_KIND = 40  # characters


def record(session: Session, conversation: uuid.UUID, kind: str, value: float, *, source: str) -> dict[str, Any]:
    """Keep one outcome of a conversation; the same kind again replaces it.

    Args:
        kind: `resolution`, `conversion`, or what the business counts.
        value: 1 it came about, 0 it did not; or an amount.

    Raises:
        BadInput: no kind, or a value that is no finite number.
        NotFound: no such conversation, or nobody has answered in it.
    """
    kind = kind.strip().lower()
    if not kind or len(kind) > LONGEST_KIND or not kind.replace("-", "").replace("_", "").isalnum():
        raise BadInput("An outcome needs a short name of letters.", "For example: resolution, conversion.")
    if value != value or abs(value) == float("inf"):
        raise BadInput("The value is no finite number.", "1 for yes, 0 for no, or an amount.")
    found = session.get(Conversation, conversation)
    answer = session.scalar(
        select(Message)
        .where(Message.conversation_id == conversation, Message.direction == "out", Message.version.is_not(None))
        .order_by(Message.id.desc())
        .limit(1)
    )
    if found is None or answer is None:
        raise NotFound(f"There is no answered conversation {conversation}.", "npllm events list names conversations.")
    facts = {"value": value, "version": answer.version, "rollout_id": answer.rollout_id, "arm": answer.arm,
             "source": source}  # fmt: skip
    statement = insert(BusinessOutcome).values(
        id=new_id(), conversation_id=conversation, context=found.context, kind=kind, **facts
    )
    session.execute(
        statement.on_conflict_do_update(index_elements=["conversation_id", "kind"], set_={**facts, "at": func.now()})
    )
    return {"conversation": str(conversation), "kind": kind, **facts}
