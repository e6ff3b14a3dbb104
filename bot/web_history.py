"""What the website's page is shown: read from Postgres, where it lies whatever was lost on the way."""

import uuid
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from core.errors import Unavailable

MOST = 100  # messages of one look

# What the outbox knows of a message: whether it may be rated, whether it asks for consent, whether it was withdrawn.
_SENT = """
    LEFT JOIN LATERAL (
        SELECT bool_or(o.payload ? 'buttons') AS rateable, bool_or(o.kind = 'consent') AS asks,
               bool_or(o.state = 'failed') AS failed
        FROM npllm.outbox o WHERE o.message_id = m.id
    ) sent ON true
"""
_KIND = """
    CASE WHEN m.role = 'person' THEN 'person' WHEN sent.asks THEN 'consent' WHEN m.kind = 'text' THEN 'answer'
    ELSE 'notice' END
"""
_HISTORY = f"""
    SELECT m.id, m.direction, m.role, m.text, m.created_at, {_KIND} AS kind, coalesce(sent.rateable, false) AS rateable,
           f.value, f.signal, f.comment
    FROM npllm.messages m {_SENT}
    LEFT JOIN npllm.feedback f
        ON f.message_id = m.id AND f.customer_id = m.customer_id AND f.superseded_at IS NULL AND f.op <> 'remove'
    WHERE m.customer_id = %(customer)s AND m.channel = 'web' AND m.deleted_at IS NULL AND m.text <> ''
      AND sent.failed IS NOT TRUE AND (%(after)s::uuid IS NULL OR m.id > %(after)s::uuid)
    ORDER BY m.id DESC LIMIT {MOST}
"""
_CUSTOMER = """
    SELECT c.id, c.consent, c.opted_out_at IS NOT NULL AS stopped,
           (SELECT state FROM npllm.conversations v WHERE v.customer_id = c.id AND v.channel = 'web'
            ORDER BY v.last_message_at DESC LIMIT 1) AS handled_by
    FROM npllm.identities i JOIN npllm.customers c ON c.id = i.customer_id
    WHERE i.kind = 'visitor' AND i.scope = '' AND i.value = %s
"""
_WAITING = "SELECT count(*) AS n FROM npllm.inbound_events WHERE lane = %s AND handled_at IS NULL"
_ANSWERS = f"""
    SELECT m.id, m.text, {_KIND} AS kind, coalesce(sent.rateable, false) AS rateable
    FROM npllm.messages asked
    JOIN npllm.messages m ON m.id IN (SELECT o.message_id FROM npllm.outbox o WHERE o.in_reply_to = asked.id)
    {_SENT}
    WHERE asked.channel = 'web' AND asked.direction = 'in' AND asked.provider_message_id = %s
      AND sent.failed IS NOT TRUE
    ORDER BY m.id
"""
_ASKED = """
    SELECT payload ->> 'text' AS text, handled_at IS NOT NULL AS handled FROM npllm.inbound_events
    WHERE source = 'web' AND external_id = %s
"""
_THEIRS = f"""
    SELECT 1 FROM npllm.messages m JOIN npllm.identities i ON i.customer_id = m.customer_id {_SENT}
    WHERE m.id = %s AND m.direction = 'out' AND sent.rateable AND i.kind = 'visitor' AND i.scope = '' AND i.value = %s
"""


class History:
    """Queries of the web process, on its pool."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self.pool = pool

    async def state(self, visitor: str) -> dict[str, Any]:
        """{state, consent}: who answers now (`bot`, `person`, or `stopped`), and what the visitor allowed."""
        found = await self._all(_CUSTOMER, (visitor,))
        return _state(found[0]) if found else {"state": "bot", "consent": "unknown"}

    async def of(self, visitor: str, after: uuid.UUID | None) -> dict[str, Any]:
        """The same, with the visitor's last messages, oldest first, and whether an answer is still being made."""
        waiting = bool((await self._all(_WAITING, (f"web:{visitor}",)))[0]["n"])
        found = await self._all(_CUSTOMER, (visitor,))
        if not found:
            return {"state": "bot", "consent": "unknown", "waiting": waiting, "messages": []}
        rows = await self._all(_HISTORY, {"customer": found[0]["id"], "after": after})
        return {**_state(found[0]), "waiting": waiting, "messages": [_message(row) for row in reversed(rows)]}

    async def answers(self, key: str) -> tuple[list[dict[str, Any]], bool, str | None]:
        """(answers so far, whether that is all, what was asked) of the message with this key."""
        asked = await self._all(_ASKED, (f"message:{key}",))
        rows = await self._all(_ANSWERS, (key,))  # after the look at `handled`: whoever sees it set sees all answers
        answers = [
            {
                "key": str(row["id"]),
                "id": str(row["id"]) if row["rateable"] else None,
                "text": row["text"],
                "kind": row["kind"],
            }
            for row in rows
        ]
        return answers, bool(asked and asked[0]["handled"]), asked[0]["text"] if asked else None

    async def is_theirs(self, message_id: str, visitor: str) -> bool:
        """Whether this visitor was given this answer, and may rate it."""
        try:
            answer = uuid.UUID(message_id)
        except ValueError:
            return False
        return bool(await self._all(_THEIRS, (answer, visitor)))

    async def _all(self, query: str, values: Any) -> list[dict[str, Any]]:
        try:
            async with self.pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
                return await (await cursor.execute(query.encode(), values)).fetchall()
        except (psycopg.OperationalError, OSError) as error:
            raise Unavailable("The ledger does not answer.", "Try again in a moment.") from error


def _state(customer: dict[str, Any]) -> dict[str, Any]:
    who = "person" if customer["handled_by"] == "person" else "bot"
    return {"state": "stopped" if customer["stopped"] else who, "consent": customer["consent"]}


def _message(row: dict[str, Any]) -> dict[str, Any]:
    inbound, value = row["direction"] == "in", row["value"]
    stars = row["signal"] == "stars"
    return {
        "key": str(row["id"]),
        "id": str(row["id"]) if row["rateable"] else None,
        "from": "visitor" if inbound else "person" if row["role"] == "person" else "bot",
        "kind": "question" if inbound else row["kind"],
        "text": row["text"],
        "at": row["created_at"].isoformat(),
        "verdict": None if value is None or stars else "up" if value > 0.5 else "down",
        "stars": round(1 + 4 * value) if stars and value is not None else None,
        "comment": row["comment"],
    }
