"""Several workspaces: an operator installs the app, each is answered with its own token, and one that throws the app
out is closed."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from slack_sdk.oauth.installation_store import Installation
from sqlalchemy import select
from workspace import Workspace

from bot import wiring
from bot.app import create_app
from bot.simulator.traffic import SLACK_INSTALLED
from bot.wiring import Awake
from core.db import get_engine, transaction
from core.errors import Unavailable
from core.messages import Outgoing
from core.settings import Settings
from core.tables import Alert, Event, SlackInstallation, SlackState
from integrations.slack import installations
from integrations.slack.client import SlackClient
from integrations.slack.installations import Installations, States

BASE = "https://testserver"


@pytest.fixture
def several(settings: Settings, vendors: Any) -> Settings:
    return settings.model_copy(
        update={
            "slack_client_id": "1.2", "slack_client_secret": SecretStr("client-secret"), "public_base_url": BASE,
            "slack_api_base_url": f"{vendors.url}/api",
        }
    )  # fmt: skip


@pytest.fixture
def door(several: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(several), base_url=BASE, follow_redirects=False) as client:
        yield client


@pytest.fixture
def operator(door: TestClient) -> TestClient:
    door.post("/login", data={"name": "ana", "password": "operator-password"})
    return door


def begin(operator: TestClient) -> str:
    """The state that Slack sends back."""
    sent_to = urlsplit(operator.get("/slack/install").headers["location"])
    assert (sent_to.hostname, sent_to.path) == ("slack.com", "/oauth/v2/authorize")
    query = parse_qs(sent_to.query)
    assert query["redirect_uri"] == [f"{BASE}/slack/oauth_redirect"]
    assert {"chat:write", "commands", "im:history", "reactions:read"} <= set(query["scope"][0].split(","))
    return query["state"][0]


def end(client: TestClient, state: str, code: str = "code-of-a-workspace") -> Any:
    return client.get("/slack/oauth_redirect", params={"state": state, "code": code})


def stored(settings: Settings) -> Installations:
    return Installations(get_engine(str(settings.database_url)), secret="client-secret")


class TestInstalling:
    def test_an_operator_installs_it_in_a_second_workspace(self, operator: TestClient, several: Settings) -> None:
        assert end(operator, begin(operator)).status_code == 200
        assert stored(several).token("T0OTHER") == SLACK_INSTALLED["access_token"]
        with psycopg.connect(str(several.database_url)) as connection:
            row = str(connection.execute("SELECT * FROM npllm.slack_installations").fetchall())
        assert "A outra loja" in row
        assert str(SLACK_INSTALLED["access_token"]) not in row, "the token is encrypted"

    def test_nobody_else_begins_one(self, door: TestClient) -> None:
        assert door.get("/slack/install").headers["location"].startswith("/login")

    def test_an_answer_to_nothing_installs_nothing(self, operator: TestClient, several: Settings) -> None:
        state = begin(operator)
        assert end(operator, "made-up").status_code == 400, "another state than the operator's"
        operator.cookies.clear()
        assert end(operator, state).status_code == 400, "another browser than the operator's"
        of_nobody = {"cookie": "slack-app-oauth-state=made-up"}
        answer = operator.get("/slack/oauth_redirect", params={"state": "made-up", "code": "c"}, headers=of_nobody)
        assert answer.status_code == 401, "a state that was never given out"
        with pytest.raises(Unavailable, match="never installed"):
            stored(several).token("T0OTHER")

    def test_a_state_counts_once_and_not_for_long(self, several: Settings) -> None:
        states = States(get_engine(str(several.database_url)))
        first, late = states.issue(), states.issue()
        assert (states.consume(first), states.consume(first)) == (True, False)
        with transaction(states.engine) as session:
            row = session.get_one(SlackState, late)
            row.expires_at = row.expires_at.replace(year=2020)
        assert not states.consume(late)

    def test_a_wrong_code_is_said(self, operator: TestClient) -> None:
        assert end(operator, begin(operator), code="used-before").status_code == 401

    def test_slack_is_away(self, operator: TestClient, vendors: Any) -> None:
        state = begin(operator)
        vendors.fault("slack", "500", method="oauth.v2.access")
        assert end(operator, state).status_code in (401, 503)

    def test_without_a_client_the_door_is_closed(self, settings: Settings) -> None:
        with TestClient(create_app(settings)) as client:
            answer = client.get("/slack/install")
        assert answer.status_code == 404
        assert "SLACK_CLIENT_ID" in answer.json()["next_step"]


class TestTokens:
    @pytest.fixture
    def both(self, several: Settings) -> Installations:
        store = Installations(get_engine(str(several.database_url)), secret="client-secret", default="xoxb-first")
        store.save(installation("T0OTHER", "xoxb-other"))
        return store

    def test_each_workspace_is_answered_with_its_own(
        self, both: Installations, several: Settings, vendors: Any
    ) -> None:
        client = SlackClient(token=both.token, base_url=several.slack_api_base_url)
        for team in ("T0SHOP", "T0OTHER"):
            client.send(Outgoing(f"row-{team}", {"channel": "D1", "team": team}, "Olá!"))
        assert [entry["token"] for entry in vendors.sent] == ["xoxb-first", "xoxb-other"]

    def test_an_organisation_is_one_installation(self, both: Installations) -> None:
        both.save(installation("T0X", "xoxb-org", enterprise_id="E0ORG", is_enterprise_install=True))
        assert both.token("E0ORG") == "xoxb-org"

    def test_another_client_secret_reads_none(self, both: Installations) -> None:
        other = Installations(both.engine, secret="changed")
        with pytest.raises(Unavailable, match="SLACK_CLIENT_SECRET changed"):
            other.token("T0OTHER")

    def test_wiring_knows_them_all(self, both: Installations, several: Settings) -> None:
        token = wiring.slack_tokens(several)
        assert (token("T0OTHER"), token("T0SHOP")) == ("xoxb-other", "xoxb-test")


class TestThrownOut:
    @pytest.mark.parametrize("name", ["app_uninstalled", "tokens_revoked"])
    def test_the_token_is_forgotten_and_somebody_is_told(self, work: Workspace, awake: Awake, name: str) -> None:
        store = Installations(awake.engine, secret="client-secret", default="xoxb-first")
        store.save(installation("T0SHOP", "xoxb-shop"))
        work.does(name, **{"1795000000": str(int(time.time()))})
        with pytest.raises(Unavailable, match="removed the app"):
            store.token("T0SHOP")
        with transaction(awake.engine) as session:
            assert session.get_one(SlackInstallation, "T0SHOP").token is None
            alerts = session.scalars(select(Event).where(Event.type == "alert.raised")).all()
        assert ["T0SHOP" in alert.data["reason"] for alert in alerts] == [True]

    def test_of_events_that_slack_holds_back_operators_are_told_once_an_hour(
        self, work: Workspace, awake: Awake
    ) -> None:
        for minute in range(3):
            work.does("app_rate_limited", **{"1795000000": str(1795000000 + 60 * minute)})
        with transaction(awake.engine) as session:
            (alert,) = session.scalars(select(Alert)).all()
            assert (alert.kind, alert.data["team"]) == ("slack.limited", "T0SHOP")
            alert.created_at -= timedelta(hours=2)
        work.does("app_rate_limited", **{"1795000000": "1795007200"})
        work.does("app_rate_limited", T0SHOP="T0OUTRA")
        with transaction(awake.engine) as session:
            told = session.scalars(select(Event).where(Event.type == "alert.raised").order_by(Event.id)).all()
        assert [event.data["reason"].split(" in an hour")[0][-6:] for event in told] == ["T0SHOP", "T0SHOP", "0OUTRA"]

    def test_what_was_thrown_out_before_it_was_installed_again_stays(self, work: Workspace, awake: Awake) -> None:
        """The event comes late, or again: it is about the installation before."""
        store = Installations(awake.engine, secret="client-secret")
        store.save(installation("T0SHOP", "xoxb-new"))
        work.does("app_uninstalled")
        assert store.token("T0SHOP") == "xoxb-new"

    def test_installed_again_it_is_open_again(self, awake: Awake) -> None:
        store = Installations(awake.engine, secret="client-secret")
        store.save(installation("T0SHOP", "xoxb-1"))
        with transaction(awake.engine) as session:
            assert installations.remove(session, "T0SHOP", None)
            assert not installations.remove(session, "T0SHOP", None)
        store.save(installation("T0SHOP", "xoxb-2"))
        assert store.token("T0SHOP") == "xoxb-2"


def installation(team: str, token: str, **facts: Any) -> Installation:
    return Installation(team_id=team, bot_token=token, user_id="U0CHEFE", **facts)
