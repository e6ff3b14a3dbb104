"""The vendors' doors: verify the raw bytes, store, ring, answer. Nothing here thinks."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bot.intake import Intake
from core.errors import BadSignature, DoorClosed, TooLarge, TooSlow
from core.messages import InboundItem
from core.settings import Settings
from integrations.meta import webhook as meta
from integrations.twilio import webhook as twilio

log = logging.getLogger(__name__)

# Bytes. What is larger is no vendor's: Twilio sends one message of 1,600 characters, Slack one of 40,000 (an edit has
# it four times over), Meta a batch of up to 3 MB.
MAX_TWILIO, MAX_SLACK, MAX_META = 256 * 1024, 950_000, 4 * 1024 * 1024
BODY_SECONDS = 10.0  # for the whole body: a vendor sends it at once, and a connection is not held for a trickle
EMPTY_TWIML = '<?xml version="1.0" encoding="UTF-8"?><Response/>'


def hooks(settings: Settings, intake: Intake) -> list[Route]:
    """The routes below /hooks.

    Plain Starlette routes: they read raw bytes, and FastAPI's way to an endpoint costs two and a half times as much
    (docs/log.md).
    """

    async def twilio_form(request: Request) -> dict[str, str]:
        if not settings.twilio_open or settings.twilio_auth_token is None:
            raise closed("Twilio", "TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_WHATSAPP_FROM")
        body = await read_body(request, MAX_TWILIO)

        def verify(token: str) -> dict[str, str]:
            return twilio.verify(
                token,
                public_url(settings, request),
                body,
                request.headers.get("content-type", ""),
                request.headers.get("x-twilio-signature"),
                raw_query(request),
            )

        form: dict[str, str] = either(settings.twilio_auth_token, settings.twilio_auth_token_previous, verify)
        return form

    async def twilio_message(request: Request) -> Response:
        await intake.store("twilio", twilio.split(await twilio_form(request)))
        return Response(EMPTY_TWIML, media_type="text/xml")

    async def twilio_status(request: Request) -> Response:
        form = await twilio_form(request)
        await intake.store("twilio", twilio.split_status(form, request.query_params.get("id")))
        return Response(EMPTY_TWIML, media_type="text/xml")

    async def meta_handshake(request: Request) -> Response:
        if settings.meta_verify_token is None:
            raise closed("Meta", "META_VERIFY_TOKEN")
        query = request.query_params
        token = settings.meta_verify_token.get_secret_value()
        challenge = meta.handshake(
            token, query.get("hub.mode"), query.get("hub.verify_token"), query.get("hub.challenge")
        )
        return PlainTextResponse(challenge)

    async def meta_batch(request: Request) -> Response:
        if not settings.meta_open or settings.meta_app_secret is None:
            raise closed("Meta", "META_APP_SECRET, META_ACCESS_TOKEN and META_PHONE_NUMBER_ID")
        body = await read_body(request, MAX_META)
        signature = request.headers.get("x-hub-signature-256")
        either(
            settings.meta_app_secret,
            settings.meta_app_secret_previous,
            lambda secret: meta.verify(secret, body, signature),
        )
        await intake.store("meta", meta.split(body))
        return PlainTextResponse("ok")

    slack = _slack_door(settings, intake)

    async def slack_event(request: Request) -> Response:
        if slack is None:
            raise closed("Slack", "SLACK_SIGNING_SECRET, and SLACK_BOT_TOKEN or a client's id and secret")
        await read_body(request, MAX_SLACK)
        answer: Response = await slack.handle(request)
        return answer

    return [
        Route("/hooks/twilio", twilio_message, methods=["POST"]),
        Route("/hooks/twilio/status", twilio_status, methods=["POST"]),
        Route("/hooks/meta", meta_handshake, methods=["GET"]),
        Route("/hooks/meta", meta_batch, methods=["POST"]),
        Route("/hooks/slack", slack_event, methods=["POST"]),
    ]


def _slack_door(settings: Settings, intake: Intake) -> Any:
    given = (settings.slack_signing_secret, settings.slack_signing_secret_previous)
    if not settings.slack_open or settings.slack_signing_secret is None:
        return None
    from integrations.slack.app import SlackDoor

    async def store(items: list[InboundItem]) -> None:
        await intake.store("slack", items)

    return SlackDoor(
        signing_secrets=[secret.get_secret_value() for secret in given if secret],
        base_url=settings.slack_api_base_url,
        store=store,
    )


def either(secret: SecretStr, previous: SecretStr | None, verify: Callable[[str], Any]) -> Any:
    """What `verify` says with the secret, or, while secrets change, with the one before.

    Raises:
        BadSignature: neither fits.
    """
    try:
        return verify(secret.get_secret_value())
    except BadSignature:
        if previous is None:
            raise
        return verify(previous.get_secret_value())


def closed(channel: str, secrets: str) -> DoorClosed:
    return DoorClosed(f"The {channel} door is closed: its secrets are not set.", f"Set {secrets}.")


def public_url(settings: Settings, request: Request) -> str:
    """The address the vendor called: it signs that one, not the one behind our proxy."""
    base = settings.public_base_url or f"{request.scope['scheme']}://{request.headers.get('host', '')}"
    query = raw_query(request)
    return f"{base}{request.scope['path']}{'?' if query else ''}{query}"


def raw_query(request: Request) -> str:
    """As it came, percent signs and all: it was signed like this."""
    return str(request.scope["query_string"].decode("latin-1"))


async def read_body(request: Request, limit: int) -> bytes:
    """The raw bytes, at most `limit` of them.

    Raises:
        TooLarge: there are more; nothing was stored.
        TooSlow: they did not come in time.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise TooLarge(f"The body has {declared[:18]} bytes, more than {limit}.", "Send less at once.")
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"The body has more than {limit} bytes.", "Send less at once.")
                chunks.append(chunk)
    except TimeoutError:
        raise TooSlow(f"The body did not come within {BODY_SECONDS:.0f} seconds.", "Send it at once.") from None
    request._body = b"".join(chunks)  # where Starlette looks when bolt asks for it again
    return request._body
