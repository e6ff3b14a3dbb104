"""People who write to us: vendors' webhooks, split as the web process does it, as unhandled rows of the ledger."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from sqlalchemy import select

from bot import jobs
from bot.simulator import traffic
from bot.wiring import Awake
from core.db import transaction
from core.messages import InboundItem, clean_payload
from core.tables import InboundEvent, Message, OutboxItem
from integrations.meta import webhook as meta
from integrations.slack import webhook as slack
from integrations.twilio import webhook as twilio

ANA, RUI = "+5511987650001", "+5511987650002"
SLACK_USER = "U0ANA"


class Street:
    """Each method stores what one person did and returns its lane; `answer` lets a worker handle that lane."""

    def __init__(self, awake: Awake) -> None:
        self.awake = awake

    def store(self, source: str, items: Sequence[InboundItem], **facts: Any) -> str:
        """Put items into the ledger once each, as `bot.intake` does."""
        with transaction(self.awake.engine) as session:
            for item in items:
                key = InboundEvent.external_id == item.external_id
                if session.scalar(select(InboundEvent.id).where(InboundEvent.source == source, key)) is None:
                    payload = clean_payload(item.payload)
                    event = InboundEvent(
                        source=source, external_id=item.external_id, kind=item.kind, lane=item.work_lane,
                        payload=payload, **facts,
                    )  # fmt: skip
                    session.add(event)
        return items[0].work_lane

    def meta(self, said: str | dict[str, Any], *, sender: str = ANA, name: str = "", **facts: Any) -> str:
        """A WhatsApp message through Meta: a text, or a message object of any type."""
        message = {"type": "text", "text": {"body": said}} if isinstance(said, str) else said
        signed = traffic.meta_message(self.awake.settings, message, sender=sender, name=name)
        return self.store("meta", meta.split(signed.body), **facts)

    def meta_reacts(self, target: str, emoji: str | None, *, sender: str = ANA) -> str:
        signed = traffic.meta_reaction(self.awake.settings, target, emoji, sender=sender)
        return self.store("meta", meta.split(signed.body))

    def twilio(self, said: str, *, sender: str = ANA, **fields: str) -> str:
        """A WhatsApp message through Twilio; `fields` are Twilio's own."""
        signed = traffic.twilio_message(self.awake.settings, said, sender=sender, **fields)
        return self.store("twilio", twilio.split(dict(parse_qsl(signed.body.decode(), keep_blank_values=True))))

    def slack(self, said: str, *, user: str = SLACK_USER, channel: str = "D0ANA", **fields: Any) -> str:
        import json

        signed = traffic.slack_message(self.awake.settings, said, user=user, channel=channel, **fields)
        return self.store("slack", slack.split(json.loads(signed.body)))

    def web(self, said: str, *, visitor: str = "visitor-1", key: str = "key-1") -> str:
        payload = {"visitor": visitor, "key": key, "text": said}
        return self.store("web", [InboundItem(key, "message", f"web:{visitor}", payload)])

    def answer(self, lane: str) -> None:
        """What a worker does when the bell rings for a lane."""
        jobs.answer(lane)

    def says(self, said: str, **facts: Any) -> None:
        """Through Meta, and handled at once."""
        self.answer(self.meta(said, **facts))

    # What came of it --------------------------------------------------------------------------------------------------

    def events(self) -> list[InboundEvent]:
        with transaction(self.awake.engine) as session:
            return list(session.scalars(select(InboundEvent).order_by(InboundEvent.id)))

    def messages(self, direction: str | None = None) -> list[Message]:
        with transaction(self.awake.engine) as session:
            found = list(session.scalars(select(Message).order_by(Message.id)))
        return [message for message in found if direction in (None, message.direction)]

    def outbox(self) -> list[OutboxItem]:
        with transaction(self.awake.engine) as session:
            return list(session.scalars(select(OutboxItem).order_by(OutboxItem.message_id, OutboxItem.part)))
