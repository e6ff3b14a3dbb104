"""The lease on one lane: whoever holds it handles its work in order, and a dead holder's lease runs out.

Leases are rows in Postgres, not locks in Redis or sessions: they survive a pooler in transaction mode, and the
sweeper can see them. A heartbeat renews them while the work goes on, so LEASE_SECONDS may be short.
"""

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from core.db import transaction
from core.errors import NpllmError

log = logging.getLogger(__name__)

_TAKE = text("""
    INSERT INTO npllm.lanes (lane, holder, leased_until) VALUES (:lane, :holder, now() + :seconds * interval '1 second')
    ON CONFLICT (lane) DO UPDATE SET holder = excluded.holder, leased_until = excluded.leased_until
    WHERE npllm.lanes.leased_until < now()
""")
_RENEW = text("""
    UPDATE npllm.lanes SET leased_until = now() + :seconds * interval '1 second'
    WHERE holder = ANY(:holders)
""")
_RELEASE = text("DELETE FROM npllm.lanes WHERE lane = :lane AND holder = :holder")
_STILL_OURS = text("SELECT 1 FROM npllm.lanes WHERE lane = :lane AND holder = :holder FOR UPDATE")


class LeaseLost(NpllmError):
    """The lease ran out (this process was stopped, or the database was away): somebody else has the lane now."""


class Lease:
    """The right to work on a lane. `fence` it in the transaction that writes the result."""

    def __init__(self, lane: str, holder: str) -> None:
        self.lane = lane
        self.holder = holder

    def fence(self, session: Session) -> None:
        """Raises:
        LeaseLost: what this holder did must not be written any more.
        """
        if session.execute(_STILL_OURS, {"lane": self.lane, "holder": self.holder}).first() is None:
            raise self.lost()

    def lost(self) -> LeaseLost:
        return LeaseLost("The lease on a lane ran out.", "Nothing was lost: another worker has it.")


class Heartbeat:
    """One thread per process that renews every lease the process holds, and ends when it holds none."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self.engine = engine
        self.seconds = seconds
        self.held: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, holder: str) -> None:
        with self._lock:
            self.held.add(holder)
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)
                self._thread.start()

    def remove(self, holder: str) -> None:
        with self._lock:
            self.held.discard(holder)

    def _beat(self) -> None:
        while True:
            time.sleep(self.seconds / 4)
            with self._lock:
                holders = list(self.held)
                if not holders:
                    self._thread = None
                    return
            try:
                with transaction(self.engine) as session:
                    session.execute(_RENEW, {"seconds": self.seconds, "holders": holders})
            except Exception as error:  # the database is away: leases run out, and the fence refuses late writes
                log.warning("Leases could not be renewed: %s", error)


@contextmanager
def lease(engine: Engine, heartbeat: Heartbeat, lane: str) -> Iterator[Lease | None]:
    """Hold a lane for the body of the `with`; None where somebody else holds it."""
    holder = str(uuid.uuid4())
    with transaction(engine) as session:
        taken = session.execute(_TAKE, {"lane": lane, "holder": holder, "seconds": heartbeat.seconds}).rowcount == 1  # type: ignore[attr-defined]
    if not taken:
        yield None
        return
    heartbeat.add(holder)
    try:
        yield Lease(lane, holder)
    finally:
        heartbeat.remove(holder)
        with transaction(engine) as session:
            session.execute(_RELEASE, {"lane": lane, "holder": holder})
