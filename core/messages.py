"""What people say, in one shape for every channel.

A webhook becomes ledger items (`InboundItem`) in the web process: cheap, one per message or status of a batch,
each with the key that makes it unique. A worker then reads an item into one of the `Inbound…` shapes; the rest
of the bot knows no vendor.
"""

import hashlib
import math
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from core.errors import Action

Channel = Literal["twilio", "meta", "slack", "web"]
Polarity = Literal["positive", "negative", "neutral"]
Signal = Literal["reaction", "button", "stars", "comment", "flag", "keyword"]
Op = Literal["add", "replace", "remove"]

# Signals have a lane of their own: a thumb on an old answer does not wait for the model's next one.
ItemKind = Literal["message", "edit", "delete", "signal", "status", "command", "person", "ignored"]
SIGNAL_KINDS = frozenset({"signal", "status", "person", "ignored"})
MAX_TEXT = 8_000  # characters of one incoming message that are kept; nobody types more
MAX_NAME = 500  # characters of a vendor's id for something; theirs have about a hundred
MAX_TEMPLATE_TEXT = 900  # of a template's 1,024 characters
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

    def __post_init__(self) -> None:
        _shorten(self, "value")


@dataclass(frozen=True)
class Person:
    """Who sent something: at least one identifier, the most lasting one first."""

    identifiers: tuple[Identifier, ...]
    name: str | None = None


@dataclass(frozen=True)
class InboundMessage:
    """A message to the bot.

    Attributes:
        kind: text, or what else arrived (image, audio, location, contacts, unknown, blank); opt_in: the vendor has
            welcomed the person back, whatever we knew.
        text: what the person wrote or tapped; empty for media without a caption.
        quoted: provider id of the message it replies to.
        address: what the channel's client needs to answer.
        sent_at: when it was written, by the vendor's clock.
        edited_at: when the text became what it is, where it was changed before it was answered.
    """

    channel: Channel
    person: Person
    provider_message_id: str
    text: str
    address: dict[str, Any]
    kind: str = "text"
    quoted: str | None = None
    sent_at: datetime | None = None
    edited_at: datetime | None = None
    context: str = "customers"
    attachments: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        _shorten(self, "provider_message_id", "quoted")


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

    def __post_init__(self) -> None:
        _shorten(self, "target")


@dataclass(frozen=True)
class InboundStatus:
    """What became of a message we sent. `our_id` is the outbox row, where the vendor echoes it; `action` is what the
    vendor's error code asks for."""

    channel: Channel
    provider_message_id: str
    delivery: str
    our_id: str | None = None
    error: str | None = None
    action: Action | None = None

    def __post_init__(self) -> None:
        _shorten(self, "provider_message_id")


@dataclass(frozen=True)
class InboundEdit:
    """The person changed (`text`) or took back (`text` is None) a message.

    Attributes:
        keys: the message's on the ledger: it may still wait there under one of them, or come later than this.
        at: when, by the vendor's clock: several edits of a message may come in any order.
        person: who wrote it, where the vendor says so.
    """

    channel: Channel
    provider_message_id: str
    text: str | None
    keys: tuple[str, ...] = ()
    at: datetime | None = None
    person: Person | None = None

    def __post_init__(self) -> None:
        _shorten(self, "provider_message_id")
        object.__setattr__(self, "keys", tuple(short_name(key) for key in self.keys if key))


@dataclass(frozen=True)
class InboundPerson:
    """What a vendor tells about a person beside what they say: other identifiers from now on, or a wish.

    Attributes:
        person: as known so far.
        now: further identifiers of the same person.
        gone: those of `person` that are theirs no longer (a phone number may be somebody else's soon).
        templates: False: nothing more that was not asked for; True: again; None: it is not about that.
    """

    channel: Channel
    person: Person
    now: tuple[Identifier, ...] = ()
    gone: tuple[Identifier, ...] = ()
    templates: bool | None = None


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


Inbound = InboundMessage | InboundSignal | InboundStatus | InboundEdit | InboundPerson | InboundCommand


@dataclass(frozen=True)
class Outgoing:
    """One part of one outgoing message, as a channel's client sends it.

    Attributes:
        our_id: the outbox row; sent along where the vendor echoes it.
        buttons: (id, title) pairs shown under the text, where the channel has them.
        template: the vendor's window is closed: send the approved template with the text in it.
    """

    our_id: str
    address: dict[str, Any]
    text: str
    buttons: tuple[tuple[str, str], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    template: bool = False


@dataclass(frozen=True)
class Limits:
    """What a channel's vendor allows; the outbox waits accordingly.

    Attributes:
        text_with_buttons: most characters above buttons; None: as many as without.
        buttons: how many fit under a text.
        window: how long after a person's last message we may write freely; None: always.
        template: a template for later is set up.
        pair_seconds: one message per so many seconds to one person in the long run, `pair_burst` at once.
        per_second: messages of the whole channel.
    """

    text_with_buttons: int | None = None
    buttons: int = 2
    window: timedelta | None = None
    template: bool = False
    pair_seconds: float = 0.0
    pair_burst: int = 1
    per_second: float | None = None


def short_name(text: str) -> str:
    """What a vendor calls something, as Postgres can index it; two long names stay two."""
    if len(text) <= MAX_NAME:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return f"{text[: MAX_NAME - len(digest) - 1]}:{digest}"


def _shorten(item: Any, *names: str) -> None:
    for name in names:
        if value := getattr(item, name):
            object.__setattr__(item, name, short_name(value))


def template_values(variables: dict[str, str], text: str) -> dict[str, str]:
    """A template's variables with `{text}` filled in: on one line (WhatsApp refuses more) and short enough."""
    line = " ".join(text.split())
    line = line if len(line) <= MAX_TEMPLATE_TEXT else line[: MAX_TEMPLATE_TEXT - 1].rstrip() + "…"
    return {name: value.replace("{text}", line) for name, value in variables.items()}


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


Verdict = Literal["up", "down", "problem"]
VERDICTS: dict[Verdict, tuple[Signal, str]] = {
    "up": ("button", "👍"), "down": ("button", "👎"), "problem": ("flag", "⚠️"),
}  # fmt: skip


def feedback_button(answer_id: str, verdict: Verdict) -> str:
    """The id of a feedback button: it carries our own answer id, so a tap needs no guessing."""
    return f"fb:{answer_id}:{verdict}"


def read_feedback_button(button_id: str) -> tuple[str, Verdict] | None:
    """(answer id, verdict) of a feedback button's id; None for any other button."""
    parts = button_id.split(":")
    for verdict in VERDICTS:
        if len(parts) == 3 and parts[0] == "fb" and parts[2] == verdict:
            return parts[1], verdict
    return None
