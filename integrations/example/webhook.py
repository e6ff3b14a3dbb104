"""What Recado sends us: verify the signature, split into ledger items, read an item.

A body is {"event": "message", "id", "from", "name", "text", "reply_to"},
or {"event": "delivery", "id", "status", "ref"}.
"""

import hashlib
import hmac
from typing import Any

from core.errors import BadSignature
from core.messages import Identifier, Inbound, InboundItem, InboundMessage, InboundSignal, InboundStatus, Person, clean
from core.reactions import text_rating
from core.text import canonical_phone
from core.untrusted import as_text, digest, read_object

CHANNEL: Any = "example"  # a real one is named in core.messages.Channel


def verify(secret: str, body: bytes, signature: str | None) -> None:
    """Check X-Recado-Signature: hex HMAC-SHA256 of the raw bytes.

    Raises:
        BadSignature: missing or wrong.
    """
    expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    if not signature or not hmac.compare_digest(signature.encode(), expected.encode()):
        raise BadSignature("X-Recado-Signature does not fit this body.", "Check RECADO_SECRET.")


def split(body: bytes) -> list[InboundItem]:
    """One body is one item; its key is the vendor's id, which is the same however often it is delivered.

    Raises:
        BadInput: signed, but no JSON object.
    """
    data = read_object(body)
    key, lane = as_text(data.get("id")) or digest(data), f"example:{_sender(data) or 'unknown'}"
    if data.get("event") == "delivery":
        return [InboundItem(f"{key}:status:{as_text(data.get('status'))}", "status", f"example:{key}", data)]
    if data.get("event") != "message" or not _sender(data) or not clean(as_text(data.get("text"))):
        return [InboundItem(key, "ignored", lane, data)]  # kept, never answered
    return [InboundItem(key, "signal" if _signal(data) else "message", lane, data)]


def read(kind: str, data: dict[str, Any]) -> Inbound | None:
    """A ledger item in the bot's words; None for what is deliberately ignored."""
    if kind == "status":
        return InboundStatus(CHANNEL, as_text(data.get("id")), as_text(data.get("status")), as_text(data.get("ref")))
    if kind == "signal":
        return _signal(data)
    if kind != "message":
        return None
    return InboundMessage(
        CHANNEL, _person(data), as_text(data.get("id")) or digest(data), clean(as_text(data.get("text"))),
        {"to": as_text(data.get("from"))}, quoted=as_text(data.get("reply_to")) or None,
    )  # fmt: skip


def _signal(data: dict[str, Any]) -> InboundSignal | None:
    """A message that is nothing but a rating."""
    text = clean(as_text(data.get("text")))
    if (rating := text_rating(text)) is None:
        return None
    target = as_text(data.get("reply_to")) or None
    return InboundSignal(CHANNEL, _person(data), rating.signal, "replace", text, target=target)


def _sender(data: dict[str, Any]) -> str:
    return canonical_phone(as_text(data.get("from"))) or ""


def _person(data: dict[str, Any]) -> Person:
    return Person((Identifier("phone", _sender(data)),), clean(as_text(data.get("name"))) or None)
