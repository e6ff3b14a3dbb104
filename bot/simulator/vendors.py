"""The fake vendors: Twilio's Messages, Meta's Graph messages and Slack's Web API, on loopback.

They accept what the real ones accept, answer as they do, send delivery reports back to our own webhooks, and
misbehave on demand:

    GET  /_sent?since=N     everything accepted so far, as {"n", "vendor", "to", "text", "id", "ours", ...}
    GET  /_calls            what else was asked of Slack, as {"method", ...its arguments}, notes to one person too
    POST /_faults           {"vendor", "times", "kind": "429" | "500" | "refuse" | "drop", "retry_after"};
                            "method" for one of Slack's only; without, Slack's niceties (status, streams) are spared
                            "drop" takes the message and never answers; "code" is the vendor's, for "refuse"
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from bot.simulator import traffic
from bot.simulator.slack_api import NICETIES, FakeSlack, add_slack
from core.settings import Settings
from core.untrusted import as_dict, as_dicts

log = logging.getLogger(__name__)


class Sent(list[dict[str, Any]]):
    """What was accepted, numbered."""

    def take(self, vendor: str, **facts: Any) -> dict[str, Any]:
        entry = {"n": len(self) + 1, "vendor": vendor, "at": time.time(), **facts}
        self.append(entry)
        return entry


def create_vendors(settings: Settings) -> FastAPI:
    """The application; `settings` tell it which secrets to sign delivery reports with."""
    sent = Sent()
    calls: list[dict[str, Any]] = []
    faults: list[dict[str, Any]] = []
    background: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=10.0) as client:
            app.state.client = client
            yield

    app = FastAPI(title="fake vendors", lifespan=lifespan)
    app.state.sent, app.state.calls = sent, calls

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/_sent")
    def list_sent(since: int = 0) -> list[dict[str, Any]]:
        return sent[since:]

    @app.get("/_calls")
    def list_calls() -> list[dict[str, Any]]:
        return calls

    @app.post("/_faults")
    async def script(request: Request) -> dict[str, int]:
        faults.append(await request.json())
        return {"faults": len(faults)}

    def fault(vendor: str, method: str = "") -> dict[str, Any] | None:
        for scripted in faults:
            meant = method == scripted["method"] if scripted.get("method") else method not in NICETIES
            if scripted.get("vendor") == vendor and meant and scripted.get("times", 1) > 0:
                scripted["times"] = scripted.get("times", 1) - 1
                return scripted
        return None

    def report(signed: traffic.Signed) -> None:
        task = asyncio.create_task(_deliver(app.state.client, signed))
        background.add(task)
        task.add_done_callback(background.discard)

    async def misbehave(wrong: dict[str, Any], throttled: dict[str, Any]) -> Response | None:
        """The scripted answer; None for "drop", which goes on to accept."""
        if wrong["kind"] == "429":
            headers = {"Retry-After": str(wrong.get("retry_after", 1))}
            return JSONResponse(throttled, status_code=429, headers=headers)
        if wrong["kind"] == "500":
            return JSONResponse({"error": "scripted"}, status_code=500)
        return None

    @app.post("/2010-04-01/Accounts/{sid}/Messages.json")
    async def twilio_create(sid: str, request: Request) -> Response:
        wrong = fault("twilio")
        if wrong and (answer := await misbehave(wrong, {"code": 20429, "message": "Too Many Requests", "status": 429})):
            return answer
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        if wrong and wrong["kind"] == "refuse":
            body = {"code": wrong.get("code", 63016), "message": "scripted refusal", "status": 400}
            return JSONResponse(body, status_code=400)
        message = {
            "sid": f"SM{secrets.token_hex(16)}",
            "to": form.get("To"),
            "from": form.get("From"),
            "body": form.get("Body"),
        }
        ours = dict(parse_qsl(urlsplit(form.get("StatusCallback", "")).query)).get("id")
        sent.take("twilio", id=message["sid"], to=message["to"], text=message["body"], ours=ours)
        if callback := form.get("StatusCallback"):
            for status in ("sent", "delivered"):
                report(traffic.twilio_status(settings, callback, str(message["sid"]), status))
        if wrong and wrong["kind"] == "drop":
            await _gone(request)
        return JSONResponse({**message, "status": "queued", "account_sid": sid, "error_code": None}, status_code=201)

    @app.get("/2010-04-01/Accounts/{sid}/Messages.json")
    def twilio_list(sid: str, request: Request) -> dict[str, Any]:
        to = request.query_params.get("To")
        found = [
            {"sid": e["id"], "to": e["to"], "body": e["text"], "status": "delivered", "account_sid": sid}
            for e in reversed(sent) if e["vendor"] == "twilio" and e["to"] == to
        ]  # fmt: skip
        return {"messages": found, "page": 0, "page_size": 50, "next_page_uri": None}

    @app.post("/{version}/{number}/messages")
    async def meta_create(version: str, number: str, request: Request) -> Response:
        wrong = fault("meta")
        throttled = {"error": {"message": "Rate limit hit", "code": 130429}}
        if wrong and (answer := await misbehave(wrong, throttled)):
            return answer
        if wrong and wrong["kind"] == "refuse":
            body = {"error": {"message": "scripted refusal", "code": wrong.get("code", 131047)}}
            return JSONResponse(body, status_code=400)
        body = as_dict(await request.json())
        interactive = as_dict(body.get("interactive"))
        text = as_dict(body.get("text")).get("body") or as_dict(interactive.get("body")).get("text")
        buttons = [
            as_dict(b.get("reply")).get("id") for b in as_dicts(as_dict(interactive.get("action")).get("buttons"))
        ]
        to = body.get("to") or body.get("recipient")
        wamid = f"wamid.{secrets.token_hex(18)}"
        ours = body.get("biz_opaque_callback_data")
        sent.take("meta", id=wamid, to=to, text=text, buttons=buttons, ours=ours)
        for status in ("sent", "delivered"):
            report(traffic.meta_status(settings, wamid, status, echo=str(body.get("biz_opaque_callback_data"))))
        if wrong and wrong["kind"] == "drop":
            await _gone(request)
        contacts = [{"input": to, "wa_id": to}]
        return JSONResponse({"messaging_product": "whatsapp", "contacts": contacts, "messages": [{"id": wamid}]})

    app.state.slack = FakeSlack(sent, sent.take, calls)
    add_slack(app, app.state.slack, fault, misbehave, _gone)
    return app


async def _deliver(client: httpx.AsyncClient, signed: traffic.Signed) -> None:
    """One delivery report; vendors try again, so do we, a little."""
    for pause in (0.05, 0.5, 2.0):
        await asyncio.sleep(pause)
        with contextlib.suppress(httpx.HTTPError):
            response = await client.post(signed.url, content=signed.body, headers=signed.headers)
            if response.is_success:
                return
    log.warning("A delivery report was not taken: %s", signed.url)


async def _gone(request: Request, seconds: float = 60.0) -> None:
    """Say nothing until the caller has had enough."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not await request.is_disconnected():
        await asyncio.sleep(0.05)
