"""Twilio as far as we use it: Messages, Content, typing indicators, media."""

import json
import secrets
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from bot.simulator import traffic
from bot.simulator.desk import Desk, gone
from core.text import length
from core.untrusted import as_dict, as_dicts, as_text

_THROTTLED = {"code": 20429, "message": "Too Many Requests", "status": 429}
_MAX_BODY, _MAX_QUICK_REPLY = 1600, 1024


def routes(desk: Desk) -> APIRouter:
    """The routes of one Twilio; hosts api., content. and messaging. in one."""
    router = APIRouter()
    contents: dict[str, dict[str, Any]] = {}

    def refused(wrong: dict[str, Any]) -> Response:
        return _error(wrong.get("code", 63016), "scripted refusal", int(wrong.get("status", 400)))

    @router.post("/2010-04-01/Accounts/{sid}/Messages.json")
    async def create(sid: str, request: Request) -> Response:
        wrong = desk.fault("twilio")
        if wrong and (answer := await desk.misbehave(wrong, _THROTTLED)):
            return answer
        if wrong and wrong["kind"] == "refuse":
            return refused(wrong)
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        content, variables = form.get("ContentSid"), as_dict(_json(form.get("ContentVariables")))
        if content and content not in contents and content != desk.settings.twilio_template_sid:
            return _error(21655, "The ContentSid is invalid")
        text, buttons = _rendered(contents.get(content, {}), variables) if content else (form.get("Body", ""), [])
        if length(text) > (_MAX_QUICK_REPLY if buttons else _MAX_BODY):
            return _error(21617, "The concatenated message body exceeds the 1600 character limit")
        message = {"sid": f"SM{secrets.token_hex(16)}", "to": form.get("To"), "from": form.get("From"), "body": text}
        ours = dict(parse_qsl(urlsplit(form.get("StatusCallback", "")).query)).get("id")
        desk.sent.take(
            "twilio", id=message["sid"], to=message["to"], text=text, buttons=buttons, content=content,
            variables=variables, ours=ours,
        )  # fmt: skip
        if callback := form.get("StatusCallback"):

            def sign(status: str, code: str | None) -> traffic.Signed:
                return traffic.twilio_status(desk.settings, callback, str(message["sid"]), status, code=code)

            desk.report(request.app.state.client, wrong, sign)
        if wrong and wrong["kind"] == "drop":
            await gone(request)
        return JSONResponse({**message, "status": "queued", "account_sid": sid, "error_code": None}, status_code=201)

    @router.get("/2010-04-01/Accounts/{sid}/Messages.json")
    def find(sid: str, request: Request) -> dict[str, Any]:
        to, after = request.query_params.get("To"), request.query_params.get("DateSent>", "")
        found = [
            {
                "sid": e["id"], "to": e["to"], "body": e["text"], "status": "delivered", "account_sid": sid,
                "direction": "outbound-api",
            }
            for e in reversed(desk.sent) if e["vendor"] == "twilio" and e["to"] == to
        ]  # fmt: skip
        for form in reversed(desk.received):
            at = datetime.fromtimestamp(form["at"], UTC)
            if form["To"] == to and at.strftime("%Y-%m-%dT%H:%M:%SZ") >= after:
                found.append({
                    "sid": form["MessageSid"], "to": to, "from": form["From"], "body": form["Body"], "account_sid": sid,
                    "status": "received", "direction": "inbound", "num_media": form["NumMedia"],
                    "date_sent": format_datetime(at),
                })  # fmt: skip
        return {"messages": found, "page": 0, "page_size": 50, "next_page_uri": None}

    @router.get("/2010-04-01/Accounts/{sid}/Messages/{message}/Media.json")
    def list_media(sid: str, message: str) -> dict[str, Any]:
        (form,) = [form for form in desk.received if form["MessageSid"] == message]
        found = [
            {
                "sid": f"ME{i}", "content_type": desk.file(f"ME{i}")[0],
                "uri": f"/2010-04-01/Accounts/{sid}/Messages/{message}/Media/ME{i}.json",
            }
            for i in range(int(form["NumMedia"]))
        ]  # fmt: skip
        return {"media_list": found, "page": 0, "page_size": 50, "next_page_uri": None}

    @router.get("/v1/Content")
    def list_contents() -> Response:
        if wrong := desk.fault("twilio", "content"):
            return refused({"status": wrong["kind"] if wrong["kind"].isdigit() else 403, "code": 20003, **wrong})
        return JSONResponse({"contents": list(contents.values()), "meta": {"page": 0, "next_page_url": None}})

    @router.post("/v1/Content")
    async def make_content(request: Request) -> Response:
        content = {**as_dict(await request.json()), "sid": f"HX{secrets.token_hex(16)}"}
        if "twilio/quick-reply" not in as_dict(content.get("types")) or not content.get("language"):
            return _error(20001, "types and language are required")
        contents[content["sid"]] = content
        return JSONResponse(content, status_code=201)

    @router.post("/v3/Indicators/Typing.json")
    async def typing(request: Request) -> Response:
        wrong = desk.fault("twilio", "typing")
        if wrong and (answer := await desk.misbehave(wrong, _THROTTLED)):
            return answer
        asked = as_dict(await request.json())
        if asked.get("channel") != "WHATSAPP" or as_text(asked.get("messageId"))[:2] not in ("SM", "MM"):
            return _error(20001, "channel must be WHATSAPP, messageId a message's sid")
        desk.typing.append({"vendor": "twilio", "message": asked["messageId"]})
        return JSONResponse({"success": True})

    @router.get("/2010-04-01/Accounts/{sid}/Messages/{message}/Media/{media}")
    async def download(sid: str, message: str, media: str, request: Request) -> Response:
        wrong = desk.fault("twilio", "media")
        if wrong and (answer := await desk.misbehave(wrong, _THROTTLED)):
            return answer
        if not request.headers.get("authorization", "").startswith("Basic "):
            return _error(20003, "Authenticate", 401)
        kind, data = desk.file(media)
        return Response(data, media_type=kind)

    @router.delete("/2010-04-01/Accounts/{sid}/Messages/{message}/Media/{media}")
    def delete(sid: str, message: str, media: str) -> Response:
        desk.media.pop(media, None)
        return Response(status_code=204)

    return router


def _rendered(content: dict[str, Any], variables: dict[str, Any]) -> tuple[str, list[str]]:
    """What the person sees of a content: its text, and the ids of its buttons. One that was made elsewhere (an approved
    template) shows its variables."""
    reply = as_dict(as_dict(content.get("types")).get("twilio/quick-reply"))
    if not reply:
        return " ".join(str(variables[name]) for name in sorted(variables)), []
    buttons = [_filled(as_text(action.get("id")), variables) for action in as_dicts(reply.get("actions"))]
    return _filled(as_text(reply.get("body")), variables), buttons


def _filled(text: str, variables: dict[str, Any]) -> str:
    for name, value in variables.items():
        text = text.replace("{{" + name + "}}", str(value))
    return text


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "")
    except ValueError:
        return None


def _error(code: Any, message: str, status: int = 400) -> Response:
    return JSONResponse({"code": code, "message": message, "status": status}, status_code=status)
