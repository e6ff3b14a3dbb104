"""Payloads nobody has seen: every captured one, bent in a few places, through the real doors and a real worker.

Nothing answers 5xx; what was acknowledged is on the ledger; and no turn wakes the model with nothing in it.
"""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from servers import ScriptedModel
from sqlalchemy import select
from street import Street

from bot.app import create_app
from bot.simulator.traffic import Signed, meta_body, meta_signed, twilio_message, twilio_signed
from core.db import transaction
from core.settings import Settings
from core.tables import InboundEvent

FIXTURES = Path(__file__).parents[1] / "integrations"
ROUNDS = 1  # bent payloads per captured one
ODD: list[Any] = [
    None, "", " ", 0, -1, 10**30, 1.5, True, [], {}, [None], {"x": {}}, "\x00", "\ud83d", "a" * 3000, "🚚",
]  # fmt: skip


@pytest.fixture
def door(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings.model_copy(update={"public_base_url": "http://testserver"}))) as client:
        yield client


def bend(data: Any, chance: random.Random, depth: int = 0) -> Any:
    """The same with keys gone, values odd or of other types, and keys nobody knows; about three places of it."""
    if isinstance(data, dict):
        bent = {}
        for key, value in data.items():
            luck = chance.random()
            if luck < 0.03:
                continue
            bent[key] = chance.choice(ODD) if luck < 0.07 else bend(value, chance, depth + 1)
        if chance.random() < 0.2:
            bent[f"new_{chance.randrange(9)}"] = chance.choice(ODD)
        return bent
    if isinstance(data, list):
        return [bend(item, chance, depth + 1) for item in data] * chance.choice([1, 1, 1, 2])
    return data


def payloads(vendor: str, seed: int) -> Iterator[tuple[str, Any]]:
    for path in sorted((FIXTURES / vendor / "fixtures").glob("*.json")):
        captured = json.loads(path.read_text())
        yield path.name, captured
        for number in range(ROUNDS):
            yield f"{path.name} #{number}", bend(copy.deepcopy(captured), random.Random(f"{seed}{path.name}{number}"))


def form(data: dict[str, Any]) -> dict[str, str]:
    """As a form would carry it: text only."""
    return {
        name: (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "replace").decode()
        for name, value in data.items()
    }


def deliver(door: TestClient, signed: Signed) -> int:
    path = signed.url.removeprefix("http://testserver")
    return door.post(path, content=signed.body, headers=signed.headers).status_code


def stored(settings: Settings) -> int:
    with psycopg.connect(str(settings.database_url)) as connection:
        return int((connection.execute("SELECT count(*) FROM npllm.inbound_events").fetchone() or [0])[0])


def work(street: Street) -> list[InboundEvent]:
    """A worker handles every lane."""
    with transaction(street.awake.engine) as session:
        lanes = session.scalars(select(InboundEvent.lane).where(InboundEvent.handled_at.is_(None)).distinct()).all()
    for lane in lanes:
        street.answer(lane)
    return street.events()


def check_turns(street: Street, model: ScriptedModel) -> None:
    """Every event is handled, none of them by giving up, and the model saw words each time."""
    events = work(street)
    waiting = [(event.external_id, event.error) for event in events if event.handled_at is None or event.error]
    assert waiting == []
    for message in street.messages("in"):
        assert message.text.strip() or message.kind != "text", "a blank message was taken for one"
    for asked in model.asked:
        question = asked["messages"][-1]["content"]
        assert question.strip(), "an empty turn woke the model"


def test_names_longer_than_any_index_takes_hold_nobody_up(
    door: TestClient, street: Street, settings: Settings, model: ScriptedModel
) -> None:
    settings = settings.model_copy(update={"public_base_url": "http://testserver"})
    long = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9000))
    message = {"from": "5511987650001", "id": "wamid.1", "type": "text", "text": {"body": "Oi"}}
    reaction = {"message_id": long, "emoji": "👍"}
    for odd in (
        {"id": long}, {"from": long}, {"from_user_id": f"BR.{long}"}, {"context": {"id": long}},
        {"type": "reaction", "reaction": reaction}, {"type": "revoke", "revoke": {"original_message_id": long}},
    ):  # fmt: skip
        value = {"messages": [{**message, "id": f"wamid.{len(street.events())}", **odd}]}
        assert deliver(door, meta_body(settings, value)) == 200
    for fields in ({"MessageSid": long}, {"ExternalUserId": f"BR.{long}"}, {"WaId": long}):
        assert deliver(door, twilio_message(settings, "Oi", sender="+5511987650001", **fields)) == 200
    check_turns(street, model)
    assert len(street.events()) == 9


@pytest.mark.parametrize("sender", ["\x00", "  ", "\u2060"])
def test_from_nobody_that_can_be_seen(
    door: TestClient, street: Street, settings: Settings, model: ScriptedModel, sender: str
) -> None:
    settings = settings.model_copy(update={"public_base_url": "http://testserver"})
    message = {"from": sender, "id": "wamid.1", "type": "text", "text": {"body": "Oi"}}
    assert deliver(door, meta_body(settings, {"messages": [message]})) == 200
    fields = {"WaId": sender, "From": sender}
    assert deliver(door, twilio_message(settings, "Oi", sender="+5511987650001", **fields)) == 200
    assert [event.kind for event in work(street)] == ["ignored", "ignored"]


@pytest.mark.parametrize("seed", [1])
def test_of_meta(door: TestClient, street: Street, settings: Settings, model: ScriptedModel, seed: int) -> None:
    settings = settings.model_copy(update={"public_base_url": "http://testserver"})
    count = 0
    for name, data in payloads("meta", seed):
        status = deliver(door, meta_signed(settings, json.dumps(data).encode()))
        assert status in (200, 400, 413), name
        count += 1
    assert count >= 75
    assert stored(settings) > 60
    check_turns(street, model)


@pytest.mark.parametrize("seed", [1])
def test_of_twilio(door: TestClient, street: Street, settings: Settings, model: ScriptedModel, seed: int) -> None:
    settings = settings.model_copy(update={"public_base_url": "http://testserver"})
    acknowledged = set()
    for name, data in payloads("twilio", seed):
        url = "http://testserver/hooks/twilio" + ("/status?id=row-1" if name.startswith("status__") else "")
        fields = form(data)
        status = deliver(door, twilio_signed(settings, url, fields))
        assert status in (200, 400, 413), name
        if status == 200 and not name.startswith("status__") and not fields.get("MessageStatus"):
            sid = fields.get("MessageSid") or fields.get("SmsMessageSid") or fields.get("SmsSid")
            acknowledged.add(str(sid).replace("\x00", "")[:100])
    with transaction(street.awake.engine) as session:
        keys = {key[:100] for key in session.scalars(select(InboundEvent.external_id))}
    assert acknowledged - keys == set()
    check_turns(street, model)
