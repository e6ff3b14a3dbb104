"""Store, then think: a webhook's items are committed to the ledger, then the bell rings, then we answer.

A webhook that arrives twice is stored once (unique key); one that cannot be stored is not acknowledged, so the
vendor sends it again. If the bell cannot be rung, the clock's sweeper finds the rows.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
import redis.asyncio
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from core.db import NOTICE_DEAD_PEERS, psycopg_url
from core.errors import Unavailable
from core.jobs import BELL
from core.messages import InboundItem, clean_payload, short_name
from core.untrusted import digest

log = logging.getLogger(__name__)

_INSERT = """
    INSERT INTO npllm.inbound_events (source, external_id, kind, lane, payload) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (source, external_id) DO NOTHING RETURNING source, external_id, lane
"""
# All of a batch or none of it, in one round trip: Meta sends up to 1,000 items at once.
_INSERT_BATCH = """
    INSERT INTO npllm.inbound_events (source, external_id, kind, lane, payload)
    SELECT source, external_id, kind, lane, payload
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::jsonb[])
        WITH ORDINALITY AS new (source, external_id, kind, lane, payload, place)
    ORDER BY place
    ON CONFLICT (source, external_id) DO NOTHING RETURNING source, external_id, lane
"""
WRITERS = 2  # INSERTs under way: while one waits for the disk, the other gathers what comes
BATCH = 1_000  # rows that share a commit; one delivery may have more
_PATIENCE = 8.0  # seconds until a delivery is in the ledger; vendors wait for 3 (Slack) to 15 (Twilio)
_SILENCE = 1.0  # seconds without trying the bell after it failed: no webhook waits for a Redis that is down


_Row = tuple[str, str, str, str, Jsonb]  # source, external_id, kind, lane, payload


@dataclass(eq=False)
class _Delivery:
    """What one request brought; `stored` becomes the lanes of what was new of it."""

    rows: list[_Row]
    stored: asyncio.Future[list[str]]


class Intake:
    """The web process's way to the ledger. Plain psycopg: this is the one hot path of the system.

    A commit waits for the disk, so all requests that came meanwhile share the next one (group commit). A request alone
    waits for nobody.
    """

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
        self._waiting: deque[_Delivery] = deque()
        self._writing = 0
        self._tasks: set[asyncio.Task[None]] = set()
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
        rows: list[_Row] = [
            (source, _name(item.external_id), item.kind, _name(item.work_lane), Jsonb(clean_payload(item.payload)))
            for item in items
        ]
        delivery = _Delivery(rows, asyncio.get_running_loop().create_future())
        self._waiting.append(delivery)
        if self._writing < WRITERS:
            self._writing += 1
            writer = asyncio.create_task(self._write())
            self._tasks.add(writer)  # the loop itself keeps no task alive
            writer.add_done_callback(self._tasks.discard)
        # A connection to nowhere answers nothing, and cannot even be cancelled: it is left to itself. Should the rows
        # be stored after all, the vendor's next delivery finds them there.
        done, _ = await asyncio.wait({delivery.stored}, timeout=_PATIENCE)
        if not done:
            delivery.stored.cancel()
            raise Unavailable("The ledger takes too long.", "The vendor will send this again.")
        lanes = delivery.stored.result()
        await self._ring(sorted(set(lanes)))
        return len(lanes)

    async def _write(self) -> None:
        """What waits, in one INSERT and one commit; again, until nothing waits."""
        try:
            while batch := self._next_batch():
                try:
                    await self._settle(batch)
                except Unavailable as error:
                    _fail(batch, error)
                except Exception:  # one of them cannot be stored: the others shall not suffer for it
                    for delivery in batch:
                        try:
                            await self._settle([delivery])
                        except Exception as error:
                            _fail([delivery], error)
        finally:
            self._writing -= 1  # in the step that saw nothing wait: whoever comes now starts a new one

    def _next_batch(self) -> list[_Delivery]:
        batch: list[_Delivery] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0].rows) <= BATCH):
            delivery = self._waiting.popleft()
            if not delivery.stored.done():  # else nobody waits for it any more
                batch.append(delivery)
                size += len(delivery.rows)
        return batch

    async def _settle(self, batch: list[_Delivery]) -> None:
        """Store a batch, and tell each delivery what was new of it.

        Raises:
            Unavailable: the ledger does not answer, and did not when asked once more.
        """
        rows = [row for delivery in batch for row in delivery.rows]
        try:
            try:
                lane_of = await self._insert(rows)
            except PoolTimeout:
                raise  # an OperationalError too, that has waited long enough
            except psycopg.OperationalError:
                # Connections that the server closed meanwhile (a restart) fail once; the pool looks for them now.
                await self.pool.check()
                lane_of = await self._insert(rows)
        except (PoolTimeout, psycopg.OperationalError, OSError) as error:
            raise Unavailable("The ledger does not answer.", "The vendor will send this again.") from error
        for delivery in batch:  # the first that brought a key has it
            lanes = [lane_of.pop(row[:2]) for row in delivery.rows if row[:2] in lane_of]
            if not delivery.stored.done():
                delivery.stored.set_result(lanes)

    async def _insert(self, rows: list[_Row]) -> dict[tuple[str, str], str]:
        """(source, external_id) -> lane of the rows that were new."""
        async with self.pool.connection() as connection:
            if len(rows) == 1:
                cursor = await connection.execute(_INSERT, rows[0])
            else:
                cursor = await connection.execute(_INSERT_BATCH, [list(column) for column in zip(*rows, strict=True)])
            return {(source, key): lane for source, key, lane in await cursor.fetchall()}

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


def _fail(batch: list[_Delivery], error: Exception) -> None:
    for delivery in batch:
        if not delivery.stored.done():
            delivery.stored.set_exception(error)


def _name(text: str) -> str:
    """A key or a lane as Postgres can store and index it; two of which nothing is left stay two."""
    return short_name(clean_payload(text)) or digest(text)
