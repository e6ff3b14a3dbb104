"""The fake of Slack's Web API, and of the addresses where answers to clicks and commands go."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse

from bot.simulator import traffic
from core.untrusted import as_dict, as_dicts

Scripted = dict[str, Any]
NICETIES = frozenset({"assistant.threads.setStatus", "chat.startStream", "chat.appendStream"})
RATE_LIMITED = {"ok": False, "error": "ratelimited"}


class FakeSlack:
    """What stands in its channels, and what was asked of it.

    Args:
        take: keeps a posted message, numbered.
        calls: what else was asked, as {"method", ...its arguments}.
    """

    def __init__(self, sent: list[Scripted], take: Callable[..., Scripted], calls: list[Scripted]) -> None:
        self.sent, self.take, self.calls = sent, take, calls
        self.envelopes: asyncio.Queue[Scripted] = asyncio.Queue()  # what a socket still has to deliver
        self.acknowledged: list[str] = []
        self.connections = 0  # sockets that were opened
        self.streams: dict[str, Scripted] = {}  # messages that grow, by their ts; posted once they are ended

    def answer(self, method: str, data: Scripted, token: str) -> Scripted:
        """What Slack says to one call."""
        known = {
            "chat.postMessage": self.post, "chat.startStream": self.start, "chat.appendStream": self.append,
            "chat.stopStream": self.stop, "chat.update": self.update, "conversations.replies": self.history,
            "conversations.history": self.history, "oauth.v2.access": self.install, "auth.test": self.who,
        }  # fmt: skip
        if method not in ("chat.postMessage", "conversations.replies", "conversations.history", "auth.test"):
            self.calls.append({"method": method, **data})
        return known.get(method, lambda data, token: {"ok": True})(data, token)

    def post(self, data: Scripted, token: str, ts: str | None = None) -> Scripted:
        ts = ts or f"{time.time():.6f}"
        self.take(
            "slack", id=f"{data.get('channel')}:{ts}", to=data.get("channel"), text=data.get("text"), ts=ts,
            thread=data.get("thread_ts"), buttons=_buttons(data), metadata=data.get("metadata"),
            blocks=data.get("blocks"), token=token, ours=our_id(data),
        )  # fmt: skip
        return {"ok": True, "channel": data.get("channel"), "ts": ts, "message": {"ts": ts}}

    def start(self, data: Scripted, token: str) -> Scripted:
        ts = f"{time.time():.6f}"
        self.streams[ts] = {**data, "text": data.get("markdown_text") or ""}
        return {"ok": True, "channel": data.get("channel"), "ts": ts}

    def append(self, data: Scripted, token: str) -> Scripted:
        if (stream := self.streams.get(str(data.get("ts")))) is None:
            return {"ok": False, "error": "message_not_in_streaming_state"}
        stream["text"] += data.get("markdown_text") or ""
        return {"ok": True, "channel": data.get("channel"), "ts": data.get("ts")}

    def stop(self, data: Scripted, token: str) -> Scripted:
        ts = str(data.get("ts"))
        if (stream := self.streams.pop(ts, None)) is None:
            return {"ok": False, "error": "message_not_in_streaming_state"}
        text = stream["text"] + (data.get("markdown_text") or "")
        return self.post({**stream, **data, "text": text}, token, ts)

    def update(self, data: Scripted, token: str) -> Scripted:
        where = f"{data.get('channel')}:{data.get('ts')}"
        posted = next((entry for entry in self.sent if entry["id"] == where), None)
        if posted is None:
            return {"ok": False, "error": "message_not_found"}
        posted |= {name: data[name] for name in ("text", "blocks", "metadata") if name in data}
        posted |= {"buttons": _buttons(data), "ours": our_id(data) or posted.get("ours")}
        return {"ok": True, "channel": data.get("channel"), "ts": data.get("ts")}

    def history(self, data: Scripted, token: str) -> Scripted:
        messages = [
            {"ts": e["ts"], "text": e["text"], "metadata": e["metadata"], "bot_id": "B0SIM"}
            for e in self.sent
            if e["vendor"] == "slack" and e["to"] == data.get("channel")
            and e["thread"] == data.get("ts") and e["at"] >= float(data.get("oldest") or 0)
        ]  # fmt: skip
        start = int(data.get("cursor") or 0)
        end = start + int(data.get("limit") or 100)
        more = {"response_metadata": {"next_cursor": str(end)}} if end < len(messages) else {}
        return {"ok": True, "messages": messages[start:end], "has_more": bool(more), **more}

    def install(self, data: Scripted, token: str) -> Scripted:
        right = data.get("code") == "code-of-a-workspace"
        return dict(traffic.SLACK_INSTALLED) if right else {"ok": False, "error": "invalid_code"}

    def who(self, data: Scripted, token: str) -> Scripted:
        return {"ok": True, "user_id": traffic.SLACK_BOT, "bot_id": "B0SIM", "team_id": traffic.SLACK_TEAM}


def add_slack(
    app: FastAPI,
    slack: FakeSlack,
    fault: Callable[[str, str], Scripted | None],
    misbehave: Callable[[Scripted, Scripted], Awaitable[Response | None]],
    gone: Callable[[Request], Awaitable[None]],
) -> None:
    """Its two addresses; faults as in `bot/simulator/vendors.py`."""

    @app.post("/api/{method}")
    @app.get("/api/{method}")
    async def web_api(method: str, request: Request) -> Response:
        wrong = fault("slack", method)
        if wrong and (answer := await misbehave(wrong, RATE_LIMITED)):
            return answer
        if wrong and wrong["kind"] == "refuse":
            return JSONResponse({"ok": False, "error": wrong.get("code", "not_in_channel")})
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if method == "apps.connections.open":
            return JSONResponse({"ok": True, "url": f"ws://{request.headers['host']}/socket"})
        said = slack.answer(method, await _arguments(request), token)
        if wrong and wrong["kind"] == "drop":
            await gone(request)
        return JSONResponse(said)

    @app.websocket("/socket")
    async def socket(connection: WebSocket) -> None:
        """Socket Mode: what lies in `envelopes` is delivered, what is acknowledged is noted; what is not, the next
        connection delivers again. A `disconnect` asks for that connection, a `close` cuts this one off."""
        await connection.accept()
        slack.connections += 1
        await connection.send_json({"type": "hello", "num_connections": 1})
        under_way: list[Scripted] = []

        async def deliver() -> None:
            while (envelope := await slack.envelopes.get()).get("type") not in ("disconnect", "close"):
                under_way.append(envelope)
                await connection.send_json(envelope)
            await (connection.close() if envelope["type"] == "close" else connection.send_json(envelope))

        delivering = asyncio.create_task(deliver())
        try:
            while True:
                name = str(as_dict(json.loads(await connection.receive_text())).get("envelope_id"))
                slack.acknowledged.append(name)
                under_way = [envelope for envelope in under_way if envelope.get("envelope_id") != name]
        except WebSocketDisconnect:
            pass
        finally:
            delivering.cancel()
            for envelope in under_way:
                slack.envelopes.put_nowait(envelope)

    @app.post("/response/{name}")
    async def response_url(name: str, request: Request) -> Response:
        wrong = fault("slack", "response_url")
        if wrong and (answer := await misbehave(wrong, {})):
            return answer
        if wrong and wrong["kind"] == "refuse":
            return Response("expired_url", status_code=404)
        slack.calls.append({"method": "response_url", **as_dict(await request.json())})
        return Response("ok")


def our_id(data: Scripted) -> Any:
    return as_dict(as_dict(data.get("metadata")).get("event_payload")).get("id")


def _buttons(data: Scripted) -> list[Any]:
    return [
        as_dict(element.get(side)).get("value")
        for block in as_dicts(data.get("blocks"))
        for element in as_dicts(block.get("elements"))
        for side in ("positive_button", "negative_button")
        if element.get(side)
    ]


async def _arguments(request: Request) -> Scripted:
    body = await request.body()
    if request.headers.get("content-type", "").startswith("application/json"):
        return as_dict(json.loads(body or b"{}"))
    data: Scripted = dict(parse_qsl(body.decode(), keep_blank_values=True)) | dict(request.query_params)
    for name in ("blocks", "metadata"):
        if isinstance(data.get(name), str):
            data[name] = json.loads(data[name])
    return data
