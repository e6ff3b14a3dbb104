"""What all fake vendors share: the list of what they took, scripted faults, and delivery reports.

A fault is `{"vendor": "twilio" | "meta" | "slack", "kind": KIND, "times": 1, ...}`:

    429         "retry_after" in seconds or as a date
    500, 503    theirs
    refuse      "code": the vendor's; "status": of HTTP
    drop        the message is taken, and nothing is ever answered
    reports     the message is taken; "statuses" come in this order, each "repeat" times, failures with "code"
    late        the message is taken; its reports wait for "seconds"

"method" is what it happens to: one of Slack's methods, or "typing", "content" or "media"; else a message.
"""

import asyncio
import base64
import contextlib
import logging
import time
from typing import Any

import httpx
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from bot.simulator import traffic
from bot.simulator.slack_api import NICETIES
from core.settings import Settings
from core.untrusted import as_text

log = logging.getLogger(__name__)

REPORTED = ("sent", "delivered")
ASIDE = NICETIES | {"typing", "content", "media"}  # never hit by a fault that does not name them
_PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="


class Sent(list[dict[str, Any]]):
    """What was accepted, numbered."""

    def take(self, vendor: str, **facts: Any) -> dict[str, Any]:
        entry = {"n": len(self) + 1, "vendor": vendor, "at": time.time(), **facts}
        self.append(entry)
        return entry


class Desk:
    """One per server. `settings` hold the secrets that delivery reports are signed with."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sent = Sent()
        self.calls: list[dict[str, Any]] = []
        self.typing: list[dict[str, str]] = []
        self.media: dict[str, tuple[str, bytes]] = {}
        self.received: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []
        self._background: set[asyncio.Task[None]] = set()

    def routes(self) -> APIRouter:
        """What is not a vendor's."""
        router = APIRouter()

        @router.get("/healthz")
        def healthz() -> dict[str, str]:
            return {"status": "ok"}

        @router.get("/_sent")
        def list_sent(since: int = 0) -> list[dict[str, Any]]:
            return self.sent[since:]

        @router.get("/_calls")
        def list_calls() -> list[dict[str, Any]]:
            return self.calls

        @router.get("/_typing")
        def list_typing() -> list[dict[str, str]]:
            return self.typing

        @router.post("/_media")
        async def put_media(request: Request) -> dict[str, int]:
            told = await request.json()
            self.media[str(told["id"])] = (str(told["type"]), base64.b64decode(told["base64"]))
            return {"media": len(self.media)}

        @router.post("/_received")
        async def receive(request: Request) -> dict[str, int]:
            self.received.append({"at": time.time(), "NumMedia": "0", "Body": "", **await request.json()})
            return {"received": len(self.received)}

        @router.post("/_faults")
        async def script(request: Request) -> dict[str, int]:
            self.faults.append(await request.json())
            return {"faults": len(self.faults)}

        return router

    def fault(self, vendor: str, method: str = "") -> dict[str, Any] | None:
        """The next scripted fault, used up."""
        for scripted in self.faults:
            meant = scripted["method"] == method if "method" in scripted else method not in ASIDE
            if scripted.get("vendor") == vendor and meant and scripted.get("times", 1) > 0:
                scripted["times"] = scripted.get("times", 1) - 1
                return scripted
        return None

    async def misbehave(self, wrong: dict[str, Any], throttled: dict[str, Any]) -> Response | None:
        """The scripted answer; None for what goes on to accept."""
        kind = str(wrong["kind"])
        if kind == "429":
            headers = {"Retry-After": str(wrong["retry_after"])} if "retry_after" in wrong else {}
            return JSONResponse(throttled, status_code=429, headers=headers)
        if kind in ("500", "502", "503", "504"):
            return JSONResponse({"error": "scripted"}, status_code=int(kind))
        return None

    def file(self, key: str) -> tuple[str, bytes]:
        """Type and bytes of one media."""
        return self.media.get(key, ("image/png", base64.b64decode(_PICTURE)))

    def report(self, client: httpx.AsyncClient, wrong: dict[str, Any] | None, sign: Any) -> None:
        """Send the delivery reports, in order and apart from the answer; `sign(status, code)` makes one."""
        told = wrong or {}
        statuses = told.get("statuses", REPORTED)
        code = as_text(told.get("code"))
        signed = [
            sign(status, code if status in ("failed", "undelivered") else None)
            for status in statuses
            for _ in range(int(told.get("repeat", 1)))
        ]
        wait = float(told.get("seconds", 0.0)) if told.get("kind") == "late" else 0.0
        task = asyncio.create_task(_deliver_all(client, signed, wait))
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _deliver_all(client: httpx.AsyncClient, signed: list[traffic.Signed], wait: float) -> None:
    await asyncio.sleep(wait)
    for report in signed:
        await _deliver(client, report)


async def _deliver(client: httpx.AsyncClient, signed: traffic.Signed) -> None:
    """One delivery report; vendors try again, so do we, a little."""
    for pause in (0.05, 0.5, 2.0):
        await asyncio.sleep(pause)
        with contextlib.suppress(httpx.HTTPError):
            response = await client.post(signed.url, content=signed.body, headers=signed.headers)
            if response.is_success:
                return
    log.warning("A delivery report was not taken: %s", signed.url)


async def gone(request: Request, seconds: float = 60.0) -> None:
    """Say nothing until the caller has had enough."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not await request.is_disconnected():
        await asyncio.sleep(0.05)
