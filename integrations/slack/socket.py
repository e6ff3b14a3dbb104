"""Socket Mode: the same requests through a connection that we open. For development: no public address is needed.

https://docs.slack.dev/apis/events-api/using-socket-mode/
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.async_client import AsyncBaseSocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web.async_client import AsyncWebClient

from core.messages import InboundItem
from core.untrusted import as_dict
from integrations.slack.webhook import split

log = logging.getLogger(__name__)

Store = Callable[[list[InboundItem]], Awaitable[Any]]


def socket(*, app_token: str, base_url: str, store: Store) -> SocketModeClient:
    """A client that stores what comes and acknowledges it then; `connect` it, `close` it.

    What could not be stored is not acknowledged: Slack delivers it again.
    """
    client = SocketModeClient(
        app_token,
        web_client=AsyncWebClient(base_url=base_url.rstrip("/") + "/"),
        logger=logging.getLogger("npllm.slack"),
    )

    async def take(connection: AsyncBaseSocketModeClient, request: SocketModeRequest) -> None:
        try:
            await store(split(as_dict(request.payload)))
        except Exception as error:
            log.warning("Not stored, so not acknowledged: %s", error)
            return
        await connection.send_socket_mode_response(SocketModeResponse(request.envelope_id))

    client.socket_mode_request_listeners.append(take)
    return client
