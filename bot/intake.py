"""Store, then think: a webhook's items are committed to the ledger, then the bell rings, then we answer.

A webhook that arrives twice is stored once (unique key); one that cannot be stored is not acknowledged, so the
vendor sends it again. If the bell cannot be rung, the clock's sweeper finds the rows.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence

import psycopg
import redis.asyncio
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from core.db import NOTICE_DEAD_PEERS, psycopg_url
from core.errors import Unavailable
from core.jobs import BELL
from core.messages import InboundItem, clean_payload

log = logging.getLogger(__name__)

_INSERT = """
    INSERT INTO npllm.inbound_events (source, external_id, kind, lane, payload) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (source, external_id) DO NOTHING RETURNING lane
"""
# All of a batch or none of it, in one round trip: Meta sends up to 1,000 items at once.
_INSERT_BATCH = """
    INSERT INTO npllm.inbound_events (source, external_id, kind, lane, payload)
    SELECT %s, external_id, kind, lane, payload
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::jsonb[])
        WITH ORDINALITY AS new (external_id, kind, lane, payload, place)
    ORDER BY place
    ON CONFLICT (source, external_id) DO NOTHING RETURNING lane
"""
_MAX_NAME = 500  # characters of a key or a lane: both are indexed
_PATIENCE = 8.0  # seconds for one INSERT; vendors wait for 3 (Slack) to 15 (Twilio)
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
            kwargs={
                "prepare_threshold": None,
                "autocommit": True,
                "connect_timeout": 3,
                "application_name": "npllm-web",
                **NOTICE_DEAD_PEERS,
            },
        )
        self.bell = redis.asyncio.Redis.from_url(redis_url, socket_connect_timeout=0.5, socket_timeout=0.5)
        self._bell_silent_until = 0.0
        self._bell_lock = asyncio.Lock()
        self._unrung: list[str] = []

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
        rows = [
            (_name(item.external_id), item.kind, _name(item.work_lane), Jsonb(clean_payload(item.payload)))
            for item in items
        ]
        try:
            try:
                lanes = await self._insert_in_time(source, rows)
            except PoolTimeout:
                raise  # an OperationalError too, that has waited long enough
            except psycopg.OperationalError:
                # Connections that the server closed meanwhile (a restart) fail once; the pool looks for them now.
                await self.pool.check()
                lanes = await self._insert_in_time(source, rows)
        except (PoolTimeout, psycopg.OperationalError, OSError) as error:
            raise Unavailable("The ledger does not answer.", "The vendor will send this again.") from error
        await self._ring(sorted(set(lanes)))
        return len(lanes)

    async def _insert_in_time(self, source: str, rows: Sequence[tuple[str, str, str, Jsonb]]) -> list[str]:
        """A connection to nowhere answers nothing, and cannot even be cancelled: it is left to itself. Should the rows
        be stored after all, the vendor's next delivery finds them there."""
        storing = asyncio.ensure_future(self._insert(source, rows))
        done, _ = await asyncio.wait({storing}, timeout=_PATIENCE)
        if not done:
            storing.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise Unavailable("The ledger takes too long.", "The vendor will send this again.")
        return storing.result()

    async def _insert(self, source: str, rows: Sequence[tuple[str, str, str, Jsonb]]) -> list[str]:
        """The lanes of the rows that were new."""
        async with self.pool.connection() as connection:
            if len(rows) == 1:
                cursor = await connection.execute(_INSERT, (source, *rows[0]))
            else:
                columns = [list(column) for column in zip(*rows, strict=True)]
                cursor = await connection.execute(_INSERT_BATCH, (source, *columns))
            return [lane for (lane,) in await cursor.fetchall()]

    async def _ring(self, lanes: list[str]) -> None:
        """One push for all requests that came while the last one was under way."""
        if not lanes or time.monotonic() < self._bell_silent_until:
            return
        self._unrung += lanes
        async with self._bell_lock:
            if not self._unrung:
                return  # rung by the request before us
            rung, self._unrung = self._unrung, []
            try:
                await self.bell.lpush(BELL, *rung)
            except Exception as error:  # also what redis lets through of a socket: the item is stored, that counts
                self._bell_silent_until = time.monotonic() + _SILENCE
                log.warning("The bell does not ring (%s); the sweeper will find these.", type(error).__name__)


def _name(text: str) -> str:
    """A key or a lane as Postgres can store and index it; two long ones stay two."""
    text = clean_payload(text)
    if len(text) <= _MAX_NAME:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[: _MAX_NAME - len(digest) - 1]}:{digest}"
