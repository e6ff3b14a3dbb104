"""Simulated traffic is what the vendors would send: our own doors take it, and read in it what was meant."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from bot.app import create_app
from bot.jobs import READERS
from bot.simulator import traffic
from core.errors import DoorClosed
from core.messages import Inbound, InboundCommand, InboundMessage, InboundSignal, InboundStatus
from core.settings import Settings, load_settings

PHONE = "+5511990000001"
ANSWER = "0190a0b0-0000-7000-8000-0000000000a1"


@pytest.fixture
def door(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as client:
        yield client


def post(door: TestClient, settings: Settings, signed: traffic.Signed) -> Inbound | None:
    """Deliver it; what a worker would read in the ledger's last row."""
    path = signed.url.removeprefix(str(settings.public_base_url))
    answer = door.post(path, content=signed.body, headers=signed.headers)
    assert answer.status_code == 200, answer.text
    with psycopg.connect(str(settings.database_url)) as connection:
        query = "SELECT source, kind, payload FROM npllm.inbound_events ORDER BY id DESC LIMIT 1"
        source, kind, payload = connection.execute(query).fetchone() or ("", "", {})
    return READERS[source](kind, payload)


def test_messages(door: TestClient, settings: Settings) -> None:
    for signed in (
        traffic.twilio_message(settings, "Oi 😊", sender=PHONE),
        traffic.meta_text(settings, "Oi 😊", sender=PHONE, name="Marina"),
        traffic.slack_message(settings, "Oi 😊", user="U0RITA"),
    ):
        read = post(door, settings, signed)
        assert isinstance(read, InboundMessage)
        assert (read.text, read.provider_message_id) == ("Oi 😊", signed.message_id)


def test_two_messages_are_two(settings: Settings) -> None:
    for make in (
        lambda: traffic.twilio_message(settings, "Oi", sender=PHONE),
        lambda: traffic.meta_text(settings, "Oi", sender=PHONE),
        lambda: traffic.slack_message(settings, "Oi", user="U0RITA"),
    ):
        assert make().message_id != make().message_id


@pytest.mark.parametrize(
    ("make", "op", "raw", "target"),
    [
        (lambda s: traffic.meta_reaction(s, "wamid.1", "👎", sender=PHONE), "replace", "👎", "wamid.1"),
        (lambda s: traffic.meta_reaction(s, "wamid.1", None, sender=PHONE), "remove", "", "wamid.1"),
        (
            lambda s: traffic.twilio_message(s, "👍", sender=PHONE, OriginalRepliedMessageSid="SM1"),
            "replace", "👍", "SM1",
        ),
        (lambda s: traffic.slack_reaction(s, "D0SIM:1.2", "+1", user="U0RITA"), "add", "+1", "D0SIM:1.2"),
        (
            lambda s: traffic.slack_reaction(s, "D0SIM:1.2", "+1", user="U0RITA", added=False),
            "remove", "+1", "D0SIM:1.2",
        ),
    ],
)  # fmt: skip
def test_reactions(door: TestClient, settings: Settings, make: Any, op: str, raw: str, target: str) -> None:
    read = post(door, settings, make(settings))
    assert isinstance(read, InboundSignal)
    assert (read.op, read.raw, read.target) == (op, raw, target)


def test_a_tap_on_a_feedback_button(door: TestClient, settings: Settings) -> None:
    read = post(door, settings, traffic.slack_action(settings, f"fb:{ANSWER}:up", user="U0RITA"))
    assert isinstance(read, InboundSignal)
    assert (read.signal, read.answer_id, read.raw) == ("button", ANSWER, "👍")


def test_a_thumb_down_asks_for_a_form_too(door: TestClient, settings: Settings) -> None:
    read = post(door, settings, traffic.slack_action(settings, f"fb:{ANSWER}:down", user="U0RITA"))
    assert isinstance(read, InboundCommand)
    assert read.data["answer"] == ANSWER


def test_delivery_reports_carry_our_id(door: TestClient, settings: Settings) -> None:
    callback = f"{settings.public_base_url}/hooks/twilio/status?id=row-1"
    for signed in (
        traffic.twilio_status(settings, callback, "SM1", "delivered"),
        traffic.meta_status(settings, "wamid.1", "delivered", echo="row-1"),
    ):
        read = post(door, settings, signed)
        assert isinstance(read, InboundStatus)
        assert (read.delivery, read.our_id) == ("delivered", "row-1")


@pytest.mark.parametrize(
    ("setting", "make"),
    [
        ("twilio_auth_token", lambda s: traffic.twilio_message(s, "Oi", sender=PHONE)),
        ("meta_app_secret", lambda s: traffic.meta_text(s, "Oi", sender=PHONE)),
        ("slack_signing_secret", lambda s: traffic.slack_message(s, "Oi", user="U1")),
        ("public_base_url", lambda s: traffic.meta_text(s, "Oi", sender=PHONE)),
    ],
)
def test_without_a_secret_nothing_can_be_signed(setting: str, make: Any) -> None:
    everything: dict[str, Any] = {
        "public_base_url": "http://testserver", "twilio_auth_token": "t", "meta_app_secret": "m",
        "slack_signing_secret": "s",
    }  # fmt: skip
    make(load_settings(running=False, **everything))
    with pytest.raises(DoorClosed, match=setting.upper()):
        make(load_settings(running=False, **{**everything, setting: None}))
