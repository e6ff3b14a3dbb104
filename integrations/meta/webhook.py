"""What Meta sends us: the handshake, the signature, the batch, and each of its items.

https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks
"""

import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from core.errors import BadInput, BadSignature, NotAllowed
from core.messages import (
    Identifier,
    Inbound,
    InboundEdit,
    InboundItem,
    InboundMessage,
    InboundSignal,
    InboundStatus,
    Person,
    clean,
    read_feedback_button,
)
from core.reactions import text_rating, word_rating
from core.text import canonical_phone
from core.untrusted import as_dict, as_dicts

SILENT_TYPES = frozenset({"unsupported", "system", "request_welcome", "ephemeral", "unknown"})
MEDIA_TYPES = frozenset({"image", "video", "audio", "document", "sticker", "voice"})


def handshake(verify_token: str, mode: str | None, token: str | None, challenge: str | None) -> str:
    """The bare challenge, if Meta knows our token.

    Raises:
        NotAllowed: another token.
    """
    if mode == "subscribe" and token and challenge and hmac.compare_digest(token.encode(), verify_token.encode()):
        return challenge
    raise NotAllowed("hub.verify_token is not ours.", "Enter META_VERIFY_TOKEN in the app's webhook settings.")


def verify(app_secret: str, body: bytes, signature: str | None) -> None:
    """Check X-Hub-Signature-256 over the raw bytes: Meta escapes non-ASCII, re-serialised JSON would not match.

    Raises:
        BadSignature: missing or wrong.
    """
    expected = "sha256=" + hmac.new(app_secret.encode(), body, hashlib.sha256).hexdigest()
    if not signature or not hmac.compare_digest(signature.encode(), expected.encode()):
        raise BadSignature("X-Hub-Signature-256 does not fit this body.", "Check META_APP_SECRET.")


def split(body: bytes) -> list[InboundItem]:
    """Every message and status of every change of every entry: Meta batches up to 1,000 in one POST.

    Raises:
        BadInput: signed, but no JSON object.
    """
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise BadInput("The body is not a JSON object.", "Point Meta's WhatsApp webhook at this address.")
    items: list[InboundItem] = []
    for change in _changes(data):
        value = change.get("value")
        if not isinstance(value, dict):
            continue
        number = str(as_dict(value.get("metadata")).get("phone_number_id", ""))
        contacts = as_dicts(value.get("contacts"))
        for message in as_dicts(value.get("messages")):
            items.append(_message_item(number, message, _contact_of(message, contacts)))
        for status in as_dicts(value.get("statuses")):
            key = f"{status.get('id')}:status:{status.get('status')}"
            items.append(InboundItem(key, "status", f"meta:{number}:{status.get('id')}", {"status": status}))
        if not value.get("messages") and not value.get("statuses"):
            digest = hashlib.sha256(json.dumps(change, sort_keys=True).encode()).hexdigest()
            items.append(InboundItem(f"change:{digest}", "ignored", f"meta:{number}", {"change": change}))
    return items


def _message_item(number: str, message: dict[str, Any], contact: dict[str, Any]) -> InboundItem:
    payload = {"phone_number_id": number, "message": message, "contact": contact}
    lane = f"meta:{number}:{_person(message, contact).identifiers[0].value}"
    key = str(message.get("id") or hashlib.sha256(json.dumps(message, sort_keys=True).encode()).hexdigest())
    kind = message.get("type")
    if kind in ("edit", "revoke"):
        return InboundItem(key, "edit" if kind == "edit" else "delete", lane, payload)
    if _signal(payload) is not None:
        return InboundItem(key, "signal", lane, payload)
    if kind in SILENT_TYPES or (kind == "reaction") or _is_blank(message):
        return InboundItem(key, "ignored", lane, payload)
    return InboundItem(key, "message", lane, payload)


def read(kind: str, payload: dict[str, Any]) -> Inbound | None:
    """A ledger item in the bot's words; None for what is deliberately ignored."""
    if kind == "status":
        return _status(as_dict(payload.get("status")))
    if kind == "signal":
        return _signal(payload)
    message, contact = as_dict(payload.get("message")), as_dict(payload.get("contact"))
    if kind in ("edit", "delete"):
        changed = as_dict(message.get(str(message.get("type"))))
        original = str(changed.get("original_message_id") or changed.get("message_id") or "")
        inner = as_dict(changed.get("message"))
        text = clean(_text(inner) or _text(message)) if kind == "edit" else None
        return InboundEdit("meta", original, text)
    if kind != "message":
        return None
    return InboundMessage(
        channel="meta",
        person=_person(message, contact),
        provider_message_id=str(message.get("id", "")),
        text=clean(_text(message)),
        kind=_kind(message),
        quoted=as_dict(message.get("context")).get("id"),
        sent_at=_when(message.get("timestamp")),
        address=_address(payload, message, contact),
        attachments=_attachments(message),
    )


def _status(status: dict[str, Any]) -> InboundStatus:
    errors = as_dicts(status.get("errors"))
    return InboundStatus(
        channel="meta",
        provider_message_id=str(status.get("id", "")),
        delivery=str(status.get("status", "")),
        our_id=status.get("biz_opaque_callback_data"),
        error=str(errors[0].get("code")) if errors else None,
    )


def _signal(payload: dict[str, Any]) -> InboundSignal | None:
    """A reaction, a tap on a button of ours, or a message that is nothing but a rating."""
    message, contact = as_dict(payload.get("message")), as_dict(payload.get("contact"))
    person, at = _person(message, contact), _when(message.get("timestamp"))
    quoted = as_dict(message.get("context")).get("id")
    if message.get("type") == "reaction":
        reaction = as_dict(message.get("reaction"))
        target = reaction.get("message_id") or reaction.get("messsage_id")  # Meta's own sample misspelt it for years
        if not target:
            return None
        emoji = reaction.get("emoji") or ""  # missing, null and "" all mean: taken back
        op = "replace" if emoji else "remove"
        return InboundSignal("meta", person, "reaction", op, emoji, target=str(target), given_at=at)  # type: ignore[arg-type]
    tapped = as_dict(as_dict(message.get("interactive")).get("button_reply")).get("id") or as_dict(
        message.get("button")
    ).get("payload")
    if button := read_feedback_button(str(tapped or "")):
        answer_id, verdict = button
        raw = "👍" if verdict == "up" else "👎"
        return InboundSignal("meta", person, "button", "replace", raw, answer_id=answer_id, target=quoted, given_at=at)
    if message.get("type") != "text":
        return None
    text = clean(_text(message))
    rating = text_rating(text) or (word_rating(text) if quoted else None)
    if rating is None:
        return None
    return InboundSignal("meta", person, rating.signal, "replace", text, target=quoted, given_at=at)


def _text(message: dict[str, Any]) -> str:
    """What the person wrote or chose, wherever the type keeps it."""
    kind = str(message.get("type", ""))
    body = as_dict(message.get(kind))
    if kind == "interactive":
        reply = as_dict(body.get("button_reply")) or as_dict(body.get("list_reply")) or as_dict(body.get("nfm_reply"))
        return str(reply.get("title") or reply.get("body") or "")
    if kind == "button":
        return str(body.get("text") or body.get("payload") or "")
    return str(body.get("body") or body.get("caption") or "")


def _kind(message: dict[str, Any]) -> str:
    kind = str(message.get("type", ""))
    if kind in ("text", "interactive", "button"):
        return "text"
    return kind if kind in MEDIA_TYPES | {"location", "contacts", "order"} else "unknown"


def _is_blank(message: dict[str, Any]) -> bool:
    return _kind(message) == "text" and not clean(_text(message))


def _attachments(message: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    kind = str(message.get("type", ""))
    if kind not in MEDIA_TYPES:
        return ()
    body = as_dict(message.get(kind))
    return ({"id": body.get("id"), "type": body.get("mime_type"), "voice": bool(body.get("voice"))},)


def _person(message: dict[str, Any], contact: dict[str, Any]) -> Person:
    """Phone if there is one; else the business-scoped user id (people with a username may hide their number)."""
    identifiers = []
    if phone := canonical_phone(str(message.get("from") or contact.get("wa_id") or "")):
        identifiers.append(Identifier("phone", phone))
    if bsuid := message.get("from_user_id") or contact.get("user_id"):
        identifiers.append(Identifier("bsuid", str(bsuid)))
    if parent := message.get("from_parent_user_id") or contact.get("parent_user_id"):
        identifiers.append(Identifier("parent_bsuid", str(parent)))
    if not identifiers:
        identifiers.append(Identifier("wa_id", str(message.get("from") or contact.get("wa_id") or "unknown")))
    return Person(tuple(identifiers), clean(as_dict(contact.get("profile")).get("name")) or None)


def _address(payload: dict[str, Any], message: dict[str, Any], contact: dict[str, Any]) -> dict[str, Any]:
    phone = message.get("from") or contact.get("wa_id")
    to = {"to": str(phone)} if phone else {"recipient": str(message.get("from_user_id") or contact.get("user_id"))}
    return {**to, "phone_number_id": payload.get("phone_number_id"), "reply_to": message.get("id")}


def _contact_of(message: dict[str, Any], contacts: list[dict[str, Any]]) -> dict[str, Any]:
    for contact in contacts:
        if message.get("from") and contact.get("wa_id") == message.get("from"):
            return contact
        if message.get("from_user_id") and contact.get("user_id") == message.get("from_user_id"):
            return contact
    return contacts[0] if len(contacts) == 1 else {}


def _when(timestamp: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(timestamp), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _changes(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in as_dicts(data.get("entry")):
        yield from as_dicts(entry.get("changes"))
