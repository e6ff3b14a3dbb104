"""Slack's door: we verify and read, bolt answers handshakes and dispatches, what to store is handed in.

Bolt by itself would not do: it parses a body before it verifies it (a malformed one, signed by nobody, is a 500),
it acknowledges an event before its listener has run, and it asks `auth.test` first. No outgoing call and no
unfinished commit may stand between Slack and its acknowledgement, in either order.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

from slack_bolt.adapter.fastapi.async_handler import AsyncSlackRequestHandler
from slack_bolt.app.async_app import AsyncApp
from slack_bolt.authorization import AuthorizeResult
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_sdk.signature import SignatureVerifier
from slack_sdk.web.async_client import AsyncWebClient
from starlette.requests import Request
from starlette.responses import Response

from core.errors import BadInput, BadSignature, NpllmError
from core.messages import InboundItem
from core.untrusted import read_object
from integrations.slack.webhook import split

log = logging.getLogger(__name__)

Store = Callable[[list[InboundItem]], Awaitable[Any]]
ANYTHING = re.compile(r".*", re.S)


class SlackDoor:
    """The app, for every workspace that it is installed in.

    Args:
        signing_secrets: the current one, and while it is being changed the one before.
        store: commits items to the ledger; if it raises, Slack gets an error and delivers again.
    """

    def __init__(self, *, signing_secrets: Sequence[str], base_url: str, store: Store) -> None:
        self._verifiers = [SignatureVerifier(secret) for secret in signing_secrets]
        self._store = store

        async def authorize(enterprise_id: str | None, team_id: str | None, **_: Any) -> AuthorizeResult:
            # Nothing is sent from in here: whoever sends knows the workspace's token.
            return AuthorizeResult(enterprise_id=enterprise_id, team_id=team_id, bot_token="none")

        app = AsyncApp(
            signing_secret=signing_secrets[0],
            authorize=authorize,
            client=AsyncWebClient(base_url=base_url.rstrip("/") + "/"),
            process_before_response=True,  # stored, then acknowledged
            request_verification_enabled=False,  # `handle` did; bolt would log the whole body of what it refuses
            ignoring_self_events_enabled=False,  # `webhook.split` knows more loops than bolt's filter
            attaching_conversation_kwargs_enabled=False,  # nobody says anything in here
            logger=logging.getLogger("npllm.slack"),
        )

        async def take(ack: AsyncAck, body: dict[str, Any]) -> None:
            await store(split(body))
            await ack()

        async def pass_on(error: Exception) -> None:
            raise error

        app.event(ANYTHING)(take)
        app.action(ANYTHING)(take)
        app.view(ANYTHING)(take)
        app.command(ANYTHING)(take)
        app.shortcut(ANYTHING)(take)
        app.error(pass_on)
        self._handler = AsyncSlackRequestHandler(app)

    async def handle(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            BadSignature: missing, stale or wrong.
            BadInput: signed, and neither JSON nor a form.
            NpllmError: what `store` raised.
        """
        text = (await request.body()).decode("utf-8", "replace")
        self._verify(text, request)
        body = _read(text, request.headers.get("content-type", ""))
        try:
            response = await self._handler.handle(request)
            if response.status_code != 404:
                return response
        except NpllmError:
            raise
        except Exception as error:
            log.warning("Bolt cannot read a signed request: %s", type(error).__name__)
        # Signed, and of a kind or a shape that bolt does not know: it is kept all the same.
        await self._store(split(body))
        return Response()

    def _verify(self, text: str, request: Request) -> None:
        timestamp = request.headers.get("x-slack-request-timestamp", "")
        signature = request.headers.get("x-slack-signature", "")
        # The verifier would raise on a time stamp that is no number, and on a signature that is not ASCII.
        readable = re.fullmatch(r"[0-9]{1,12}", timestamp) and signature.isascii()
        if not readable or not any(known.is_valid(text, timestamp, signature) for known in self._verifiers):
            raise BadSignature(
                "X-Slack-Signature does not fit this body, or is more than five minutes old.",
                "Check SLACK_SIGNING_SECRET and this machine's clock.",
            )


def _read(text: str, content_type: str) -> dict[str, Any]:
    """Events are JSON; clicks, dialogs and commands are forms, the first two with JSON in a field `payload`."""
    if text.startswith("{") or content_type.startswith("application/json"):
        return read_object(text)
    form = dict(parse_qsl(text, keep_blank_values=True))
    if "payload" in form:
        return read_object(form["payload"])
    if "command" in form or "ssl_check" in form:
        return dict(form)
    raise BadInput("The body is neither an event nor a click nor a command.", "Point Slack's request URLs here.")
