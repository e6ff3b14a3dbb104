"""Store, then think: a webhook's items are committed to the ledger, then the bell rings, then we answer.

A webhook that arrives twice is stored once (unique key); one that cannot be stored is not acknowledged, so the
vendor sends it again. If the bell cannot be rung, the clock's sweeper finds the rows.
"""

import logging
import time
from collections.abc import Sequence

import psycopg
import redis.asyncio
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from core.db import psycopg_url
from core.errors import Unavailable
from core.jobs import BELL
from core.messages import InboundItem, clean_payload

log = logging.getLogger(__name__)

_INSERT = """
    INSERT INTO npllm.inbound_events (source, external_id, kind, lane, payload) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (source, external_id) DO NOTHING
"""
_SILENCE = 1.0  # seconds without trying the bell after it failed: no webhook waits for a Redis that is down


class Intake:
    """The web process's way to the ledger. Plain psycopg: this is the one hot path of the system."""

    def __init__(self, database_url: str, redis_url: str, *, pool_size: int = 8) -> None:
        self.pool = AsyncConnectionPool(
            psycopg_url(database_url),
            min_size=1,
            max_size=pool_size,
            open=False,
            timeout=5.0,
            check=AsyncConnectionPool.check_connection,
            kwargs={
                "prepare_threshold": None,
                "autocommit": True,
                "connect_timeout": 3,
                "application_name": "npllm-web",
            },
        )
        self.bell = redis.asyncio.Redis.from_url(redis_url, socket_connect_timeout=0.5, socket_timeout=0.5)
        self._bell_silent_until = 0.0

    async def open(self) -> None:
        await self.pool.open()

    async def close(self) -> None:
        await self.pool.close()
        await self.bell.aclose()

    async def store(self, source: str, items: Sequence[InboundItem]) -> int:
        """Commit items; returns how many were new.

        Raises:
            Unavailable: the ledger does not answer; nothing was stored, and nothing may be acknowledged.
        """
        if not items:
            return 0
        try:
            async with self.pool.connection() as connection:
                new = [item for item in items if await self._insert(connection, source, item)]
        except (PoolTimeout, psycopg.OperationalError, OSError) as error:
            raise Unavailable("The ledger does not answer.", "The vendor will send this again.") from error
        await self._ring(sorted({item.work_lane for item in new}))
        return len(new)

    async def _insert(self, connection: psycopg.AsyncConnection, source: str, item: InboundItem) -> bool:
        values = (source, item.external_id[:500], item.kind, item.work_lane[:500], Jsonb(clean_payload(item.payload)))
        cursor = await connection.execute(_INSERT, values)
        return cursor.rowcount == 1

    async def _ring(self, lanes: list[str]) -> None:
        if not lanes or time.monotonic() < self._bell_silent_until:
            return
        try:
            await self.bell.lpush(BELL, *lanes)
        except redis.RedisError as error:
            self._bell_silent_until = time.monotonic() + _SILENCE
            log.warning("The bell does not ring (%s); the sweeper will find these.", type(error).__name__)
