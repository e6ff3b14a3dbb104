"""The website as a channel: what its API stores, and how an answer gets back to the waiting page.

The worker publishes the pieces of an answer in Redis, and that there is a whole one; the web process that holds the
visitor's request listens. The answer itself lies in Postgres, and is read there.
"""

import json
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

import redis

from core.messages import Identifier, Inbound, InboundMessage, InboundSignal, Limits, Outgoing, Person, clean
from core.untrusted import as_dict

log = logging.getLogger(__name__)

MAX_TEXT = 20_000


def topic(message_key: str) -> str:
    """Where the answer to one message is published."""
    return f"npllm:web:{message_key}"


def read(kind: str, payload: dict[str, Any]) -> Inbound | None:
    """A ledger item of the chat API in the bot's words."""
    person = Person((Identifier("visitor", str(payload.get("visitor"))),), clean(payload.get("name")) or None)
    if kind == "message":
        key = str(payload.get("key"))
        return InboundMessage(
            channel="web", person=person, provider_message_id=key, text=clean(payload.get("text")),
            address={"visitor": payload.get("visitor"), "key": key},
        )  # fmt: skip
    if kind == "signal":
        signal = as_dict(payload.get("signal"))
        return InboundSignal(
            channel="web",
            person=person,
            signal=signal.get("kind", "button"),
            op=signal.get("op", "replace"),
            raw=str(signal.get("raw", "")),
            answer_id=signal.get("answer_id"),
            comment=clean(signal.get("comment")) or None,
        )
    return None


class WebClient:
    """Sends to whoever waits for this message."""

    max_text = MAX_TEXT
    supports_lookup = True  # publishing twice harms nobody: it only makes the page look
    limits = Limits()

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client

    def send(self, outgoing: Outgoing) -> str:
        self._publish(outgoing.address, {"type": "message"})
        return outgoing.our_id

    def lookup(self, outgoing: Outgoing, since: datetime) -> str | None:
        return None

    def writer(self, message: InboundMessage) -> Callable[[str], None] | None:
        """Where the pieces of a reply go while it is generated; None on channels that cannot show them."""
        if message.channel != "web":
            return None
        return lambda piece: self._publish(message.address, {"type": "piece", "text": piece})

    def done(self, inbound: Inbound | None) -> None:
        """Nothing more comes for this message (there may have been no answer to it at all)."""
        if isinstance(inbound, InboundMessage) and inbound.channel == "web":
            self._publish(inbound.address, {"type": "done"})

    def _publish(self, address: dict[str, Any], data: dict[str, Any]) -> None:
        try:
            self.redis.publish(topic(str(address.get("key"))), json.dumps(data, ensure_ascii=False))
        except redis.RedisError as error:
            log.warning("The waiting page was not told (%s); it finds the answer in its history.", type(error).__name__)
