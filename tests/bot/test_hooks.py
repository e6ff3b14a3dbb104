"""The vendors' doors over HTTP, with a real ledger and a real bell behind them.

Signatures are computed here by hand from the vendors' descriptions, not by the code that checks them.
"""

import base64
import copy
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import psycopg
import pytest
import redis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st
from pydantic import SecretStr
from servers import serving

from bot.app import create_app
from bot.hooks import MAX_META
from bot.intake import _name
from bot.simulator.vendors import create_vendors
from core.errors import VendorUnavailable
from core.jobs import BELL
from core.messages import InboundMessage, Outgoing
from core.settings import Settings, load_settings
from integrations.meta.client import MetaClient
from integrations.meta.webhook import split as split_meta
from integrations.postgres.embedded import EmbeddedPostgres
from integrations.redis.embedded import EmbeddedRedis
from integrations.slack.webhook import read as read_slack
from integrations.slack.webhook import split as split_slack
from integrations.twilio.client import TwilioClient
from integrations.twilio.webhook import split as split_twilio

FIXTURES = Path(__file__).parents[1] / "integrations"
FORM, JSON = "application/x-www-form-urlencoded", "application/json"


@dataclass(frozen=True)
class Post:
    """One delivery of a vendor."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def to(self, client: Any) -> Any:
        """Deliver it, by a TestClient or over a socket."""
        return client.post(self.path, content=self.body, headers=self.headers)


# How the vendors sign -------------------------------------------------------------------------------------------------


def twilio(
    fields: dict[str, str] | bytes, *, path: str = "/hooks/twilio", base: str = "http://testserver",
    token: str = "twilio-token", content_type: str = FORM,
) -> Post:  # fmt: skip
    """base64(HMAC-SHA1(token, URL + each field's name and value, by name)); a JSON body is covered by its hash."""
    raw = fields if isinstance(fields, bytes) else urlencode(fields).encode()
    signed = "" if isinstance(fields, bytes) else "".join(f"{name}{fields[name]}" for name in sorted(fields))
    if content_type == JSON:
        path += f"?bodySHA256={hashlib.sha256(raw).hexdigest()}"
    mac = hmac.new(token.encode(), f"{base}{path}{signed}".encode(), hashlib.sha1)
    headers = {"content-type": content_type, "x-twilio-signature": base64.b64encode(mac.digest()).decode()}
    return Post(path, raw, headers)


def meta(data: Any, *, secret: str = "meta-secret") -> Post:
    """HMAC-SHA256 over the raw bytes."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    digest = hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
    return Post("/hooks/meta", raw, {"content-type": JSON, "x-hub-signature-256": f"sha256={digest}"})


def slack(data: Any, *, secret: str = "slack-secret", at: str | None = None, content_type: str = JSON) -> Post:
    """HMAC-SHA256 over v0:time:body."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    at = at or str(int(time.time()))
    digest = hmac.new(secret.encode(), b"v0:" + at.encode() + b":" + raw, hashlib.sha256).hexdigest()
    headers = {"content-type": content_type, "x-slack-request-timestamp": at, "x-slack-signature": f"v0={digest}"}
    return Post("/hooks/slack", raw, headers)


def slack_click(payload: dict[str, Any]) -> Post:
    return slack(urlencode({"payload": json.dumps(payload)}).encode(), content_type=FORM)


def fixture(vendor: str, name: str) -> Post:
    """A captured payload as its vendor delivers it."""
    path = FIXTURES / vendor / "fixtures" / name
    if path.suffix == ".txt":
        raw = path.read_bytes()
        if vendor == "slack":
            return slack(raw, content_type=FORM)
        names = sorted({pair.partition("=")[0] for pair in raw.decode().split("&")})
        values = {name: sorted(set(httpx.QueryParams(raw.decode()).get_list(name))) for name in names}
        signed = {name: name.join(values[name]) for name in names}  # each repeated value once, its name before it
        return replace(twilio(signed), body=raw)
    data = json.loads(path.read_text())
    if vendor == "twilio":
        return twilio(data, path="/hooks/twilio/status?id=row-1" if name.startswith("status__") else "/hooks/twilio")
    if vendor == "meta":
        return meta(data)
    is_event = data.get("type") in ("event_callback", "url_verification", "app_rate_limited")
    return slack(data) if is_event else slack_click(data)


def fixtures(vendor: str) -> list[str]:
    return sorted(path.name for path in (FIXTURES / vendor / "fixtures").iterdir())


def keys(vendor: str) -> set[str]:
    """Everything that a vendor's fixtures should leave in the ledger, each once."""
    found: set[str] = set()
    for name in fixtures(vendor):
        raw = (FIXTURES / vendor / "fixtures" / name).read_text()
        data = json.loads(raw) if name.endswith(".json") else dict(httpx.QueryParams(raw))
        if vendor == "twilio":
            items = split_twilio(data)
        elif vendor == "meta":
            items = split_meta(raw.encode())
        else:
            items = [] if "challenge" in data or "ssl_check" in data else split_slack(data)
        found |= {item.external_id for item in items}
    return found


TEXT = {"twilio": "text.json", "meta": "text.json", "slack": "im.json"}
VENDORS = list(TEXT)


# What stands in the ledger --------------------------------------------------------------------------------------------


def rows(settings: Settings) -> list[tuple[str, str, str, str]]:
    with psycopg.connect(str(settings.database_url)) as connection:
        query = "SELECT source, external_id, kind, lane FROM npllm.inbound_events ORDER BY id"
        return connection.execute(query).fetchall()


def rung(settings: Settings) -> list[str]:
    lanes: Any = redis.Redis.from_url(str(settings.redis_url), decode_responses=True).lrange(BELL, 0, -1)
    return list(lanes)


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres, redis_server: EmbeddedRedis) -> Iterator[Settings]:
    """One database for this file (making one takes longer than most of its tests), with every door open."""
    server, name = postgres.url.rsplit("/", 1)[0], "hooks"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template_npllm")
    yield load_settings(
        running=False, database_url=f"{server}/{name}", redis_url=redis_server.url, public_base_url="http://testserver",
        twilio_account_sid="AC" + "0" * 32, twilio_auth_token="twilio-token",
        twilio_whatsapp_from="whatsapp:+551130000000", meta_app_secret="meta-secret", meta_verify_token="meta-verify",
        meta_access_token="meta-access", meta_phone_number_id="100000000000001",
        slack_signing_secret="slack-secret", slack_bot_token="xoxb-test",
    )  # fmt: skip
    with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def running(shared: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(shared)) as client:
        yield client


@pytest.fixture
def settings(shared: Settings) -> Settings:
    """The same, with nothing in the ledger and no bell rung."""
    with psycopg.connect(str(shared.database_url), autocommit=True) as connection:
        connection.execute("TRUNCATE npllm.inbound_events")
    redis.Redis.from_url(str(shared.redis_url)).flushall()
    return shared


@pytest.fixture
def door(running: TestClient, settings: Settings) -> TestClient:
    return running


def changed(settings: Settings, **values: Any) -> Settings:
    return settings.model_copy(update=values)


class TestStored:
    @pytest.mark.parametrize("vendor", VENDORS)
    def test_a_signed_message_is_in_the_ledger_and_the_bell_rang(
        self, door: TestClient, settings: Settings, vendor: str
    ) -> None:
        answer = fixture(vendor, TEXT[vendor]).to(door)
        assert answer.status_code == 200
        ((source, _, kind, lane),) = rows(settings)
        assert (source, kind) == (vendor, "message")
        assert rung(settings) == [lane]

    def test_twilio_is_answered_with_twiml_that_says_nothing(self, door: TestClient) -> None:
        answer = fixture("twilio", TEXT["twilio"]).to(door)
        assert answer.headers["content-type"].startswith("text/xml")
        assert answer.text.endswith("<Response/>"), "any other text would be sent to the person"

    def test_signals_have_a_lane_of_their_own(self, door: TestClient, settings: Settings) -> None:
        fixture("meta", "reaction_added.json").to(door)
        assert rung(settings) == ["signals/meta:100000000000001:+5511990000001"]

    @pytest.mark.parametrize("vendor", VENDORS)
    def test_ten_deliveries_one_after_the_other_are_one(
        self, door: TestClient, settings: Settings, vendor: str
    ) -> None:
        for number in range(10):
            delivery = fixture(vendor, TEXT[vendor])
            retry = {"x-slack-retry-num": str(number), "x-slack-retry-reason": "http_timeout"} if number else {}
            assert replace(delivery, headers=delivery.headers | retry).to(door).status_code == 200
        assert len(rows(settings)) == len(rung(settings)) == 1

    def test_deliveries_at_the_same_time_are_one(self, settings: Settings) -> None:
        deliveries = [fixture(vendor, TEXT[vendor]) for vendor in VENDORS for _ in range(20)]
        batch = fixture("meta", "batch__entries_changes_messages_statuses.json")
        with serving(create_app(changed(settings, public_base_url=None))) as url:
            # Twilio signs the address it calls, which is this server's.
            data = json.loads((FIXTURES / "twilio" / "fixtures" / TEXT["twilio"]).read_text())
            deliveries = [post for post in deliveries if post.path != "/hooks/twilio"] + [batch] * 10
            deliveries += [twilio(data, base=url)] * 20
            with httpx.Client(base_url=url) as client, ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(lambda post: post.to(client).status_code, deliveries))
        assert answers == [200] * len(deliveries)
        found = rows(settings)
        assert len(found) == len(set(found)) == 3 + 7

    def test_one_mention_delivered_twice_is_one(self, door: TestClient, settings: Settings) -> None:
        for name in ("mention__as_message.json", "mention__as_app_mention.json"):
            assert fixture("slack", name).to(door).status_code == 200
        assert [row[1] for row in rows(settings)] == ["msg:T0SHOP:C0GERAL:1795000000.000100"]

    def test_a_batch_is_stored_in_its_order(self, door: TestClient, settings: Settings) -> None:
        fixture("meta", "batch__entries_changes_messages_statuses.json").to(door)
        keys = [row[1] for row in rows(settings)]
        sent = ["wamid.a", "wamid.b", "wamid.c", "wamid.OURS1:status:sent", "wamid.OURS1:status:delivered", "wamid.d"]
        assert keys[:6] == sent

    def test_a_batch_of_a_thousand_with_half_of_it_known(self, door: TestClient, settings: Settings) -> None:
        data = json.loads((FIXTURES / "meta/fixtures/text.json").read_text())
        value = data["entry"][0]["changes"][0]["value"]
        everything = [{**value["messages"][0], "id": f"wamid.{number:04d}"} for number in range(1000)]
        for messages in (everything[:500], everything, everything + everything[:10]):
            value["messages"] = messages
            assert meta(data).to(door).status_code == 200
        assert [row[1] for row in rows(settings)] == [f"wamid.{number:04d}" for number in range(1000)]

    def test_long_names_stay_two(self, door: TestClient, settings: Settings) -> None:
        form = json.loads((FIXTURES / "twilio/fixtures/text.json").read_text())
        for end in ("a", "b"):
            twilio(form | {"MessageSid": "S" * 1000 + end, "WaId": "x" * 1000 + end}).to(door)
        found = rows(settings)
        assert len({row[1] for row in found}) == len({row[3] for row in found}) == 2
        assert sorted(rung(settings)) == sorted(row[3] for row in found), "the bell names the lanes as they are stored"

    def test_names_of_which_nothing_is_left_stay_two(self, door: TestClient, settings: Settings) -> None:
        data = json.loads((FIXTURES / "meta/fixtures/text.json").read_text())
        for name in ("\x00", "\x00\x00", "\ud83d"):
            data["entry"][0]["changes"][0]["value"]["messages"][0]["id"] = name
            assert meta(data).to(door).status_code == 200
        assert len(rows(settings)) == 3

    def test_a_length_that_is_beyond_every_limit(self, door: TestClient) -> None:
        delivery = fixture("meta", TEXT["meta"])
        for length in ("9" * 5000, "\u00b2"):
            headers = {**delivery.headers, "content-length": length.encode("latin-1")}
            answer = door.post(delivery.path, content=delivery.body, headers=headers)  # type: ignore[arg-type]
            assert answer.status_code == (413 if length.isdecimal() else 200)


class TestSlacksSecret:
    def test_while_it_changes_both_count_and_then_one(self, settings: Settings) -> None:
        both = changed(
            settings, slack_signing_secret=SecretStr("new"), slack_signing_secret_previous=SecretStr("slack-secret")
        )
        with TestClient(create_app(both)) as client:
            answers = [
                slack(BODY["slack"], secret=name).to(client).status_code for name in ("new", "slack-secret", "x")
            ]
        assert answers == [200, 200, 401]
        with TestClient(create_app(changed(both, slack_signing_secret_previous=None))) as client:
            assert slack(BODY["slack"], secret="slack-secret").to(client).status_code == 401

    @pytest.mark.parametrize(("seconds", "status"), [(-290, 200), (290, 200), (-302, 401), (310, 401)])
    def test_five_minutes_either_way(self, door: TestClient, seconds: int, status: int) -> None:
        assert slack(BODY["slack"], at=str(int(time.time()) + seconds)).to(door).status_code == status

    def test_a_workspace_with_its_own_token_needs_no_bot_token(self, settings: Settings) -> None:
        several = changed(
            settings, slack_bot_token=None, slack_client_id="1.2", slack_client_secret=SecretStr("client-secret")
        )
        with TestClient(create_app(several)) as client:
            assert fixture("slack", "im.json").to(client).status_code == 200


class TestEveryCapturedPayload:
    @pytest.mark.parametrize("vendor", VENDORS)
    def test_is_taken_and_stored_once(self, door: TestClient, settings: Settings, vendor: str) -> None:
        assert len(fixtures(vendor)) >= 25
        for name in fixtures(vendor) * 2:
            answer = fixture(vendor, name).to(door)
            assert answer.status_code == 200, (name, answer.text)
        assert sorted(row[1] for row in rows(settings)) == sorted(keys(vendor))

    def test_slacks_handshakes_are_answered_and_not_stored(self, door: TestClient, settings: Settings) -> None:
        answer = fixture("slack", "url_verification.json").to(door)
        assert answer.json() == {"challenge": "3eZbrw1aB10FEMAGAZd4FyFQ"}
        assert fixture("slack", "certificate_check.txt").to(door).status_code == 200
        assert rows(settings) == []

    def test_slack_is_asked_nothing_before_it_is_answered(self, settings: Settings) -> None:
        """Bolt would ask auth.test first."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(0.1)
            here = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            with TestClient(create_app(changed(settings, slack_api_base_url=here))) as client:
                assert fixture("slack", "im.json").to(client).status_code == 200
                assert fixture("slack", "im__in_a_thread.json").to(client).status_code == 200
            with pytest.raises(TimeoutError):
                listener.accept()


def _without(header: str) -> Callable[[Post], Post]:
    return lambda post: replace(post, headers={name: v for name, v in post.headers.items() if name != header})


def _with(**headers: str) -> Callable[[Post], Post]:
    return lambda post: replace(post, headers=post.headers | {k.replace("_", "-"): v for k, v in headers.items()})


def _another_body(post: Post) -> Post:
    return replace(post, body=post.body.replace(b"e", b"3", 1))


BODY = {name: json.loads((FIXTURES / name / "fixtures" / TEXT[name]).read_text()) for name in VENDORS}
REFUSED: dict[str, Post] = {
    "twilio, no signature": _without("x-twilio-signature")(twilio(BODY["twilio"])),
    "twilio, wrong": _with(x_twilio_signature="AAAAAAAAAAAAAAAAAAAAAAAAAAA=")(twilio(BODY["twilio"])),
    "twilio, of another token": twilio(BODY["twilio"], token="secondary"),
    "twilio, of another body": _another_body(twilio(BODY["twilio"])),
    "twilio, of another address": twilio(BODY["twilio"], base="https://elsewhere"),
    "twilio, of another path": replace(twilio(BODY["twilio"]), path="/hooks/twilio/status"),
    "twilio, of another query": replace(twilio(BODY["twilio"]), path="/hooks/twilio?id=1"),
    "twilio, without its blank fields": replace(
        twilio(BODY["twilio"] | {"Body": ""}),
        body=urlencode({k: v for k, v in BODY["twilio"].items() if k != "Body"}).encode(),
    ),
    "twilio, JSON of another hash": replace(
        twilio(json.dumps(BODY["twilio"]).encode(), content_type=JSON), body=b'{"MessageSid": "SM2"}'
    ),
    "twilio, JSON without a hash": replace(
        twilio(b"", content_type=FORM),
        body=b'{"MessageSid": "SM2"}',
        headers=twilio(b"").headers | {"content-type": JSON},
    ),
    "twilio, status without a signature": Post("/hooks/twilio/status", b"MessageSid=SM1&MessageStatus=sent"),
    "meta, no signature": _without("x-hub-signature-256")(meta(BODY["meta"])),
    "meta, wrong": _with(x_hub_signature_256="sha256=" + "0" * 64)(meta(BODY["meta"])),
    "meta, of another secret": meta(BODY["meta"], secret="other"),
    "meta, sha1": _with(x_hub_signature_256="sha1=" + "0" * 40)(meta(BODY["meta"])),
    "meta, written anew": replace(
        meta(BODY["meta"]), body=json.dumps(BODY["meta"], ensure_ascii=False, separators=(",", ":")).encode()
    ),
    "meta, empty": Post("/hooks/meta", b""),
    "slack, no signature": _without("x-slack-signature")(slack(BODY["slack"])),
    "slack, no time": _without("x-slack-request-timestamp")(slack(BODY["slack"])),
    "slack, wrong": _with(x_slack_signature="v0=" + "0" * 64)(slack(BODY["slack"])),
    "slack, of another secret": slack(BODY["slack"], secret="other"),
    "slack, of another body": _another_body(slack(BODY["slack"])),
    "slack, six minutes old": slack(BODY["slack"], at=str(int(time.time()) - 360)),
    "slack, from the future": slack(BODY["slack"], at=str(int(time.time()) + 86_400)),
    "slack, time is no number": slack(BODY["slack"], at="yesterday"),
    "slack, time is no whole number": slack(BODY["slack"], at=f"{time.time():.3f}"),
    "slack, time has too many digits": slack(BODY["slack"], at="9" * 5000),
    "slack, of no team and unsigned": Post("/hooks/slack", b'{"team": 5}', {"content-type": JSON}),
    "slack, no JSON and unsigned": Post("/hooks/slack", b"{", {"content-type": JSON}),
    "slack, unsigned handshake": Post("/hooks/slack", b'{"type":"url_verification","challenge":"x"}'),
    "slack, no UTF-8": slack(b'{"type": "\xff"}'),
}


class TestRefused:
    def test_nothing_that_is_not_signed_gets_in(self, door: TestClient, settings: Settings) -> None:
        for name, delivery in REFUSED.items():
            answer = delivery.to(door)
            assert answer.status_code == 401, (name, answer.text)
            assert answer.json()["next_step"], name
        assert rows(settings) == []

    def test_while_secrets_change_the_one_before_counts_too(self, settings: Settings) -> None:
        """And not a moment longer than it is set: REFUSED has what is signed with another secret."""
        before = {
            name: SecretStr(f"old-{name}")
            for name in ("twilio_auth_token_previous", "meta_app_secret_previous", "slack_signing_secret_previous")
        }
        old = [
            twilio(BODY["twilio"], token="old-twilio_auth_token_previous"),
            meta(BODY["meta"], secret="old-meta_app_secret_previous"),
            slack(BODY["slack"], secret="old-slack_signing_secret_previous"),
        ]
        new = [twilio({**BODY["twilio"], "MessageSid": "SMnew"}), meta(BODY["meta"]), slack(BODY["slack"])]
        public = "http://testserver"
        with TestClient(create_app(changed(settings, public_base_url=public, **before))) as client:
            assert [delivery.to(client).status_code for delivery in old + new] == [200] * 6
            others = [twilio(BODY["twilio"], token="older"), meta(BODY["meta"], secret="older")]
            assert [delivery.to(client).status_code for delivery in others] == [401] * 2
        with TestClient(create_app(changed(settings, public_base_url=public))) as client:
            assert [delivery.to(client).status_code for delivery in old] == [401] * 3

    @pytest.mark.parametrize("vendor", VENDORS)
    def test_headers_and_queries_that_are_not_ascii(self, settings: Settings, vendor: str) -> None:
        """As raw bytes on the wire: clients refuse to send them."""
        path = f"/hooks/{vendor}"
        names = b"x-twilio-signature", b"x-hub-signature-256", b"x-slack-signature", b"x-slack-request-timestamp"
        headers = b"".join(name + b": \xe9\xff\r\n" for name in names)
        request = b"POST " + path.encode() + b"?x=\xff\xfe HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n" + headers
        with serving(create_app(changed(settings, public_base_url=None))) as url:
            with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=5) as connection:
                connection.sendall(request + b"\r\n{}")
                status = connection.recv(4096).split(b" ")[1]
        assert status in (b"400", b"401")

    @pytest.mark.parametrize("host", ["testserver:99999999", "[bad", "", "a b"])
    def test_without_a_public_address_the_hosts_header_may_say_anything(self, settings: Settings, host: str) -> None:
        with TestClient(create_app(changed(settings, public_base_url=None))) as client:
            assert _with(host=host)(twilio(BODY["twilio"])).to(client).status_code == 401

    CLOSED = [
        ("/hooks/twilio", "twilio_auth_token"),
        ("/hooks/twilio", "twilio_account_sid"),
        ("/hooks/twilio", "twilio_whatsapp_from"),
        ("/hooks/twilio/status", "twilio_auth_token"),
        ("/hooks/meta", "meta_app_secret"),
        ("/hooks/meta", "meta_access_token"),
        ("/hooks/meta", "meta_phone_number_id"),
        ("/hooks/slack", "slack_signing_secret"),
        ("/hooks/slack", "slack_bot_token"),
    ]

    @pytest.mark.parametrize(("path", "setting"), CLOSED)
    def test_an_unset_secret_closes_the_door(self, settings: Settings, path: str, setting: str) -> None:
        signed = {
            "twilio": twilio(BODY["twilio"], path=path),
            "meta": meta(BODY["meta"]),
            "slack": slack(BODY["slack"]),
        }
        client = TestClient(create_app(changed(settings, **{setting: None})))  # not even the ledger is opened
        for delivery in (signed[path.split("/")[2]], Post(path, b"")):
            answer = delivery.to(client)
            assert answer.status_code == 404
            assert setting.upper() in answer.json()["next_step"]

    @pytest.mark.parametrize("path", ["/hooks/twilio", "/hooks/twilio/status", "/hooks/slack"])
    def test_there_is_nothing_to_see(self, door: TestClient, path: str) -> None:
        assert door.get(path).status_code == 405


class TestUnreadable:
    """Signed, and still no good: a clear 4xx, and nothing in the ledger."""

    @staticmethod
    def posts() -> dict[str, tuple[Post, int]]:
        """Signed when they are sent: Slack's signature is good for five minutes, and a run of all tests is longer."""
        return {
            "twilio, empty": (twilio({}), 400),
            "twilio, no sid": (twilio({"Body": "oi", "From": "whatsapp:+5511990000001"}), 400),
            "twilio, JSON list": (twilio(b"[]", content_type=JSON), 400),
            "twilio, JSON without end": (twilio(b'{"a":' * 5000, content_type=JSON), 400),
            "twilio, status without status": (twilio({"MessageSid": "SM1"}, path="/hooks/twilio/status"), 400),
            "twilio, 1 MB": (twilio({"MessageSid": "SM1", "Body": "a" * 1_000_000}), 413),
            "twilio, 5 MB": (twilio({"MessageSid": "SM1", "Body": "a" * 5_000_000}), 413),
            "meta, empty": (meta(b""), 400),
            "meta, no JSON": (meta(b"entry=1"), 400),
            "meta, list": (meta([]), 400),
            "meta, string": (meta("entry"), 400),
            "meta, no UTF-8": (meta(b"\xff\xfe{"), 400),
            "meta, JSON without end": (meta(b'{"entry":' * 5000), 400),
            "meta, nested without end": (meta(b'{"entry":' * 500 + b"1" + b"}" * 500), 400),
            "meta, a number of 5,000 digits": (meta(b'{"entry": ' + b"9" * 5000 + b"}"), 400),
            "meta, a message of 1 MB": (
                meta(
                    {
                        "entry": [
                            {
                                "changes": [
                                    {
                                        "value": {
                                            "messages": [
                                                {
                                                    "id": "w",
                                                    "from": "5511999990000",
                                                    "type": "text",
                                                    "text": {"body": "a" * 1_000_000},
                                                },
                                            ]
                                        }
                                    }
                                ]
                            }
                        ]
                    }
                ),
                413,
            ),
            "meta, 5 MB": (meta(b" " * 5_000_000), 413),
            "slack, empty": (slack(b""), 400),
            "slack, no JSON": (slack(b"{"), 400),
            "slack, list": (slack([]), 400),
            "slack, number": (slack(1), 400),
            "slack, form without a payload": (slack(b"a=1", content_type=FORM), 400),
            "slack, payload that is none": (slack(b"payload=x", content_type=FORM), 400),
            "slack, payload that is a list": (slack(b"payload=%5B%5D", content_type=FORM), 400),
            "slack, nested without end": (slack(b'{"event":' * 500 + b"1" + b"}" * 500), 400),
            "slack, 1 MB": (
                slack({"type": "event_callback", "event": {"type": "message", "text": "a" * 1_000_000}}),
                413,
            ),
            "slack, 5 MB": (
                slack({"type": "event_callback", "event": {"type": "message", "text": "a" * 5_000_000}}),
                413,
            ),
        }

    def test_each_says_what_is_wrong(self, door: TestClient, settings: Settings) -> None:
        for name, (delivery, status) in self.posts().items():
            answer = delivery.to(door)
            assert (answer.status_code, bool(answer.json()["next_step"])) == (status, True), (name, answer.text)
        assert rows(settings) == []

    def test_a_batch_that_is_large_because_it_is_many_is_taken(self, door: TestClient, settings: Settings) -> None:
        data = copy.deepcopy(BODY["meta"])
        value = data["entry"][0]["changes"][0]["value"]
        first = value["messages"][0]
        value["messages"] = [{**first, "id": f"wamid.{n}", "text": {"body": "a" * 2_500}} for n in range(1000)]
        assert 2_500_000 < len(meta(data).body) < MAX_META
        assert meta(data).to(door).status_code == 200
        assert len(rows(settings)) == 1000

    def test_more_than_it_said_is_too_much(self, settings: Settings) -> None:
        """A body in chunks, without a length to look at first."""
        with serving(create_app(settings)) as url:
            chunks = iter([b"a" * 1_000_000] * 6)
            answer = httpx.post(f"{url}/hooks/meta", content=chunks, headers={"x-hub-signature-256": "sha256=0"})
        assert answer.status_code == 413


class TestSecretsBeingChanged:
    """Twilio and Meta sign with the old or the new one for a while; both are taken, and nothing else."""

    def answers(self, settings: Settings, sign: Callable[[str], Post], *secrets: str) -> list[int]:
        with TestClient(create_app(settings)) as client:
            return [sign(secret).to(client).status_code for secret in secrets]

    def test_of_twilio(self, settings: Settings) -> None:
        both = changed(settings, twilio_auth_token=SecretStr("new"), twilio_auth_token_previous=SecretStr("old"))
        answers = self.answers(both, lambda token: twilio(BODY["twilio"], token=token), "new", "old", "twilio-token")
        assert answers == [200, 200, 401]

    def test_of_meta(self, settings: Settings) -> None:
        both = changed(settings, meta_app_secret=SecretStr("new"), meta_app_secret_previous=SecretStr("old"))
        answers = self.answers(both, lambda secret: meta(BODY["meta"], secret=secret), "new", "old", "meta-secret")
        assert answers == [200, 200, 401]

    def test_the_old_one_alone_opens_nothing(self, settings: Settings) -> None:
        closed = changed(
            settings, twilio_auth_token=None, twilio_auth_token_previous=SecretStr("old"), meta_app_secret=None,
            meta_app_secret_previous=SecretStr("old"),
        )  # fmt: skip
        assert self.answers(closed, lambda token: twilio(BODY["twilio"], token=token), "old") == [404]
        assert self.answers(closed, lambda secret: meta(BODY["meta"], secret=secret), "old") == [404]


class TestTwiliosAddress:
    def test_behind_a_proxy_the_public_address_is_signed(self, settings: Settings) -> None:
        behind = changed(settings, public_base_url="https://bot.example")
        post = twilio(BODY["twilio"], path="/hooks/twilio/status?id=row%2D1&b=", base="https://bot.example")
        with TestClient(create_app(behind)) as client:
            assert post.to(client).status_code == 200, "a message at the statuses' door is taken all the same"
            status = json.loads((FIXTURES / "twilio/fixtures/status__delivered.json").read_text())
            signed = twilio(status, path="/hooks/twilio/status?id=row%2D1&b=", base="https://bot.example")
            assert signed.to(client).status_code == 200
            assert twilio(status, path="/hooks/twilio/status?id=row%2D1&b=").to(client).status_code == 401
        with psycopg.connect(str(settings.database_url)) as connection:
            query = "SELECT kind, payload->>'our_id' FROM npllm.inbound_events ORDER BY id"
            assert connection.execute(query).fetchall() == [("message", None), ("status", "row-1")]

    def test_a_public_address_with_a_path_of_its_own(self, settings: Settings) -> None:
        with TestClient(create_app(changed(settings, public_base_url="https://shop.example/bot"))) as client:
            assert twilio(BODY["twilio"], base="https://shop.example/bot").to(client).status_code == 200

    def test_a_forwarded_header_is_nobodys_word(self, settings: Settings) -> None:
        with TestClient(create_app(changed(settings, public_base_url=None))) as client:
            forged = _with(x_forwarded_host="bot.example", x_forwarded_proto="https")
            assert forged(twilio(BODY["twilio"], base="https://bot.example")).to(client).status_code == 401

    def test_json_with_its_hash(self, door: TestClient, settings: Settings) -> None:
        assert twilio(json.dumps(BODY["twilio"]).encode(), content_type=JSON).to(door).status_code == 200
        assert len(rows(settings)) == 1


class TestMetasHandshake:
    def ask(self, client: TestClient, **query: str) -> Any:
        return client.get("/hooks/meta", params={f"hub.{name}": value for name, value in query.items()})

    def test_the_bare_challenge(self, door: TestClient) -> None:
        answer = self.ask(door, mode="subscribe", verify_token="meta-verify", challenge="1158201444")
        assert (answer.status_code, answer.text) == (200, "1158201444")
        assert answer.headers["content-type"].startswith("text/plain")

    @pytest.mark.parametrize("token", ["other", "", "é"])
    def test_another_token_is_refused(self, door: TestClient, token: str) -> None:
        answer = self.ask(door, mode="subscribe", verify_token=token, challenge="1")
        assert (answer.status_code, "META_VERIFY_TOKEN" in answer.json()["next_step"]) == (403, True)

    def test_a_bare_look_is_refused(self, door: TestClient) -> None:
        assert door.get("/hooks/meta").status_code == 403

    def test_without_a_token_there_is_no_door(self, settings: Settings) -> None:
        client = TestClient(create_app(changed(settings, meta_verify_token=None)))
        answer = self.ask(client, mode="subscribe", verify_token="", challenge="1")
        assert (answer.status_code, "META_VERIFY_TOKEN" in answer.json()["next_step"]) == (404, True)


class TestSomethingIsAway:
    @pytest.mark.parametrize("vendor", VENDORS)
    def test_without_a_ledger_nothing_is_acknowledged(self, settings: Settings, vendor: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        parts = urlsplit(str(settings.database_url))
        away = parts._replace(netloc=parts.netloc.replace(str(parts.port), str(port))).geturl()
        app = create_app(changed(settings, database_url=away))
        app.state.intake.pool.timeout = 0.3
        with TestClient(app) as client:
            answer = fixture(vendor, TEXT[vendor]).to(client)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "ledger" in answer.json()["error"]

    def test_a_ledger_that_was_away_takes_the_next_delivery(self, settings: Settings) -> None:
        name = urlsplit(str(settings.database_url)).path.lstrip("/")
        elsewhere = str(settings.database_url).replace(name, "postgres")
        app = create_app(settings)
        app.state.intake.pool.timeout = 0.3
        with TestClient(app) as client, psycopg.connect(elsewhere, autocommit=True) as admin:
            assert fixture("meta", "text.json").to(client).status_code == 200
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            try:
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
                answers = [fixture(vendor, TEXT[vendor]).to(client).status_code for vendor in VENDORS]
            finally:
                admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            assert answers == [503] * 3
            app.state.intake.pool.timeout = 5.0
            for vendor in VENDORS:
                assert fixture(vendor, TEXT[vendor]).to(client).status_code == 200
        assert len(rows(settings)) == 3

    def test_connections_that_the_server_closed_cost_no_delivery(self, settings: Settings) -> None:
        """As after a restart of Postgres: Twilio would not deliver a second time."""
        with serving(create_app(changed(settings, public_base_url=None))) as url, httpx.Client(base_url=url) as client:
            with ThreadPoolExecutor(8) as pool:  # several connections are open
                posts = [meta(json.loads(json.dumps(BODY["meta"]).replace("wamid.text", f"w{n}"))) for n in range(40)]
                assert {post.to(client).status_code for post in posts[:1]} == {200}
                assert set(pool.map(lambda post: post.to(client).status_code, posts)) == {200}
            with psycopg.connect(str(settings.database_url), autocommit=True) as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'npllm-web'"
                )
            answers = [fixture("meta", name).to(client).status_code for name in ("text.json", "voice.json")]
        assert answers == [200, 200]
        assert len(rows(settings)) == 42

    @pytest.mark.parametrize("kind", ["refuses", "says nothing"])
    def test_without_a_bell_it_is_stored_and_acknowledged_at_once(self, settings: Settings, kind: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            if kind == "refuses":
                listener.close()
                address = "127.0.0.1:1"
            else:
                address = f"127.0.0.1:{listener.getsockname()[1]}"
            with TestClient(create_app(changed(settings, redis_url=f"redis://{address}/0"))) as client:
                fixture("meta", "status__sent.json").to(client)  # opens the connections
                started = time.monotonic()
                for vendor in VENDORS:
                    assert fixture(vendor, TEXT[vendor]).to(client).status_code == 200
                assert time.monotonic() - started < 1.5
        assert len(rows(settings)) == 4


class TestStatusesOfWhatWeSent:
    """Client, fake vendor and our own door, one after the other."""

    @contextmanager
    def vendor(self, settings: Settings) -> Iterator[tuple[str, str]]:
        with serving(create_app(changed(settings, public_base_url=None))) as us:
            with serving(create_vendors(changed(settings, public_base_url=us))) as vendor:
                yield us, vendor

    def wait(self, settings: Settings) -> list[dict[str, Any]]:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with psycopg.connect(str(settings.database_url)) as connection:
                found = connection.execute("SELECT payload FROM npllm.inbound_events WHERE kind = 'status'").fetchall()
            if len(found) == 2:
                return [payload for (payload,) in found]
            time.sleep(0.05)
        raise AssertionError("The delivery reports did not come.")

    def test_twilio_says_our_id_in_the_address(self, settings: Settings) -> None:
        with self.vendor(settings) as (us, vendor):
            client = TwilioClient(
                account_sid="AC", auth_token="twilio-token", sender="+551130000000", base_url=vendor,
                status_url=f"{us}/hooks/twilio/status",
            )  # fmt: skip
            sid = client.send(Outgoing("row-1", {"to": "whatsapp:+5511990000001"}, "Olá!"))
            reports = self.wait(settings)
        assert {(report["MessageSid"], report["our_id"]) for report in reports} == {(sid, "row-1")}
        assert {report["MessageStatus"] for report in reports} == {"sent", "delivered"}

    def test_meta_echoes_our_id(self, settings: Settings) -> None:
        with self.vendor(settings) as (_, vendor):
            client = MetaClient(access_token="a", phone_number_id="1", base_url=vendor, version="v23.0")
            wamid = client.send(Outgoing("row-1", {"to": "5511990000001"}, "Olá!"))
            reports = [report["status"] for report in self.wait(settings)]
        assert {(report["id"], report["biz_opaque_callback_data"]) for report in reports} == {(wamid, "row-1")}

    def test_a_dropped_message_is_reported_all_the_same(self, settings: Settings) -> None:
        """Meta has no look-up: this report is how an unknown outcome becomes known."""
        with self.vendor(settings) as (_, vendor):
            httpx.post(f"{vendor}/_faults", json={"vendor": "meta", "kind": "drop"})
            client = MetaClient(access_token="a", phone_number_id="1", base_url=vendor, version="v23.0", timeout=0.3)
            with pytest.raises(VendorUnavailable):
                client.send(Outgoing("row-2", {"to": "5511990000001"}, "Olá!"))
            reports = [report["status"] for report in self.wait(settings)]
        assert {report["biz_opaque_callback_data"] for report in reports} == {"row-2"}


# Anything at all ------------------------------------------------------------------------------------------------------

CHARACTERS = st.characters(exclude_categories=())  # NUL and lone surrogates too
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**40, 10**80)
    | st.floats()
    | st.text(CHARACTERS, max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(CHARACTERS, max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def bent(draw: st.DrawFn, vendor: str) -> Any:
    """A captured payload with up to three of its places replaced by anything."""
    names = [name for name in fixtures(vendor) if name.endswith(".json")]
    data = json.loads((FIXTURES / vendor / "fixtures" / draw(st.sampled_from(names))).read_text())
    for _ in range(draw(st.integers(0, 3))):
        place: Any = data
        while isinstance(place, dict | list) and place:
            key: Any = draw(st.sampled_from(sorted(place))) if isinstance(place, dict) else len(place) - 1
            if not isinstance(place[key], dict | list) or not place[key] or draw(st.integers(0, 4)) == 0:
                place[key] = draw(ANYTHING)
                break
            place = place[key]
    return data


@st.composite
def bent_form(draw: st.DrawFn) -> dict[str, str]:
    """A captured command with up to three of its fields replaced or taken away."""
    names = [name for name in fixtures("slack") if name.startswith("command")]
    raw = (FIXTURES / "slack/fixtures" / draw(st.sampled_from(names))).read_text()
    form = dict(parse_qsl(raw, keep_blank_values=True))
    for _ in range(draw(st.integers(0, 3))):
        field_ = draw(st.sampled_from(sorted(form)))
        if draw(st.booleans()) and field_ != "command":
            form.pop(field_)
        else:
            form[field_] = draw(st.text(max_size=20))
    return form


def as_sent(body: Any, delivery: Post) -> dict[str, Any]:
    """What the door reads: JSON, a form's JSON, or the form itself."""
    if delivery.headers["content-type"] == JSON:
        return json.loads(delivery.body)
    form = dict(parse_qsl(delivery.body.decode(), keep_blank_values=True))
    return json.loads(form["payload"]) if "payload" in form else form


def is_handshake(body: Any, delivery: Post) -> bool:
    read_as = as_sent(body, delivery)
    return "challenge" in read_as or "ssl_check" in read_as


unhurried = how(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class TestAnythingSigned:
    """Never a 5xx: it would be delivered again for days, and the vendor may close the subscription."""

    def check(self, door: TestClient, delivery: Post) -> None:
        answer = delivery.to(door)
        assert answer.status_code in (200, 400, 413), answer.text

    @unhurried
    @given(data=bent("meta") | ANYTHING)
    def test_to_meta(self, door: TestClient, data: Any) -> None:
        self.check(door, meta(data))

    @unhurried
    @given(data=bent("slack") | ANYTHING, form=bent_form())
    def test_to_slack(self, door: TestClient, shared: Settings, data: Any, form: dict[str, str]) -> None:
        """Events, clicks and forms, commands: what is taken is in the ledger, and no turn is empty."""
        sent = [(data, slack(data)), (data, slack_click(data)), (form, slack(urlencode(form).encode("utf-8", "ignore"),
                                                                              content_type=FORM))]  # fmt: skip
        for body, delivery in sent:
            answer = delivery.to(door)
            assert answer.status_code in (200, 400, 413), answer.text
            if answer.status_code == 200 and not is_handshake(body, delivery):
                self.is_kept(shared, split_slack(as_sent(body, delivery)))

    def is_kept(self, settings: Settings, items: list[Any]) -> None:
        keys = [_name(item.external_id) for item in items]
        with psycopg.connect(str(settings.database_url)) as connection:
            query = "SELECT external_id, kind, payload FROM npllm.inbound_events WHERE external_id = ANY(%s)"
            found = connection.execute(query, [keys]).fetchall()
        assert {key for key, _, _ in found} == set(keys), "lost"
        for _, kind, payload in found:
            inbound = read_slack(kind, payload)
            if isinstance(inbound, InboundMessage):
                assert inbound.text or inbound.kind != "text", "an empty turn"
                assert inbound.person.identifiers[0].value, "an answer to nobody"

    @unhurried
    @given(data=st.dictionaries(st.text(max_size=9), st.text(max_size=40), max_size=9), bent=bent("twilio"))
    def test_to_twilio(self, door: TestClient, data: dict[str, str], bent: dict[str, Any]) -> None:
        form = {name: value for name, value in bent.items() if isinstance(value, str) and value.isprintable()}
        for path in ("/hooks/twilio", "/hooks/twilio/status?id=%00"):
            self.check(door, twilio(form | data | {"MessageSid": data.get("", "SM1")}, path=path))
        self.check(door, twilio(json.dumps(bent).encode(), content_type=JSON))

    @unhurried
    @given(raw=st.binary(max_size=60))
    def test_bytes(self, door: TestClient, raw: bytes) -> None:
        self.check(door, meta(raw))
        self.check(door, twilio(raw, content_type=JSON))
        assert slack(raw).to(door).status_code in (200, 400, 401)
