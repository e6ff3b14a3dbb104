"""The vendors' doors: verify the raw bytes, store, ring, answer. Nothing here thinks."""

import logging
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from bot.intake import Intake
from core.errors import DoorClosed, TooLarge
from core.messages import InboundItem
from core.settings import Settings
from integrations.meta import webhook as meta
from integrations.twilio import webhook as twilio

log = logging.getLogger(__name__)

MAX_BODY = 4 * 1024 * 1024  # bytes; Meta's batches go up to 3 MB
EMPTY_TWIML = '<?xml version="1.0" encoding="UTF-8"?><Response/>'


def hooks(settings: Settings, intake: Intake) -> APIRouter:
    """The routes below /hooks."""
    router = APIRouter(prefix="/hooks", include_in_schema=False)

    async def twilio_form(request: Request) -> dict[str, str]:
        if not settings.twilio_open or settings.twilio_auth_token is None:
            raise closed("Twilio", "TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_WHATSAPP_FROM")
        body = await read_body(request)
        return twilio.verify(
            settings.twilio_auth_token.get_secret_value(),
            public_url(settings, request),
            body,
            request.headers.get("content-type", ""),
            request.headers.get("x-twilio-signature"),
            request.url.query,
        )

    @router.post("/twilio")
    async def twilio_message(request: Request) -> Response:
        await intake.store("twilio", twilio.split(await twilio_form(request)))
        return Response(EMPTY_TWIML, media_type="text/xml")

    @router.post("/twilio/status")
    async def twilio_status(request: Request) -> Response:
        form = await twilio_form(request)
        await intake.store("twilio", twilio.split_status(form, request.query_params.get("id")))
        return Response(EMPTY_TWIML, media_type="text/xml")

    @router.get("/meta")
    async def meta_handshake(request: Request) -> Response:
        if settings.meta_verify_token is None:
            raise closed("Meta", "META_VERIFY_TOKEN")
        query = request.query_params
        token = settings.meta_verify_token.get_secret_value()
        challenge = meta.handshake(
            token, query.get("hub.mode"), query.get("hub.verify_token"), query.get("hub.challenge")
        )
        return PlainTextResponse(challenge)

    @router.post("/meta")
    async def meta_batch(request: Request) -> Response:
        if not settings.meta_open or settings.meta_app_secret is None:
            raise closed("Meta", "META_APP_SECRET, META_ACCESS_TOKEN and META_PHONE_NUMBER_ID")
        body = await read_body(request)
        meta.verify(settings.meta_app_secret.get_secret_value(), body, request.headers.get("x-hub-signature-256"))
        await intake.store("meta", meta.split(body))
        return PlainTextResponse("ok")

    slack = _slack_door(settings, intake)

    @router.post("/slack")
    async def slack_event(request: Request) -> Response:
        if slack is None:
            raise closed("Slack", "SLACK_SIGNING_SECRET and SLACK_BOT_TOKEN")
        await read_body(request)
        answer: Response = await slack.handle(request)
        return answer

    return router


def _slack_door(settings: Settings, intake: Intake) -> Any:
    if not settings.slack_open or settings.slack_signing_secret is None or settings.slack_bot_token is None:
        return None
    from integrations.slack.app import SlackDoor

    async def store(items: list[InboundItem]) -> None:
        await intake.store("slack", items)

    return SlackDoor(
        signing_secret=settings.slack_signing_secret.get_secret_value(),
        bot_token=settings.slack_bot_token.get_secret_value(),
        base_url=settings.slack_api_base_url,
        store=store,
    )


def closed(channel: str, secrets: str) -> DoorClosed:
    return DoorClosed(f"The {channel} door is closed: its secrets are not set.", f"Set {secrets}.")


def public_url(settings: Settings, request: Request) -> str:
    """The address the vendor called: it signs that one, not the one behind our proxy."""
    base = settings.public_base_url or f"{request.url.scheme}://{request.url.netloc}"
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{base}{request.url.path}{query}"


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """The raw bytes, at most `limit` of them.

    Raises:
        TooLarge: there are more; nothing was stored.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"The body has {declared} bytes, more than {limit}.", "Send less at once.")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"The body has more than {limit} bytes.", "Send less at once.")
        chunks.append(chunk)
    request._body = b"".join(chunks)  # where Starlette looks when bolt asks for it again
    return request._body
