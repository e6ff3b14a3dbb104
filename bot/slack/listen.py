"""The process behind `npllm slack`: takes Slack's events through a socket, as the web process takes them by HTTP."""

import asyncio
import logging
import signal

from bot.intake import Intake
from core.db import need_database
from core.errors import DoorClosed
from core.messages import InboundItem
from core.settings import Settings
from integrations.redis.queue import need_redis

log = logging.getLogger(__name__)


async def listen(settings: Settings, stop: asyncio.Event | None = None) -> None:
    """Until `stop`, or SIGTERM or SIGINT.

    Raises:
        DoorClosed: SLACK_APP_TOKEN is not set.
    """
    if settings.slack_app_token is None:
        raise DoorClosed("Slack's socket is closed: its token is not set.", "Set SLACK_APP_TOKEN (xapp-...).")
    from integrations.slack.socket import socket

    if stop is None:
        stop = asyncio.Event()
        for ending in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(ending, stop.set)
    intake = Intake(need_database(settings), need_redis(settings), pool_size=2)

    async def store(items: list[InboundItem]) -> None:
        await intake.store("slack", items)

    await intake.open()
    client = socket(
        app_token=settings.slack_app_token.get_secret_value(), base_url=settings.slack_api_base_url, store=store
    )
    try:
        await client.connect()
        log.info("listening to Slack through a socket")
        await stop.wait()
    finally:
        await client.close()
        await intake.close()
