"""What Twilio sends us: verify the signature, split into ledger items, read an item.

https://www.twilio.com/docs/usage/webhooks/webhooks-security
"""

import hashlib
import re
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import ImmutableMultiDict
from twilio.request_validator import RequestValidator

from core.errors import BadInput, BadSignature
from core.messages import (
    VERDICTS,
    Identifier,
    Inbound,
    InboundItem,
    InboundMessage,
    InboundSignal,
    InboundStatus,
    ItemKind,
    Person,
    clean,
    read_feedback_button,
)
from core.reactions import text_rating, word_rating
from core.text import canonical_phone, is_user_id
from core.untrusted import as_text, read_object
from integrations.twilio.errors import action_of

Form = dict[str, str]

# What Twilio's Advanced Opt-Out read the message as, in words that the bot knows: the customer may have written any
# keyword that the account configures. All are answered by Twilio itself.
_OPT_WORDS = {"STOP": "STOP", "START": "START"}
_INCOMING = ("receiving", "received")  # statuses of messages to us


def verify(token: str, url: str, body: bytes, content_type: str, signature: str | None, query: str) -> Form:
    """The request's fields, if Twilio signed them.

    Args:
        url: the public address Twilio called, raw query included (never the fragment).

    Raises:
        BadSignature: missing or wrong.
        BadInput: signed, but neither a form nor JSON.
    """
    if not signature:
        raise BadSignature("The request has no X-Twilio-Signature.", "Only Twilio may call this address.")
    is_json = content_type.lower().startswith("application/json")
    # Blank fields are signed too: a parser that drops them breaks every message with media.
    text = "" if is_json else body.decode("utf-8", "replace")
    form = ImmutableMultiDict(parse_qsl(text, keep_blank_values=True))
    try:
        genuine = RequestValidator(token).validate(url, form, signature)
    except ValueError:  # without PUBLIC_BASE_URL the address is the caller's Host header: it may be no address at all
        genuine = False
    if is_json:  # the URL's signature covers the body only through its hash
        digests = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "bodySHA256"]
        genuine = genuine and digests == [hashlib.sha256(body).hexdigest()]
    if not genuine:
        raise BadSignature(
            "X-Twilio-Signature does not fit this request.",
            "Check TWILIO_AUTH_TOKEN (the primary one), and that PUBLIC_BASE_URL is the address Twilio calls.",
        )
    return {name: _field(value) for name, value in read_object(body).items()} if is_json else dict(form)


def _field(value: Any) -> str:
    """A JSON value as a form would carry it; what no field of a form can be (an object, a list, a truth) is blank."""
    return str(value) if isinstance(value, float) else as_text(value)


def split(form: Form) -> list[InboundItem]:
    """One webhook is one message; the ledger's key is its MessageSid.

    Raises:
        BadInput: it has none.
    """
    sid = _sid(form)
    if not sid:
        raise BadInput("The request has no MessageSid.", "Point Twilio's incoming-message webhook at this address.")
    if form.get("MessageStatus") and not _is_incoming(form):  # a status callback that was pointed at the wrong door
        return split_status(form, None)
    kind: ItemKind = "message"
    if not _sender(form) or form.get("OptOutType") == "HELP":
        kind = "ignored"  # nobody to answer, or Twilio did
    elif _signal(form):
        kind = "signal"
    elif is_blank(form):
        kind = "ignored"
    return [InboundItem(sid, kind, f"twilio:{_lane(form)}", dict(form))]


def split_status(form: Form, our_id: str | None) -> list[InboundItem]:
    """A status callback. It has no id of its own: message, status and error code make one.

    Raises:
        BadInput: it is none.
    """
    if _is_incoming(form):
        return split(form)  # a message that was pointed at the wrong door
    sid, status = _sid(form), _status(form)
    if not sid or not status:
        raise BadInput("The status callback has no MessageSid or MessageStatus.", "See Twilio's StatusCallback.")
    payload = {**form, "our_id": our_id}
    return [InboundItem(f"{sid}:status:{status}:{form.get('ErrorCode', '')}", "status", f"twilio:{sid}", payload)]


def is_blank(form: Form) -> bool:
    """Nothing to read: probably a reaction, of which Twilio shows no more than this. It never wakes the model."""
    return not (_text(form) or _media_count(form) or form.get("Latitude"))


def read(kind: str, form: Form) -> Inbound | None:
    """A ledger item in the bot's words; None for what is deliberately ignored."""
    if kind == "status":
        return InboundStatus(
            channel="twilio",
            provider_message_id=_sid(form),
            delivery=_status(form),
            our_id=form.get("our_id"),
            error=(code := form.get("ErrorCode") or None),
            action=action_of(code) if code else None,
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
        provider_message_id=_sid(form),
        text=_text(form),
        kind=_kind(form, media),
        quoted=form.get("OriginalRepliedMessageSid") or None,
        address={
            "to": form.get("From") or f"whatsapp:{_dialled(_sender(form))}",
            "from": form.get("To", ""),
            "reply_to": _sid(form),
        },
        attachments=tuple(media),
        sent_at=_when(form.get("DateSent")),
    )


def _sid(form: Form) -> str:
    return form.get("MessageSid") or form.get("SmsMessageSid") or form.get("SmsSid") or ""


def _status(form: Form) -> str:
    return form.get("MessageStatus") or form.get("SmsStatus") or ""


def _is_incoming(form: Form) -> bool:
    return _status(form) in _INCOMING


def _text(form: Form) -> str:
    """What was written or tapped (Body repeats a button's text, not always a list's), or the word it stands for. A tap
    that comes without its words is read by what the business wrote behind the button."""
    said = map(form.get, ("Body", "ButtonText", "ListTitle", "ButtonPayload"))
    return _OPT_WORDS.get(form.get("OptOutType", "")) or next(filter(None, map(clean, said)), "")


def _media_count(form: Form) -> int:
    count = form.get("NumMedia", "")
    return min(int(count), 10) if re.fullmatch(r"[0-9]{1,4}", count) else 0


def _kind(form: Form, media: list[dict[str, str]]) -> str:
    if form.get("OptOutType") == "START":
        return "opt_in"
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
        signal, raw = VERDICTS[verdict]
        return InboundSignal("twilio", _person(form), signal, "replace", raw, answer_id=answer_id, target=quoted)
    if _media_count(form):
        return None
    text = clean(form.get("Body"))
    rating = text_rating(text) or (word_rating(text) if quoted else None)
    if rating is None:
        return None
    return InboundSignal("twilio", _person(form), rating.signal, "replace", text, target=quoted)


def _sender(form: Form) -> str:
    """Who writes, as Twilio names them: a number, or the user id of a person who hides it."""
    return clean(form.get("WaId")) or _bare(form.get("From", "")) or _bare(form.get("ExternalUserId", ""))


def _dialled(sender: str) -> str:
    """A sender as Twilio takes it: WaId has a number's digits without the plus."""
    return f"+{sender}" if sender.isdecimal() else sender


def _lane(form: Form) -> str:
    """Who writes: the phone number in its one form, else whatever stands in its place."""
    return canonical_phone(_sender(form)) or _sender(form) or "unknown"


def _person(form: Form) -> Person:
    sender, external = _sender(form), _bare(form.get("ExternalUserId", ""))
    identifiers = []
    if phone := canonical_phone(sender):
        identifiers.append(Identifier("phone", phone))
    elif sender != external:
        identifiers.append(Identifier("bsuid" if is_user_id(sender) else "wa_id", sender or "unknown"))
    if external:
        identifiers.append(Identifier("bsuid", external))
    if parent := _bare(form.get("ParentExternalUserId", "")):
        identifiers.append(Identifier("parent_bsuid", parent))
    return Person(tuple(identifiers), clean(form.get("ProfileName")) or None)


def _when(sent: str | None) -> datetime | None:
    """When it was written. No webhook says it; a message that was fetched from Twilio's list does."""
    try:
        at = datetime.fromisoformat(sent or "")
    except ValueError:
        return None
    return at if at.tzinfo else None


def _bare(address: str) -> str:
    return clean(address.removeprefix("whatsapp:"))
