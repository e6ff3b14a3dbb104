"""What Meta sends us: the handshake, the signature, the batch, and each of its items.

https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from core.errors import BadSignature, NotAllowed, TooLarge
from core.messages import (
    MAX_TEXT,
    VERDICTS,
    Identifier,
    Inbound,
    InboundEdit,
    InboundItem,
    InboundMessage,
    InboundPerson,
    InboundSignal,
    InboundStatus,
    Op,
    Person,
    clean,
    read_feedback_button,
)
from core.reactions import text_rating, word_rating
from core.text import canonical_phone, is_user_id
from core.untrusted import as_dict, as_dicts, as_text, digest, read_object
from integrations.meta.errors import action_of

SILENT_TYPES = frozenset({"", "unsupported", "system", "request_welcome", "ephemeral", "unknown"})
Named = tuple[str, str | None]  # a kind of identifier, and its value if there is one
MOVES = frozenset({"user_changed_number", "customer_changed_number", "user_changed_user_id"})
_MOVE = re.compile(r"changed from (\S+) to (\S+)")
UNKNOWN = "unknown"
SPOKEN = frozenset({"", "messages"})  # fields whose messages somebody sends now; a `history` has them half a year old
MEDIA_TYPES = frozenset({"image", "video", "audio", "document", "sticker", "voice"})
MAX_ITEM = 256 * 1024  # bytes that are kept of one message; a batch of 1,000 may have 3 MB


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

    An update with neither is stored as ignored, so that nothing Meta signed is gone.

    Raises:
        BadInput: signed, but no JSON object.
        TooLarge: a message that came alone is larger than WhatsApp lets anybody write.
    """
    data = read_object(body)
    items = [item for change in _changes(data) for item in _items(change)]
    if not items:
        items = [InboundItem(f"body:{digest(data)}", "ignored", "meta:", data)]
    if len(body) <= MAX_ITEM:
        return items
    if len(items) == 1 and items[0].kind == "message":
        raise TooLarge(f"{items[0].external_id} has more than {MAX_ITEM} bytes.", "WhatsApp sends no such message.")
    return [_bounded(item) for item in items]


def _bounded(item: InboundItem) -> InboundItem:
    """The item as it may be kept. One that is larger than WhatsApp lets anybody write loses what nobody reads of its
    texts, and else itself: it must not take the rest of its batch with it, which Meta would send again for days."""
    if len(json.dumps(item.payload)) <= MAX_ITEM:
        return item
    payload = _shortened(item.payload)
    if (size := len(json.dumps(payload))) <= MAX_ITEM:
        return replace(item, payload=payload)
    return replace(item, kind="ignored", payload={"bytes": size})


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    return value[:MAX_TEXT] if isinstance(value, str) else value


def _items(change: dict[str, Any]) -> list[InboundItem]:
    value = as_dict(change.get("value"))
    number = as_text(as_dict(value.get("metadata")).get("phone_number_id"))
    contacts = as_dicts(value.get("contacts"))
    said = as_dicts(value.get("messages")) if as_text(change.get("field")) in SPOKEN else []
    items = [_message_item(number, message, _contact_of(message, contacts)) for message in said]
    for status in as_dicts(value.get("statuses")):
        wamid = as_text(status.get("id")) or digest(status)
        key = f"{wamid}:status:{as_text(status.get('status'))}"
        items.append(InboundItem(key, "status", f"meta:{number}:{wamid}", {"status": status}))
    for name in ("user_id_update", "user_preferences"):
        for told in as_dicts(value.get(name)):
            items.append(InboundItem(f"{name}:{digest(told)}", "person", f"meta:{number}:people", {name: told}))
    return items or [InboundItem(f"change:{digest(change)}", "ignored", f"meta:{number}", {"change": change})]


def _message_item(number: str, message: dict[str, Any], contact: dict[str, Any]) -> InboundItem:
    payload = {"phone_number_id": number, "message": message, "contact": contact}
    sender = _person(message, contact).identifiers[0].value
    key, lane = as_text(message.get("id")) or digest(message), f"meta:{number}:{sender}"
    kind = as_text(message.get("type"))
    if message.get("group_id"):  # said among several: an answer would go to its writer alone
        return InboundItem(key, "ignored", lane, payload)
    if kind in ("edit", "revoke"):
        return InboundItem(key, "edit" if kind == "edit" else "delete", lane, payload)
    if kind == "system" and _moved(message) is not None:
        return InboundItem(key, "person", f"meta:{number}:people", payload)
    if sender == UNKNOWN or kind in SILENT_TYPES:
        return InboundItem(key, "ignored", lane, payload)
    if _signal(payload) is not None:
        return InboundItem(key, "signal", lane, payload)
    if kind == "reaction" or _is_blank(message):
        return InboundItem(key, "ignored", lane, payload)
    return InboundItem(key, "message", lane, payload)


def read(kind: str, payload: dict[str, Any]) -> Inbound | None:
    """A ledger item in the bot's words; None for what is deliberately ignored."""
    if kind == "status":
        return _status(as_dict(payload.get("status")))
    if kind == "signal":
        return _signal(payload)
    if kind == "person":
        return _told(payload)
    message, contact = as_dict(payload.get("message")), as_dict(payload.get("contact"))
    if kind in ("edit", "delete"):
        changed = as_dict(message.get(as_text(message.get("type"))))
        original = as_text(changed.get("original_message_id")) or as_text(changed.get("message_id"))
        inner = as_dict(changed.get("message"))
        text = clean(_text(inner) or _text(message)) if kind == "edit" else None
        at, person = _when(message.get("timestamp")), _person(message, contact)
        return InboundEdit("meta", original, text, (original,), at, person)
    if kind != "message":
        return None
    return InboundMessage(
        channel="meta",
        person=_person(message, contact),
        provider_message_id=as_text(message.get("id")) or digest(message),
        text=clean(_text(message)),
        kind=_kind(message),
        quoted=_quoted(message),
        sent_at=_when(message.get("timestamp")),
        address=_address(payload, message, contact),
        attachments=_attachments(message),
    )


def _status(status: dict[str, Any]) -> InboundStatus:
    errors = as_dicts(status.get("errors"))
    code = as_text(errors[0].get("code")) or None if errors else None
    return InboundStatus(
        channel="meta",
        provider_message_id=as_text(status.get("id")),
        delivery=as_text(status.get("status")),
        our_id=as_text(status.get("biz_opaque_callback_data")) or None,
        error=code,
        action=action_of(code) if code else None,
    )


def _told(payload: dict[str, Any]) -> InboundPerson | None:
    """A new user id, a new number, or what the person wants no more of."""
    update, preference = as_dict(payload.get("user_id_update")), as_dict(payload.get("user_preferences"))
    if update:
        known: list[Named] = [("phone", canonical_phone(as_text(update.get("wa_id"))))]
        now: list[Named] = []
        for kind, name in (("bsuid", "user_id"), ("parent_bsuid", "parent_user_id")):
            change = as_dict(update.get(name))
            known.append((kind, as_text(change.get("previous"))))
            now.append((kind, as_text(change.get("current"))))
        return _changed(known, now)
    if preference:
        person = _identifiers(
            ("phone", canonical_phone(as_text(preference.get("wa_id")))), ("bsuid", as_text(preference.get("user_id")))
        )
        wish = {"stop": False, "resume": True}.get(as_text(preference.get("value")))
        return InboundPerson("meta", Person(person), templates=wish) if person and wish is not None else None
    return _moved(as_dict(payload.get("message")))


def _moved(message: dict[str, Any]) -> InboundPerson | None:
    """A system message of a person's new number or user id."""
    system = as_dict(message.get("system"))
    if as_text(system.get("type")) not in MOVES:
        return None
    said = _MOVE.search(as_text(system.get("body")))
    before = as_text(system.get("previous_user_id")) or (said[1] if said and is_user_id(said[1]) else "")
    old = canonical_phone(as_text(message.get("from")))
    new = canonical_phone(as_text(system.get("wa_id")) or as_text(system.get("new_wa_id")))
    known = [("phone", old), ("bsuid", as_text(message.get("from_user_id"))), ("bsuid", before)]
    now: list[Named] = [
        ("phone", new), ("bsuid", as_text(system.get("user_id"))),
        ("parent_bsuid", as_text(system.get("parent_user_id"))),
    ]  # fmt: skip
    return _changed(known, now, gone=[("phone", old)] if new and new != old else [])


def _changed(known: Sequence[Named], now: Sequence[Named], gone: Sequence[Named] = ()) -> InboundPerson | None:
    person, news = _identifiers(*known), _identifiers(*now)
    return InboundPerson("meta", Person(person), news, _identifiers(*gone)) if person and news else None


def _identifiers(*named: Named) -> tuple[Identifier, ...]:
    return tuple(dict.fromkeys(Identifier(kind, value) for kind, value in named if value))


def _signal(payload: dict[str, Any]) -> InboundSignal | None:
    """A reaction, a tap on a button of ours, or a message that is nothing but a rating."""
    message, contact = as_dict(payload.get("message")), as_dict(payload.get("contact"))
    person, at = _person(message, contact), _when(message.get("timestamp"))
    quoted = _quoted(message)
    if message.get("type") == "reaction":
        reaction = as_dict(message.get("reaction"))
        # Meta's own sample misspelt the key for years, and it was copied around.
        target = as_text(reaction.get("message_id")) or as_text(reaction.get("messsage_id"))
        if not target:
            return None
        emoji = clean(as_text(reaction.get("emoji")))  # missing, null and "" all mean: taken back
        op: Op = "replace" if emoji else "remove"
        return InboundSignal("meta", person, "reaction", op, emoji, target=target, given_at=at)
    tapped = as_dict(as_dict(message.get("interactive")).get("button_reply")).get("id")
    if button := read_feedback_button(as_text(tapped) or as_text(as_dict(message.get("button")).get("payload"))):
        answer_id, verdict = button
        signal, raw = VERDICTS[verdict]
        return InboundSignal("meta", person, signal, "replace", raw, answer_id=answer_id, target=quoted, given_at=at)
    if _kind(message) != "text":
        return None
    text = clean(_text(message))
    is_typed = message.get("type") == "text"
    rating = text_rating(text) or (word_rating(text) if quoted and is_typed else None)
    if rating is None:
        return None
    return InboundSignal("meta", person, rating.signal, "replace", text, target=quoted, given_at=at)


def _quoted(message: dict[str, Any]) -> str | None:
    return as_text(as_dict(message.get("context")).get("id")) or None


def _text(message: dict[str, Any]) -> str:
    """What the person wrote or chose, wherever the type keeps it."""
    kind = as_text(message.get("type"))
    body = as_dict(message.get(kind))
    if kind == "interactive":
        if form := as_dict(body.get("nfm_reply")):
            return _answers(form)
        reply = as_dict(body.get("button_reply")) or as_dict(body.get("list_reply"))
        return as_text(reply.get("title"))
    names = ("text", "payload") if kind == "button" else ("body", "caption", "text")
    return next(filter(None, (as_text(body.get(name)) for name in names)), "")


def _answers(form: dict[str, Any]) -> str:
    """What was filled in, a line each; `body` says "Sent" whatever it was, but of an address it is the address."""
    if form.get("name") == "address_message":
        return as_text(form.get("body"))
    try:
        found = as_dict(json.loads(as_text(form.get("response_json"))))
    except (ValueError, RecursionError):
        return ""
    lines = ((name.replace("_", " "), _words(value)) for name, value in found.items() if name != "flow_token")
    return "\n".join(f"{label}: {value}" for label, value in lines if value)


def _words(value: Any) -> str:
    """An answer, or several chosen; what is nested deeper is a file or Meta's own."""
    if isinstance(value, list):
        return ", ".join(filter(None, (_words(one) for one in value if not isinstance(one, list))))
    if isinstance(value, bool):
        return "✓" if value else "✗"
    return str(value) if isinstance(value, float) else as_text(value).strip()


def _kind(message: dict[str, Any]) -> str:
    kind = as_text(message.get("type"))
    if kind in ("text", "interactive", "button"):
        return "text"
    return kind if kind in MEDIA_TYPES | {"location", "contacts", "order"} else "unknown"


def _is_blank(message: dict[str, Any]) -> bool:
    return _kind(message) == "text" and not clean(_text(message))


def _attachments(message: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    kind = as_text(message.get("type"))
    if kind not in MEDIA_TYPES:
        return ()
    body = as_dict(message.get(kind))
    facts = {"id": as_text(body.get("id")), "type": as_text(body.get("mime_type")), "voice": body.get("voice") is True}
    return (facts,)


def _person(message: dict[str, Any], contact: dict[str, Any]) -> Person:
    """Phone if there is one; else the business-scoped user id (people with a username may hide their number)."""
    sender, bsuid = _sender(message, contact), _bsuid(message, contact)
    parent = as_text(message.get("from_parent_user_id")) or as_text(contact.get("parent_user_id"))
    phone = canonical_phone(sender)
    named = [("phone", phone), ("bsuid", bsuid), ("parent_bsuid", parent)]
    identifiers = [Identifier(kind, value) for kind, value in named if value]
    if not identifiers:
        identifiers = [Identifier("wa_id", sender or UNKNOWN)]
    return Person(tuple(identifiers), clean(as_text(as_dict(contact.get("profile")).get("name"))) or None)


def _sender(message: dict[str, Any], contact: dict[str, Any]) -> str:
    """The WhatsApp id: a phone number's digits, a Brazilian one's with or without the ninth."""
    sender = clean(as_text(message.get("from"))) or clean(as_text(contact.get("wa_id")))
    return "" if is_user_id(sender) else sender


def _bsuid(message: dict[str, Any], contact: dict[str, Any]) -> str:
    named = (message.get("from_user_id"), contact.get("user_id"), message.get("from"), contact.get("wa_id"))
    found = [as_text(value) for value in named]
    return found[0] or found[1] or next(filter(is_user_id, found[2:]), "")


def _address(payload: dict[str, Any], message: dict[str, Any], contact: dict[str, Any]) -> dict[str, Any]:
    """Where an answer goes. A person without a number is a `recipient`, not a `to`."""
    sender = _sender(message, contact)
    to = {"to": sender} if sender else {"recipient": _bsuid(message, contact)}
    return {**to, "phone_number_id": payload.get("phone_number_id"), "reply_to": as_text(message.get("id"))}


def _contact_of(message: dict[str, Any], contacts: list[dict[str, Any]]) -> dict[str, Any]:
    """The sender's own contact; never another one's: its ids would make two people one."""
    sender, bsuid = as_text(message.get("from")), as_text(message.get("from_user_id"))
    phone = canonical_phone(sender)
    for contact in contacts:
        wa_id = as_text(contact.get("wa_id"))
        if (sender and wa_id == sender) or (phone and canonical_phone(wa_id) == phone):
            return contact
        if bsuid and contact.get("user_id") == bsuid:
            return contact
    return contacts[0] if len(contacts) == 1 and not sender and not bsuid else {}


def _when(timestamp: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(as_text(timestamp)), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _changes(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in as_dicts(data.get("entry")):
        yield from as_dicts(entry.get("changes"))
