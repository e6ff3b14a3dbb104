"""What the ledger, the outbox and the event log say happened, checked against what must never happen.

Reads only, and knows nothing of how the rows came to be: fault tests, benches and `npllm doctor --history` use it to
prove the invariants after whatever was done to the system. Each rule is a query that finds nothing in a true history.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

# Why a message got no answer of ours: each is a decision somebody can look up on the ledger's row.
REFUSALS = (
    "repeat", "not for us", "opted out", "opted in", "blank", "with a person", "given up", "ignored", "deleted",
)  # fmt: skip
GRACE = 90.0  # seconds: a turn may end that long after the rollout it was assigned in

_ANSWERS = "m.direction = 'out' AND m.role = 'bot' AND m.in_reply_to IS NOT NULL"

# rule -> a query giving (what it is about, what is wrong)
RULES: dict[str, str] = {
    "a handled message has one answer or one recorded refusal": """
        SELECT e.source || ' ' || e.external_id, 'outcome: ' || coalesce(e.outcome, 'none')
        FROM npllm.inbound_events e
        WHERE e.kind = 'message' AND e.handled_at IS NOT NULL
          AND NOT coalesce(e.outcome LIKE ANY (:refusals), false)
          AND NOT EXISTS (
              SELECT 1 FROM npllm.outbox o
              WHERE e.outcome IN ('answered:' || o.message_id::text, 'answered together:' || o.message_id::text)
          )
    """,
    "a message is answered once": f"""
        SELECT m.in_reply_to::text, count(*) || ' answers'
        FROM npllm.messages m WHERE {_ANSWERS} GROUP BY m.in_reply_to HAVING count(*) > 1
        UNION ALL
        SELECT channel || ' ' || provider_message_id, count(*) || ' copies of one incoming message'
        FROM npllm.messages WHERE direction = 'in' AND provider_message_id IS NOT NULL
        GROUP BY channel, provider_message_id HAVING count(*) > 1
    """,
    "an answer is complete": """
        SELECT in_reply_to::text, count(*) || ' of ' || max(parts) || ' parts'
        FROM npllm.outbox WHERE kind = 'answer' AND in_reply_to IS NOT NULL
        GROUP BY in_reply_to HAVING count(*) <> max(parts) OR count(DISTINCT message_id) <> 1
    """,
    "nobody is answered who did not write": f"""
        SELECT m.id::text, 'an answer without its message on the ledger'
        FROM npllm.messages m
        WHERE {_ANSWERS} AND NOT EXISTS (
            SELECT 1 FROM npllm.inbound_events e WHERE e.outcome = 'answered:' || m.id::text
        )
        UNION ALL
        SELECT o.id::text, 'sent to a conversation in which nobody wrote'
        FROM npllm.outbox o WHERE NOT EXISTS (
            SELECT 1 FROM npllm.messages m WHERE m.conversation_id = o.conversation_id AND m.direction = 'in'
        )
    """,
    "only routed versions answer": """
        SELECT m.id::text, 'by ' || coalesce(m.version, 'none') || ', arm ' || coalesce(m.arm, 'none')
        FROM npllm.messages m
        LEFT JOIN npllm.rollouts r ON r.id = m.rollout_id
        LEFT JOIN npllm.adapter_versions v ON v.id = m.adapter_version_id
        WHERE m.direction = 'out' AND (
            (m.rollout_id IS NOT NULL AND r.id IS NULL)
            OR (m.arm = 'challenger' AND m.rollout_id IS NOT NULL
                AND m.adapter_version_id IS DISTINCT FROM r.version_id)
            OR (m.arm IN ('champion', 'base') AND m.rollout_id IS NOT NULL
                AND m.adapter_version_id IS DISTINCT FROM r.against_id
                AND NOT (r.state = 'promoted' AND m.adapter_version_id = r.version_id))
            OR m.created_at < r.started_at
            OR (r.state IN ('aborted', 'rolled_back')
                AND m.created_at > r.ended_at + :grace * interval '1 second')
            OR (v.id IS NOT NULL AND (v.name <> m.version OR v.context <> m.context OR v.state = 'refused'))
            OR (v.id IS NOT NULL AND m.rollout_id IS NULL
                AND NOT EXISTS (SELECT 1 FROM npllm.contexts c WHERE c.champion_id = v.id)
                AND NOT EXISTS (SELECT 1 FROM npllm.rollouts o WHERE v.id IN (o.version_id, o.against_id)))
        )
    """,
    "one vote a unit, by who was answered": """
        SELECT a.customer_id::text, 'votes by a message that is not of this unit'
        FROM npllm.assignments a JOIN npllm.messages m ON m.id = a.vote_message_id
        WHERE m.customer_id <> a.customer_id OR m.rollout_id IS DISTINCT FROM a.rollout_id
           OR m.arm <> coalesce(a.vote_arm, a.arm)
        UNION ALL
        SELECT a.customer_id::text, 'votes without a rating'
        FROM npllm.assignments a JOIN npllm.messages m ON m.id = a.vote_message_id
        WHERE a.vote IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM npllm.feedback f WHERE f.message_id = m.id AND f.customer_id = a.customer_id
        )
        UNION ALL
        SELECT message_id::text, count(*) || ' current ratings of one person'
        FROM npllm.feedback WHERE superseded_at IS NULL AND message_id IS NOT NULL
        GROUP BY message_id, customer_id HAVING count(*) > 1
    """,
    "what was sent is told once": """
        SELECT o.id::text, count(e.id) || ' events of its sending'
        FROM npllm.outbox o LEFT JOIN npllm.events e
          ON e.type = 'reply.sent' AND e.data ->> 'message' = o.message_id::text AND (e.data ->> 'part')::int = o.part
          AND coalesce(e.data ->> 'kind', o.kind) = o.kind
        WHERE o.state = 'sent' GROUP BY o.id HAVING count(e.id) <> 1
        UNION ALL
        SELECT e.id::text, 'an event of a sending that did not happen'
        FROM npllm.events e WHERE e.type = 'reply.sent' AND e.data ->> 'message' IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM npllm.outbox o
            WHERE o.state = 'sent' AND o.message_id::text = e.data ->> 'message' AND o.part = (e.data ->> 'part')::int
        )
    """,
}

_WAITING = {
    "every message is handled": """
        SELECT source || ' ' || external_id, 'waits: ' || coalesce(error, 'not tried yet')
        FROM npllm.inbound_events WHERE handled_at IS NULL
    """,
    "everything is sent, or refused on the record": """
        SELECT id::text, state || ': ' || coalesce(error, '')
        FROM npllm.outbox WHERE state IN ('pending', 'sending') OR (state = 'unknown' AND delivery IS NULL)
    """,
}

_FIGURES = """
    SELECT count(*) FILTER (WHERE kind = 'message') AS messages,
           count(*) FILTER (WHERE kind = 'message' AND outcome LIKE 'answered:%') AS answered,
           count(*) FILTER (WHERE kind = 'message' AND handled_at IS NOT NULL
                            AND outcome NOT LIKE 'answered:%') AS refused,
           count(*) FILTER (WHERE handled_at IS NULL) AS waiting,
           (SELECT count(*) FROM npllm.outbox WHERE state = 'sent') AS sent,
           (SELECT count(*) FROM npllm.outbox WHERE state = 'failed') AS failed,
           (SELECT count(*) FROM npllm.outbox WHERE state = 'unknown') AS unknown
    FROM npllm.inbound_events
"""


@dataclass(frozen=True)
class Violation:
    """One thing that must not be."""

    rule: str
    subject: str
    says: str


@dataclass(frozen=True)
class History:
    """What was found. `figures` counts rows: messages, answered, refused, waiting, sent, failed, unknown."""

    figures: dict[str, int]
    violations: list[Violation] = field(default_factory=list)


def check(
    session: Session,
    *,
    settled: bool = False,
    acknowledged: Iterable[tuple[str, str]] = (),
    vendor_log: Sequence[Mapping[str, Any]] | None = None,
) -> History:
    """Every rule, on the whole history.

    Args:
        settled: nothing may wait any more (after a test); else what waits is only counted.
        acknowledged: (source, external id) of what a vendor was told we have.
        vendor_log: what the vendors accepted, as the fake ones list it at /_sent.
    """
    found: list[Violation] = []
    for rule, query in {**RULES, **(_WAITING if settled else {})}.items():
        wanted: dict[str, Any] = {"refusals": list(REFUSALS), "grace": GRACE}
        parameters = {name: value for name, value in wanted.items() if f":{name}" in query}
        found += [
            Violation(rule, str(subject), str(says)) for subject, says in session.execute(text(query), parameters)
        ]
    found += _lost(session, acknowledged)
    if vendor_log is not None:
        found += _against(session, vendor_log)
    return History(dict(session.execute(text(_FIGURES)).mappings().one()), found)


def _lost(session: Session, acknowledged: Iterable[tuple[str, str]]) -> list[Violation]:
    told = set(acknowledged)
    if not told:
        return []
    stored = {tuple(row) for row in session.execute(text("SELECT source, external_id FROM npllm.inbound_events"))}
    rule = "what was acknowledged is on the ledger"
    return [Violation(rule, f"{source} {key}", "is not there") for source, key in sorted(told - stored)]


def _against(session: Session, vendor_log: Sequence[Mapping[str, Any]]) -> list[Violation]:
    """Our outbox and the vendors' own list of what they took must be the same, one to one."""
    rule = "the vendor has each part once"
    ours = Counter(str(entry["ours"]) for entry in vendor_log if entry.get("ours"))
    found = [Violation(rule, row, f"taken {count} times") for row, count in ours.items() if count > 1]
    vendors = {str(entry["vendor"]) for entry in vendor_log}
    rows = session.execute(
        text(
            "SELECT channel, provider_message_id, id::text FROM npllm.outbox WHERE state = 'sent' AND channel <> 'web'"
        )
    ).all()
    known = {(channel, provider_id) for channel, provider_id, _ in rows}
    unsure = set(session.scalars(text("SELECT id::text FROM npllm.outbox WHERE state = 'unknown'")))
    taken = {(str(e["vendor"]), str(e["id"])) for e in vendor_log if e.get("ours") not in unsure}
    for channel, provider_id, row in rows:
        if channel in vendors and (channel, provider_id) not in taken:
            found.append(Violation(rule, row, "sent, says the outbox; the vendor never took it"))
    for channel, key in sorted(taken - known):
        found.append(Violation(rule, f"{channel} {key}", "taken by the vendor; the outbox does not know it"))
    return found
