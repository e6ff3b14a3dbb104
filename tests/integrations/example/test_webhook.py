"""Recado's webhooks, one body a file in fixtures/: what each becomes in the ledger, and what the bot reads in it."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import BadInput, BadSignature
from core.messages import Identifier, Inbound, InboundMessage, InboundSignal, InboundStatus, Person
from integrations.example.webhook import CHANNEL, read, split, verify

FIXTURES = Path(__file__).parent / "fixtures"
MARINA = Person((Identifier("phone", "+5511990000001"),), "Marina Prado")
LANE = "example:+5511990000001"


def says(text: str, quoted: str | None = None) -> InboundMessage:
    return InboundMessage(CHANNEL, MARINA, "rec_1", text, {"to": "+55 11 99000-0001"}, quoted=quoted)


# fixture: (what a person would see, kind, lane, key, what the bot reads)
CASES: dict[str, tuple[str, str, str, str, Inbound | None]] = {
    "text": ("She asks; she is answered.", "message", LANE, "rec_1", says("Vocês entregam em Niterói?")),
    "text__quoted": ("A reply with a question is a question.", "message", LANE, "rec_1", says("E no Rio?", "rec_9")),
    "thumb__quoted": (
        "👍 to the quoted answer.",
        "signal", LANE, "rec_1", InboundSignal(CHANNEL, MARINA, "reaction", "replace", "👍", target="rec_9"),
    ),
    "blank": ("Nothing: never answered.", "ignored", LANE, "rec_1", None),
    "nobody": ("From nobody: kept, not answered.", "ignored", "example:unknown", "rec_1", None),
    "delivery": (
        "It reached her phone.",
        "status", "example:rec_9", "rec_9:status:delivered", InboundStatus(CHANNEL, "rec_9", "delivered", "row-1"),
    ),
    "event__not_known_yet": ("Whatever it is: kept, not answered.", "ignored", LANE, "rec_2", None),
}  # fmt: skip


def test_every_fixture_has_a_case() -> None:
    assert {path.stem for path in FIXTURES.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of(name: str) -> None:
    seen, kind, lane, key, expected = CASES[name]
    (item,) = split((FIXTURES / f"{name}.json").read_bytes())
    assert (item.kind, item.lane, item.external_id) == (kind, lane, key), seen
    assert read(item.kind, item.payload) == expected, seen


@pytest.mark.parametrize("signature", [None, "", "0" * 64, "é"])
def test_a_signature_that_is_missing_or_wrong(signature: str | None) -> None:
    with pytest.raises(BadSignature):
        verify("secret", b"{}", signature)


def test_the_raw_bytes_are_signed() -> None:
    raw = (FIXTURES / "text.json").read_bytes()
    signature = hmac.new(b"secret", raw, hashlib.sha256).hexdigest()
    verify("secret", raw, signature)
    with pytest.raises(BadSignature):
        verify("secret", json.dumps(json.loads(raw)).encode(), signature)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadInput):
        split(body)


@pytest.mark.parametrize("data", [{}, {"event": ["x"]}, {"event": "message", "from": 5, "text": {}}, {"id": None}])
def test_what_is_strange_is_kept(data: dict[str, Any]) -> None:
    (item,) = split(json.dumps(data).encode())
    assert (item.kind, read(item.kind, item.payload)) == ("ignored", None)
