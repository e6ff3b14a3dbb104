"""The fake vendors: they take what the real ones take, report deliveries, and misbehave as they are told."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from servers import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bot.simulator.vendors import create_vendors
from core.settings import load_settings


@dataclass
class Ourselves:
    """Where delivery reports go; the first `refuse` of them are answered 503."""

    refuse: int = 0
    asked: int = 0
    reports: list[str] = field(default_factory=list)

    async def take(self, request: Request) -> Response:
        body = (await request.body()).decode()
        self.asked += 1
        if self.asked <= self.refuse:
            return Response(status_code=503)
        self.reports.append(body)
        return Response()

    def wait_for(self, part: str, count: int) -> int:
        """How many reports have this in them, at the latest after five seconds."""
        end = time.monotonic() + 5
        while (found := sum(part in report for report in self.reports)) < count and time.monotonic() < end:
            time.sleep(0.02)
        return found


@pytest.fixture(scope="module")
def _servers() -> Iterator[tuple[Ourselves, str, str]]:
    us = Ourselves()
    with serving(Starlette(routes=[Route("/{path:path}", us.take, methods=["POST"])])) as here:
        settings = load_settings(
            running=False, public_base_url=here, twilio_auth_token="t", meta_app_secret="m", slack_signing_secret="s",
            meta_phone_number_id="1",
        )  # fmt: skip
        with serving(create_vendors(settings)) as url:
            yield us, here, url


@pytest.fixture
def us(_servers: tuple[Ourselves, str, str]) -> Ourselves:
    return _servers[0]


@pytest.fixture
def vendor(_servers: tuple[Ourselves, str, str]) -> Iterator[httpx.Client]:
    """The fake vendors; `sent` begins with what this test sends."""
    _, here, url = _servers
    with httpx.Client(base_url=url, timeout=5.0, headers={"x-here": here}) as client:
        client.headers["x-since"] = str(len(client.get("/_sent").json()))
        yield client


def twilio(client: httpx.Client, body: str = "Olá", **form: str) -> httpx.Response:
    fields = {"To": "whatsapp:+5511990000001", "From": "whatsapp:+551130000000", "Body": body, **form}
    return client.post("/2010-04-01/Accounts/AC1/Messages.json", data=fields)


def meta(client: httpx.Client, **body: Any) -> httpx.Response:
    message = {"to": "5511990000001", "type": "text", "text": {"body": "Olá"}, "biz_opaque_callback_data": "row-1"}
    return client.post("/v23.0/1/messages", json=message | body)


def slack(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/api/chat.postMessage", json={"channel": "D1", "text": "Olá", **body})


SEND = {"twilio": twilio, "meta": meta, "slack": slack}


def sent(client: httpx.Client, since: int = 0) -> list[dict[str, Any]]:
    before = int(client.headers["x-since"])
    found: list[dict[str, Any]] = client.get("/_sent", params={"since": before + since}).json()
    return [{**entry, "n": entry["n"] - before} for entry in found]


def test_what_was_taken_is_numbered_and_listed(vendor: httpx.Client) -> None:
    assert vendor.get("/healthz").json() == {"status": "ok"}
    ids = [twilio(vendor).json()["sid"], meta(vendor).json()["messages"][0]["id"], f"D1:{slack(vendor).json()['ts']}"]
    found = sent(vendor)
    assert [(entry["n"], entry["vendor"], entry["id"], entry["text"]) for entry in found] == [
        (number, name, key, "Olá") for number, (name, key) in enumerate(zip(SEND, ids, strict=True), 1)
    ]
    assert sent(vendor, since=2) == found[2:]


def test_deliveries_are_reported_and_reported_again_if_not_taken(vendor: httpx.Client, us: Ourselves) -> None:
    us.refuse = us.asked + 1
    here = vendor.headers["x-here"]
    sid = twilio(vendor, StatusCallback=f"{here}/status?id=row-1").json()["sid"]
    wamid = meta(vendor).json()["messages"][0]["id"]
    assert us.wait_for(f"MessageSid={sid}", 2) == 2
    assert us.wait_for(wamid, 2) == 2
    assert all("row-1" in report for report in us.reports if wamid in report)


@pytest.mark.parametrize("name", SEND)
def test_faults_come_as_often_as_they_were_ordered(vendor: httpx.Client, name: str) -> None:
    vendor.post("/_faults", json={"vendor": name, "kind": "429", "times": 2, "retry_after": 3})
    answers = [SEND[name](vendor) for _ in range(3)]
    assert [answer.status_code for answer in answers[:2]] == [429, 429]
    assert [answer.headers["retry-after"] for answer in answers[:2]] == ["3", "3"]
    assert answers[2].is_success
    vendor.post("/_faults", json={"vendor": name, "kind": "500"})
    others = [other for other in SEND if other != name]
    assert all(SEND[other](vendor).is_success for other in others), "others are not concerned"
    assert SEND[name](vendor).status_code == 500
    assert len([entry for entry in sent(vendor) if entry["vendor"] == name]) == 1, "what was refused was not taken"


@pytest.mark.parametrize(("name", "code"), [("twilio", 21610), ("meta", 131026), ("slack", "channel_not_found")])
def test_a_refusal_has_the_vendors_shape(vendor: httpx.Client, name: str, code: Any) -> None:
    vendor.post("/_faults", json={"vendor": name, "kind": "refuse", "code": code})
    answer = SEND[name](vendor).json()
    assert code in (
        answer.get("code"),
        answer.get("error"),
        (answer.get("error") or {}).get("code") if name == "meta" else 0,
    )
    assert sent(vendor) == []


@pytest.mark.parametrize("name", SEND)
def test_dropped_is_taken_and_never_answered(vendor: httpx.Client, name: str) -> None:
    vendor.post("/_faults", json={"vendor": name, "kind": "drop"})
    vendor.timeout = httpx.Timeout(0.3)
    with pytest.raises(httpx.ReadTimeout):
        SEND[name](vendor)
    vendor.timeout = httpx.Timeout(5.0)
    assert [entry["vendor"] for entry in sent(vendor)] == [name]


def test_reports_come_in_the_order_and_as_often_as_they_were_told(vendor: httpx.Client, us: Ourselves) -> None:
    told = {"kind": "reports", "statuses": ["read", "failed", "sent"], "repeat": 2, "code": 63016}
    vendor.post("/_faults", json={"vendor": "twilio", **told})
    sid = twilio(vendor, StatusCallback=f"{vendor.headers['x-here']}/status?id=row-1").json()["sid"]
    assert us.wait_for(f"MessageSid={sid}", 6) == 6
    mine = [dict(parse_qsl(report)) for report in us.reports if sid in report]
    assert [report["MessageStatus"] for report in mine] == ["read", "read", "failed", "failed", "sent", "sent"]
    assert [report.get("ErrorCode") for report in mine] == [None, None, "63016", "63016", None, None]


class TestMedia:
    BASIC, BEARER = {"authorization": "Basic eA=="}, {"authorization": "Bearer x"}

    def test_of_twilio_is_fetched_with_credentials_and_can_be_deleted(self, vendor: httpx.Client) -> None:
        url = "/2010-04-01/Accounts/AC1/Messages/MM1/Media/ME1"
        assert vendor.get(url).status_code == 401
        assert vendor.get(url, headers=self.BASIC).headers["content-type"] == "image/png"
        assert vendor.delete(url, headers=self.BASIC).status_code == 204

    def test_of_meta_is_found_then_fetched(self, vendor: httpx.Client) -> None:
        vendor.post("/_media", json={"id": "77", "type": "audio/ogg", "base64": "AAAA"})
        facts = vendor.get("/v23.0/77", headers=self.BEARER).json()
        assert (facts["mime_type"], facts["file_size"]) == ("audio/ogg", 3)
        assert vendor.get(facts["url"]).status_code == 401
        assert vendor.get(facts["url"], headers=self.BEARER).content == b"\0\0\0"

    def test_faults_hit_it_only_by_name(self, vendor: httpx.Client) -> None:
        vendor.post("/_faults", json={"vendor": "meta", "kind": "503", "method": "media"})
        assert meta(vendor).is_success
        assert vendor.get("/_media/77", headers=self.BEARER).status_code == 503


def test_what_is_too_long_or_for_nobody_is_refused(vendor: httpx.Client) -> None:
    assert twilio(vendor, "a" * 1601).json()["code"] == 21617
    assert meta(vendor, text={"body": "a" * 4097}).json()["error"]["code"] == 100
    assert meta(vendor, to=None).json()["error"]["code"] == 100
    assert sent(vendor) == []


def test_twilio_finds_what_it_was_sent(vendor: httpx.Client) -> None:
    sid = twilio(vendor, "Um", To="whatsapp:+5511990000003").json()["sid"]
    twilio(vendor, "Dois", To="whatsapp:+5511990000002")
    found = vendor.get("/2010-04-01/Accounts/AC1/Messages.json", params={"To": "whatsapp:+5511990000003"}).json()
    assert [(message["sid"], message["body"]) for message in found["messages"]] == [(sid, "Um")]


def test_slack_tells_threads_apart(vendor: httpx.Client) -> None:
    slack(vendor, text="fora", channel="D2")
    metadata = {"event_type": "e", "event_payload": {"id": "row-1"}}
    slack(vendor, text="dentro", channel="D2", thread_ts="1.2", metadata=metadata)

    def texts(method: str, **arguments: str) -> list[str]:
        answer = vendor.post(f"/api/{method}", data={"channel": "D2", **arguments}).json()
        return [message["text"] for message in answer["messages"]]

    assert texts("conversations.history") == ["fora"]
    assert texts("conversations.replies", ts="1.2") == ["dentro"]
    assert texts("conversations.replies", ts="1.2", oldest=f"{time.time() + 60:.6f}") == []
    assert vendor.post("/api/auth.test").json()["ok"]
