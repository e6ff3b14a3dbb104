"""What Twilio sends us: verify the signature, split into ledger items, read an item.

https://www.twilio.com/docs/usage/webhooks/webhooks-security
"""

import hashlib
import json
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import ImmutableMultiDict
from twilio.request_validator import RequestValidator

from core.errors import BadInput, BadSignature
from core.messages import (
    Identifier,
    Inbound,
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

Form = dict[str, str]


def verify(token: str, url: str, body: bytes, content_type: str, signature: str | None, query: str) -> Form:
    """The request's fields, if Twilio signed them.

    Args:
        url: the public address Twilio called, raw query included (never the fragment).

    Raises:
        BadSignature: missing or wrong.
        BadInput: signed, but neither a form nor JSON.
    """
    validator = RequestValidator(token)
    if not signature:
        raise BadSignature("The request has no X-Twilio-Signature.", "Only Twilio may call this address.")
    if content_type.startswith("application/json"):
        digests = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "bodySHA256"]
        genuine = validator.validate(url, {}, signature) and digests == [hashlib.sha256(body).hexdigest()]
        fields: Any = _json(body) if genuine else {}
    else:
        # Blank fields are signed too: a parser that drops them breaks every message with media.
        pairs = ImmutableMultiDict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        genuine = validator.validate(url, pairs, signature)
        fields = dict(pairs)
    if not genuine:
        raise BadSignature(
            "X-Twilio-Signature does not fit this request.",
            "Check TWILIO_AUTH_TOKEN (the primary one), and that PUBLIC_BASE_URL is the address Twilio calls.",
        )
    return {str(name): str(value) for name, value in fields.items()}


def _json(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
        if isinstance(data, dict):
            return data
    except ValueError:
        pass
    raise BadInput("The body is not a JSON object.", "Twilio sends forms or JSON objects.")


def split(form: Form) -> list[InboundItem]:
    """One webhook is one message; the ledger's key is its MessageSid."""
    sid = form.get("MessageSid") or form.get("SmsMessageSid") or form.get("SmsSid")
    if not sid:
        raise BadInput("The request has no MessageSid.", "Point Twilio's incoming-message webhook at this address.")
    lane = f"twilio:{_address(form)}"
    if _signal(form):
        return [InboundItem(sid, "signal", lane, dict(form))]
    return [InboundItem(sid, "ignored" if is_blank(form) else "message", lane, dict(form))]


def split_status(form: Form, our_id: str | None) -> list[InboundItem]:
    """A status callback. It has no id of its own: message, status and error code make one."""
    sid = form.get("MessageSid") or form.get("SmsSid")
    status = form.get("MessageStatus") or form.get("SmsStatus")
    if not sid or not status:
        raise BadInput("The status callback has no MessageSid or MessageStatus.", "See Twilio's StatusCallback.")
    payload = {**form, "our_id": our_id}
    return [InboundItem(f"{sid}:status:{status}:{form.get('ErrorCode', '')}", "status", f"twilio:{sid}", payload)]


def is_blank(form: Form) -> bool:
    """Nothing to read: probably a reaction, of which Twilio shows no more than this. It never wakes the model."""
    return not (
        form.get("Body", "").strip()
        or _media_count(form)
        or form.get("Latitude")
        or form.get("ButtonPayload")
        or form.get("ButtonText")
        or form.get("ListId")
        or form.get("ListTitle")
    )


def read(kind: str, form: Form) -> Inbound | None:
    """A ledger item in the bot's words; None for what is deliberately ignored."""
    if kind == "status":
        return InboundStatus(
            channel="twilio",
            provider_message_id=form.get("MessageSid") or form.get("SmsSid", ""),
            delivery=form.get("MessageStatus") or form.get("SmsStatus", ""),
            our_id=form.get("our_id"),
            error=form.get("ErrorCode") or None,
        )
    if kind == "signal":
        return _signal(form)
    if kind != "message":
        return None
    media = [
        {"url": form.get(f"MediaUrl{i}", ""), "type": form.get(f"MediaContentType{i}", "")}
        for i in range(_media_count(form))
    ]
    return InboundMessage(
        channel="twilio",
        person=_person(form),
        provider_message_id=form.get("MessageSid") or form.get("SmsSid", ""),
        text=clean(form.get("Body") or form.get("ButtonText") or form.get("ListTitle")),
        kind=_kind(form, media),
        quoted=form.get("OriginalRepliedMessageSid") or None,
        address={"to": form.get("From", ""), "from": form.get("To", "")},
        attachments=tuple(media),
    )


def _media_count(form: Form) -> int:
    count = form.get("NumMedia", "")
    return min(int(count), 10) if count.isdigit() else 0


def _kind(form: Form, media: list[dict[str, str]]) -> str:
    if media:
        main = media[0]["type"].split("/")[0]
        return {"image": "image", "audio": "audio", "video": "video", "text": "contacts"}.get(main, "document")
    if form.get("Latitude"):
        return "location"
    return "text"


def _signal(form: Form) -> InboundSignal | None:
    """A button of ours, or a message that is nothing but a rating."""
    quoted = form.get("OriginalRepliedMessageSid") or None
    if button := read_feedback_button(form.get("ButtonPayload", "")):
        answer_id, verdict = button
        raw = "👍" if verdict == "up" else "👎"
        return InboundSignal("twilio", _person(form), "button", "replace", raw, answer_id=answer_id, target=quoted)
    if _media_count(form):
        return None
    text = clean(form.get("Body"))
    rating = text_rating(text) or (word_rating(text) if quoted else None)
    if rating is None:
        return None
    return InboundSignal("twilio", _person(form), rating.signal, "replace", text, target=quoted)


def _address(form: Form) -> str:
    """Who writes: the phone number in its one form, else whatever stands in its place."""
    return canonical_phone(form.get("WaId") or form.get("From", "")) or _bare(form.get("From", "")) or "unknown"


def _person(form: Form) -> Person:
    identifiers = []
    if phone := canonical_phone(form.get("WaId") or form.get("From", "")):
        identifiers.append(Identifier("phone", phone))
    else:
        identifiers.append(Identifier("wa_id", _bare(form.get("From", "")) or "unknown"))
    if external := _bare(form.get("ExternalUserId", "")):
        identifiers.append(Identifier("bsuid", external))
    if parent := _bare(form.get("ParentExternalUserId", "")):
        identifiers.append(Identifier("parent_bsuid", parent))
    return Person(tuple(identifiers), clean(form.get("ProfileName")) or None)


def _bare(address: str) -> str:
    return address.removeprefix("whatsapp:").strip()
