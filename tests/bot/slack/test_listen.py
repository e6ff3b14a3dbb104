"""Slack through a socket: stored like what comes by HTTP, acknowledged then, and not before."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from processes import beside_any_loop
from pydantic import SecretStr
from servers import serving

from bot.intake import Intake
from bot.simulator.vendors import create_vendors
from bot.slack.listen import listen
from core.errors import DoorClosed, Unavailable
from core.settings import Settings

FIXTURES = Path(__file__).parents[2] / "integrations/slack/fixtures"


def envelope(name: str, kind: str) -> dict[str, Any]:
    payload = json.loads((FIXTURES / f"{name}.json").read_text())
    return {"envelope_id": name, "type": kind, "payload": payload, "accepts_response_payload": False}


def through_a_socket(
    settings: Settings, envelopes: list[dict[str, Any]], *, until: Callable[[list[str]], bool], connections: int = 1
) -> list[str]:
    """Deliver them to the process; what it acknowledged, once that is enough (or twenty seconds passed)."""
    app = create_vendors(settings)
    for one in envelopes:
        app.state.slack.envelopes.put_nowait(one)

    async def run(url: str) -> None:
        stop = asyncio.Event()
        open_door = settings.model_copy(
            update={"slack_app_token": SecretStr("xapp-1"), "slack_api_base_url": f"{url}/api"}
        )
        listening = asyncio.create_task(listen(open_door, stop))
        for _ in range(400):
            await asyncio.sleep(0.05)
            if until(app.state.slack.acknowledged) or listening.done():
                break
        stop.set()
        await listening

    with serving(app) as url:
        beside_any_loop(asyncio.run, run(url))
    assert app.state.slack.connections == connections
    return list(app.state.slack.acknowledged)


def stored(settings: Settings) -> set[str]:
    with psycopg.connect(str(settings.database_url)) as connection:
        rows = connection.execute("SELECT external_id FROM npllm.inbound_events").fetchall()
    keys = [key for (key,) in rows]
    assert len(keys) == len(set(keys))
    return set(keys)


def test_events_and_clicks_are_stored_once_and_acknowledged(settings: Settings) -> None:
    envelopes = [envelope("im", "events_api"), envelope("click__feedback_up", "interactive")] * 2
    acknowledged = through_a_socket(
        settings, envelopes, until=lambda taken: len(taken) == 4
    )  # in any order: envelopes are handled side by side
    assert sorted(acknowledged) == ["click__feedback_up"] * 2 + ["im"] * 2
    assert stored(settings) == {"msg:T0SHOP:D0RITA:1795000000.000100", "action:T0SHOP:U0RITA:1795000300.000500"}


def test_what_is_not_stored_is_not_acknowledged(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    async def away(self: Intake, source: str, items: list[Any]) -> int:
        tried.append(items[0].external_id)
        if len(tried) == 1:
            raise Unavailable("The ledger does not answer.")
        return 1

    monkeypatch.setattr(Intake, "store", away)
    envelopes = [envelope("im", "events_api"), envelope("delete", "events_api")]
    assert through_a_socket(settings, envelopes, until=bool) == ["delete"]
    assert len(tried) == 2


def test_a_connection_that_slack_ends_is_followed_by_another(settings: Settings) -> None:
    """Slack renews them every few hours, and says so before. What it then was not told in time it delivers again."""
    refresh = {"type": "disconnect", "reason": "refresh_requested"}
    envelopes = [envelope("im", "events_api"), refresh, envelope("click__feedback_up", "interactive")]
    both = {"im", "click__feedback_up"}
    assert set(through_a_socket(settings, envelopes, until=lambda taken: set(taken) == both, connections=2)) == both
    assert len(stored(settings)) == 2


def test_what_was_not_acknowledged_is_taken_through_the_next_connection(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, tried = Intake.store, []

    async def away_at_first(self: Intake, source: str, items: list[Any]) -> int:
        tried.append(items[0].external_id)
        if len(tried) == 1:
            raise Unavailable("The ledger does not answer.")
        return await store(self, source, items)

    monkeypatch.setattr(Intake, "store", away_at_first)
    envelopes = [envelope("im", "events_api"), {"type": "close"}]
    assert through_a_socket(settings, envelopes, until=bool, connections=2) == ["im"]
    assert stored(settings) == {"msg:T0SHOP:D0RITA:1795000000.000100"}
    assert len(tried) == 2


def test_without_its_token_it_says_so(settings: Settings) -> None:
    with pytest.raises(DoorClosed, match="token"):
        beside_any_loop(asyncio.run, listen(settings))
