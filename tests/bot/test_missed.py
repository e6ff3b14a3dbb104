"""What people wrote to Twilio and no webhook told us."""

import time
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from servers import ScriptedModel
from sqlalchemy import select, update
from street import ANA, RUI, Street

from bot import jobs, missed, privacy
from bot.history import check
from bot.simulator import traffic
from bot.wiring import Awake
from core.db import transaction
from core.errors import VendorUnavailable
from core.jobs import BELL
from core.tables import Event, InboundEvent, Media, PrivacyAction, now


@pytest.fixture(autouse=True)
def _plain(model: ScriptedModel, awake: Awake) -> None:
    model.say = lambda *_: "Resposta."
    awake.redis.delete(missed.LOOKED, BELL)


def lost(vendors: Any, awake: Awake, text: str, *, ago: float = 120.0, sender: str = ANA, **fields: str) -> str:
    """Twilio took a message, and its webhook was lost."""
    signed = traffic.twilio_message(awake.settings, text, sender=sender, **fields)
    form = dict(parse_qsl(signed.body.decode(), keep_blank_values=True))
    httpx.post(f"{vendors.url}/_received", json={**form, "at": time.time() - ago})
    return str(form["MessageSid"])


def stored(awake: Awake) -> list[str]:
    with transaction(awake.engine) as session:
        return list(session.scalars(select(InboundEvent.external_id).order_by(InboundEvent.id)))


def test_it_is_answered_once_and_somebody_is_told(awake: Awake, street: Street, vendors: Any) -> None:
    street.answer(street.twilio("Oi"))
    sid = lost(vendors, awake, "Quanto custa?", sender=RUI)
    jobs.fetch_missed()
    assert stored(awake)[1:] == [sid]
    (lane,) = awake.redis.lrange(BELL, 0, -1)
    with transaction(awake.engine) as session:
        session.execute(update(InboundEvent).values(received_at=InboundEvent.received_at - timedelta(seconds=30)))
    street.answer(lane.decode())
    assert missed.look(awake) == 0
    assert [message.text for message in street.messages("in")] == ["Oi", "Quanto custa?"]
    assert [sent["to"] for sent in vendors.sent if sent["text"] == "Resposta."] == [
        f"whatsapp:{ANA}",
        f"whatsapp:{RUI}",
    ]
    with transaction(awake.engine) as session:
        (alert,) = session.scalars(select(Event.data).where(Event.type == "alert.raised"))
        assert check(session, settled=True, vendor_log=vendors.sent).violations == []
    assert "(1)" in alert["reason"]


def test_what_a_webhook_told_is_not_told_again(awake: Awake, street: Street, vendors: Any) -> None:
    street.twilio("Oi", MessageSid=lost(vendors, awake, "Oi"))
    assert missed.look(awake) == 0


def test_what_may_still_be_told_is_left_to_its_webhook(awake: Awake, street: Street, vendors: Any) -> None:
    street.twilio("Oi")
    lost(vendors, awake, "👍", ago=20.0)
    assert missed.look(awake) == 0


def test_each_look_goes_back_to_the_one_before(awake: Awake, street: Street, vendors: Any) -> None:
    street.twilio("Oi")
    awake.redis.set(missed.LOOKED, time.time() - 3 * 3600)
    lost(vendors, awake, "Anteontem?", ago=50 * 3600)
    sid = lost(vendors, awake, "Alguém aí?", ago=2 * 3600)
    assert missed.look(awake) == 1
    assert stored(awake)[1:] == [sid]
    lost(vendors, awake, "Muito antes?", ago=3600)
    assert missed.look(awake) == 0


def test_before_the_first_webhook_somebody_else_answered(awake: Awake, vendors: Any) -> None:
    lost(vendors, awake, "Alguém aí?")
    assert missed.look(awake) == 0


def test_what_was_erased_is_not_fetched_again(awake: Awake, street: Street, vendors: Any) -> None:
    street.answer(street.twilio("Oi", MessageSid=lost(vendors, awake, "Oi")))
    street.twilio("Oi", sender=RUI)
    with transaction(awake.engine) as session:
        privacy.erase(session, ANA, actor="dpo")
        assert session.scalar(select(PrivacyAction.at)) <= now()
    assert missed.look(awake) == 0


def test_a_picture_and_what_says_nothing(awake: Awake, street: Street, vendors: Any) -> None:
    awake.settings.media_fetch = True
    street.twilio("Oi")
    lost(vendors, awake, "", NumMedia="1")
    lost(vendors, awake, "")
    assert missed.look(awake) == 2
    kinds = [event.kind for event in street.events()]
    assert sorted(kinds[1:]) == ["ignored", "message"]
    (picture,) = [event for event in street.events()[1:] if event.kind == "message"]
    assert picture.payload["MediaUrl0"].startswith(f"{awake.settings.twilio_api_base_url}/2010-04-01/")
    assert picture.payload["MediaContentType0"] == "image/png"
    with transaction(awake.engine) as session:
        session.execute(update(InboundEvent).values(received_at=InboundEvent.received_at - timedelta(seconds=30)))
    street.answer(picture.lane)
    with transaction(awake.engine) as session:
        assert [row.channel for row in session.scalars(select(Media))] == ["twilio"]


def test_a_twilio_that_cannot_say_is_asked_for_the_same_again(
    awake: Awake, street: Street, vendors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    street.twilio("Oi")
    lost(vendors, awake, "Alguém aí?")

    def away(*_: Any, **__: Any) -> None:
        raise VendorUnavailable("Twilio does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr("integrations.twilio.client.TwilioClient.received", away)
        jobs.fetch_missed()
    assert awake.redis.get(missed.LOOKED) is None
    assert missed.look(awake) == 1


def test_without_twilio_nobody_is_asked(awake: Awake) -> None:
    del awake.channels["twilio"]
    assert missed.look(awake) == 0
