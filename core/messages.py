"""What people say, in one shape for every channel.

A webhook becomes ledger items (`InboundItem`) in the web process: cheap, one per message or status of a batch,
each with the key that makes it unique. A worker then reads an item into one of the `Inbound…` shapes; the rest
of the bot knows no vendor.
"""

import math
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Channel = Literal["twilio", "meta", "slack", "web"]
Polarity = Literal["positive", "negative", "neutral"]
Signal = Literal["reaction", "button", "stars", "comment", "flag", "keyword"]
Op = Literal["add", "replace", "remove"]

# Signals have a lane of their own: a thumb on an old answer does not wait for the model's next one.
ItemKind = Literal["message", "edit", "delete", "signal", "status", "command", "ignored"]
SIGNAL_KINDS = frozenset({"signal", "status", "ignored"})
MAX_TEXT = 8_000  # characters of one incoming message that are kept; nobody types more
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and symbols by category, blank to the eye


@dataclass(frozen=True)
class InboundItem:
    """One row for the ledger.

    Attributes:
        external_id: unique within the source, whatever the vendor repeats (a message id, not a delivery's).
        lane: who is speaking where; items of one lane are handled in order.
    """

    external_id: str
    kind: ItemKind
    lane: str
    payload: dict[str, Any]

    @property
    def work_lane(self) -> str:
        return f"signals/{self.lane}" if self.kind in SIGNAL_KINDS else self.lane


@dataclass(frozen=True)
class Identifier:
    """One way a vendor names a person; see `CustomerIdentity` for the kinds."""

    kind: str
    value: str
    scope: str = ""


@dataclass(frozen=True)
class Person:
    """Who sent something: at least one identifier, the most lasting one first."""

    identifiers: tuple[Identifier, ...]
    name: str | None = None


@dataclass(frozen=True)
class InboundMessage:
    """A message to the bot.

    Attributes:
        kind: text, or what else arrived (image, audio, location, contacts, unknown, blank).
        text: what the person wrote or tapped; empty for media without a caption.
        quoted: provider id of the message it replies to.
        address: what the channel's client needs to answer.
    """

    channel: Channel
    person: Person
    provider_message_id: str
    text: str
    address: dict[str, Any]
    kind: str = "text"
    quoted: str | None = None
    sent_at: datetime | None = None
    context: str = "customers"
    attachments: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class InboundSignal:
    """Feedback on one answer.

    Attributes:
        answer_id: our own message id, where a button carried it; else `target` is the vendor's id of any part.
        raw: the emoji, star count, word or comment as it came; empty for a removal.
    """

    channel: Channel
    person: Person
    signal: Signal
    op: Op
    raw: str
    answer_id: str | None = None
    target: str | None = None
    comment: str | None = None
    given_at: datetime | None = None


@dataclass(frozen=True)
class InboundStatus:
    """What became of a message we sent. `our_id` is the outbox row, where the vendor echoes it."""

    channel: Channel
    provider_message_id: str
    delivery: str
    our_id: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class InboundEdit:
    """The person changed (`text`) or took back (`text` is None) a message."""

    channel: Channel
    provider_message_id: str
    text: str | None


@dataclass(frozen=True)
class InboundCommand:
    """Something asked of the machinery instead of the model: a form, an operator's verb, a reviewer's verdict.

    Attributes:
        name: what is asked; the channel's desk knows what to do.
        data: what it needs, as the channel's reader picked it out.
    """

    channel: Channel
    person: Person
    name: str
    data: dict[str, Any]


Inbound = InboundMessage | InboundSignal | InboundStatus | InboundEdit | InboundCommand


@dataclass(frozen=True)
class Outgoing:
    """One part of one outgoing message, as a channel's client sends it.

    Attributes:
        our_id: the outbox row; sent along where the vendor echoes it.
        buttons: (id, title) pairs shown under the text, where the channel has them.
    """

    our_id: str
    address: dict[str, Any]
    text: str
    buttons: tuple[tuple[str, str], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


def clean(text: str | None) -> str:
    """Text as Postgres can store it and a person wrote it: no NUL, no lone surrogates, bounded, trimmed; empty where
    nothing in it can be seen (WhatsApp's "blank messages" are made of fillers and joiners)."""
    if not text:
        return ""
    text = text.replace("\x00", "").encode("utf-8", "ignore").decode().strip()[:MAX_TEXT].strip()
    return text if any(_is_visible(character) for character in text) else ""


def _is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNPS" and character not in _FILLERS


def clean_payload(value: Any) -> Any:
    """The same for a whole JSON value: Postgres' jsonb refuses NUL, lone surrogates, NaN and infinity."""
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "ignore").decode()
    if isinstance(value, dict):
        return {clean_payload(key): clean_payload(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean_payload(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def feedback_button(answer_id: str, verdict: Literal["up", "down"]) -> str:
    """The id of a feedback button: it carries our own answer id, so a tap needs no guessing."""
    return f"fb:{answer_id}:{verdict}"


def read_feedback_button(button_id: str) -> tuple[str, str] | None:
    """(answer id, verdict) of a feedback button's id; None for any other button."""
    parts = button_id.split(":")
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == "fb" and parts[2] in ("up", "down") else None
