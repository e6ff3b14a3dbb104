"""Meta's Graph API as far as we use it: messages, typing indicators, media."""

import hashlib
import secrets
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from bot.simulator import traffic
from bot.simulator.desk import Desk, gone
from core.text import length
from core.untrusted import as_dict, as_dicts, as_text

_THROTTLED = {"error": {"message": "Rate limit hit", "code": 130429}}
_MAX_TEXT, _MAX_INTERACTIVE = 4096, 1024


def routes(desk: Desk) -> APIRouter:
    """The routes of one Graph API."""
    router = APIRouter()

    @router.post("/{version}/{number}/messages")
    async def create(version: str, number: str, request: Request) -> Response:
        body = as_dict(await request.json())
        if body.get("status") == "read":
            return await typing(body)
        wrong = desk.fault("meta")
        if wrong and (answer := await desk.misbehave(wrong, _THROTTLED)):
            return answer
        if wrong and wrong["kind"] == "refuse":
            return _error(wrong.get("code", 131047), "scripted refusal", int(wrong.get("status", 400)))
        text, buttons, template = _shown(body)
        to = body.get("to") or body.get("recipient")
        if not to or not text or length(text) > (_MAX_INTERACTIVE if buttons else _MAX_TEXT):
            return _error(100, "Invalid parameter")
        wamid = f"wamid.{secrets.token_hex(18)}"
        ours = body.get("biz_opaque_callback_data")
        desk.sent.take("meta", id=wamid, to=to, text=text, buttons=buttons, template=template, ours=ours)
        echo = as_text(ours) or None

        def sign(status: str, code: str | None) -> traffic.Signed:
            return traffic.meta_status(desk.settings, wamid, status, echo=echo, code=code)

        desk.report(request.app.state.client, wrong, sign)
        if wrong and wrong["kind"] == "drop":
            await gone(request)
        contacts = [{"input": to, "wa_id": to}]
        return JSONResponse({"messaging_product": "whatsapp", "contacts": contacts, "messages": [{"id": wamid}]})

    async def typing(body: dict[str, Any]) -> Response:
        wrong = desk.fault("meta", "typing")
        if wrong and (answer := await desk.misbehave(wrong, _THROTTLED)):
            return answer
        desk.typing.append({"vendor": "meta", "message": as_text(body.get("message_id"))})
        return JSONResponse({"success": True})

    @router.get("/_media/{media}")
    async def download(media: str, request: Request) -> Response:
        wrong = desk.fault("meta", "media")
        if wrong and (answer := await desk.misbehave(wrong, _THROTTLED)):
            return answer
        if not request.headers.get("authorization", "").startswith("Bearer "):
            return _error(190, "Invalid OAuth access token", 401)
        kind, data = desk.file(media)
        return Response(data, media_type=kind)

    @router.get("/{version}/{media}")
    def find(version: str, media: str, request: Request) -> Response:
        if not request.headers.get("authorization", "").startswith("Bearer "):
            return _error(190, "Invalid OAuth access token", 401)
        kind, data = desk.file(media)
        facts = {
            "messaging_product": "whatsapp", "url": f"{request.base_url}_media/{media}", "mime_type": kind,
            "sha256": hashlib.sha256(data).hexdigest(), "file_size": len(data), "id": media,
        }  # fmt: skip
        return JSONResponse(facts)

    @router.delete("/{version}/{media}")
    def delete(version: str, media: str) -> Response:
        desk.media.pop(media, None)
        return JSONResponse({"success": True})

    return router


def _shown(body: dict[str, Any]) -> tuple[str, list[str], str | None]:
    """What the person sees: text, ids of buttons, and the template it came by."""
    template = as_dict(body.get("template"))
    if template:
        said = [
            as_text(parameter.get("text"))
            for component in as_dicts(template.get("components"))
            for parameter in as_dicts(component.get("parameters"))
        ]
        return " ".join(said) or as_text(template.get("name")), [], as_text(template.get("name"))
    interactive = as_dict(body.get("interactive"))
    buttons = [
        as_text(as_dict(button.get("reply")).get("id"))
        for button in as_dicts(as_dict(interactive.get("action")).get("buttons"))
    ]
    text = as_text(as_dict(body.get("text")).get("body")) or as_text(as_dict(interactive.get("body")).get("text"))
    return text, buttons, None


def _error(code: Any, message: str, status: int = 400) -> Response:
    return JSONResponse({"error": {"message": message, "code": code, "type": "OAuthException"}}, status_code=status)
