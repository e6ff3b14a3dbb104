"""Slack's door: bolt verifies, answers handshakes and acknowledges; what to store is handed in.

Bolt's request to `auth.test` on the first event is replaced by `authorize`: no outgoing call may stand between
Slack and its acknowledgement.
"""

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from slack_bolt.adapter.fastapi.async_handler import AsyncSlackRequestHandler
from slack_bolt.app.async_app import AsyncApp
from slack_bolt.authorization import AuthorizeResult
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_sdk.web.async_client import AsyncWebClient
from starlette.requests import Request
from starlette.responses import Response

from core.errors import BadSignature
from core.messages import InboundItem
from integrations.slack.webhook import split

Store = Callable[[list[InboundItem]], Awaitable[Any]]
ANYTHING = re.compile(r".*", re.S)


class SlackDoor:
    """One workspace's app.

    Args:
        store: commits items to the ledger; if it raises, Slack gets an error and delivers again.
    """

    def __init__(self, *, signing_secret: str, bot_token: str, base_url: str, store: Store) -> None:
        # Bolt logs the whole body of a request whose signature fails, at INFO: personal data. Warnings are kept.
        logger = logging.getLogger("npllm.slack")
        logger.setLevel(logging.WARNING)

        async def authorize(enterprise_id: str | None, team_id: str | None, **_: Any) -> AuthorizeResult:
            return AuthorizeResult(enterprise_id=enterprise_id, team_id=team_id, bot_token=bot_token)

        app = AsyncApp(
            signing_secret=signing_secret,
            authorize=authorize,
            client=AsyncWebClient(base_url=base_url.rstrip("/") + "/"),
            ignoring_self_events_enabled=False,  # `webhook.read` knows more loops than bolt's filter
            logger=logger,
        )

        async def take(ack: AsyncAck, body: dict[str, Any]) -> None:
            await store(split(body))
            await ack()

        app.event(ANYTHING)(take)
        app.action(ANYTHING)(take)
        app.view(ANYTHING)(take)
        app.command(ANYTHING)(take)
        app.shortcut(ANYTHING)(take)
        self._handler = AsyncSlackRequestHandler(app)

    async def handle(self, request: Request) -> Response:
        """Raises:
        BadSignature: missing, stale or wrong.
        """
        timestamp = request.headers.get("x-slack-request-timestamp", "")
        signature = request.headers.get("x-slack-signature", "")
        if not signature or not timestamp.isascii() or not timestamp.isdigit():
            # slack_sdk would raise on a time stamp that is no number.
            raise BadSignature("The request is not signed by Slack.", "Check SLACK_SIGNING_SECRET.")
        response = await self._handler.handle(request)
        if response.status_code == 401:
            raise BadSignature("X-Slack-Signature does not fit this body, or is old.", "Check SLACK_SIGNING_SECRET.")
        return response
