"""Messages whose webhook was lost. Twilio tries for a quarter of a minute and never again, but keeps what people wrote:
what it has and the ledger has not is stored as if it had come.

The list tells less than a webhook does (no tap's button, no quote), so a message is left to its webhook for a while.
"""

import logging
from datetime import UTC, datetime, timedelta

import redis
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from bot.wiring import Awake
from core import events
from core.db import transaction
from core.messages import clean_payload
from core.tables import InboundEvent, PrivacyAction, now
from integrations.redis.queue import ring
from integrations.twilio import webhook
from integrations.twilio.client import WINDOW, TwilioClient

log = logging.getLogger(__name__)

SETTLED = timedelta(minutes=1)  # how long a message is left to its webhook
OVERLAP = timedelta(minutes=5)  # looked through once more: their clock is not ours
LOOKED = "npllm:looked:twilio"  # in Redis: when, in seconds


def look(awake: Awake) -> int:
    """Store what was missed since the last look; returns how many messages.

    Raises:
        Unavailable: Twilio cannot say, or refuses to.
    """
    client, started = awake.channels.get("twilio"), now()
    if not isinstance(client, TwilioClient):
        return 0
    with transaction(awake.engine) as session:
        since = _since(session, awake.redis)
    lanes: list[str] = []
    if since is not None:
        told = {form["MessageSid"]: form for at, form in client.received(since) if at <= started - SETTLED}
        with transaction(awake.engine) as session:
            known = select(InboundEvent.external_id).where(
                InboundEvent.source == "twilio", InboundEvent.external_id.in_(told)
            )
            missed = [told[sid] for sid in told.keys() - set(session.scalars(known))]
        lanes = _store(awake, [{**form, **client.media(form)} for form in missed])
    awake.redis.set(LOOKED, started.timestamp())
    ring(awake.redis, lanes)
    return len(lanes)


def _since(session: Session, client: redis.Redis) -> datetime | None:
    """None before the first webhook: what was written to this number until then was answered by somebody else. What an
    erasure took away is not fetched again."""
    looked: bytes | None = client.get(LOOKED)  # type: ignore[assignment]
    latest = select(func.max(InboundEvent.received_at)).where(InboundEvent.source == "twilio")
    start = datetime.fromtimestamp(float(looked), UTC) if looked else session.scalar(latest)
    if start is None:
        return None
    erased = session.scalar(select(func.max(PrivacyAction.at)).where(PrivacyAction.verb == "erase"))
    return max(start - OVERLAP, now() - WINDOW, *([erased] if erased else []))


def _store(awake: Awake, forms: list[dict[str, str]]) -> list[str]:
    """The lanes of what was new."""
    items = [item for form in forms for item in webhook.split(form)]
    if not items:
        return []
    rows = [
        {
            "source": "twilio", "external_id": item.external_id, "kind": item.kind, "lane": item.work_lane,
            "payload": clean_payload(item.payload),
        }
        for item in items
    ]  # fmt: skip
    statement = insert(InboundEvent).values(rows).on_conflict_do_nothing().returning(InboundEvent.lane)
    with transaction(awake.engine) as session:
        lanes = list(session.scalars(statement))
        if lanes:
            reason = f"Twilio took messages ({len(lanes)}) whose webhook never came. Look at its address at Twilio."
            log.warning("%s", reason)
            events.record(session, "alert.raised", channel="twilio", what="webhooks missed", reason=reason)
    return lanes
