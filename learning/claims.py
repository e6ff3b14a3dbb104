"""A night's lease and its progress: the row in `consolidation_runs` says who works on it, and how far it is."""

import logging
import threading
import uuid
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session
from sqlalchemy.sql import cast

from core.db import transaction
from core.errors import NpllmError, Unavailable
from core.tables import ConsolidationRun, now

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=30)
MAX_ATTEMPTS = 3  # a night that kills its worker three times is given up


class NightTaken(NpllmError):
    """Another worker has this night, or it is over."""


class Claim:
    """The right to work on one night; renewed by a thread, lost when that stops.

    Raises:
        NightTaken: from the constructor, where it cannot be had, and from `fence`.
    """

    def __init__(self, engine: Engine, run_id: uuid.UUID) -> None:
        self.engine = engine
        self.run_id = run_id
        self.holder = str(uuid.uuid4())
        self._stop = threading.Event()
        with transaction(engine) as session:
            taken = session.execute(
                update(ConsolidationRun)
                .where(
                    ConsolidationRun.id == run_id,
                    ConsolidationRun.state.in_(("scheduled", "running")),
                    (ConsolidationRun.leased_until.is_(None)) | (ConsolidationRun.leased_until < now()),
                )
                .values(
                    state="running", holder=self.holder, leased_until=now() + LEASE,
                    started_at=text("coalesce(started_at, now())"),
                )
            )  # fmt: skip
            if taken.rowcount != 1:  # type: ignore[attr-defined]
                raise NightTaken(f"Night {run_id} is over, or another worker has it.", "npllm sleep status shows it.")
        self._thread = threading.Thread(target=self._beat, name="night-heartbeat", daemon=True)
        self._thread.start()

    def fence(self, session: Session) -> ConsolidationRun:
        """The night's row, locked, if it still is ours: what follows in this transaction is written by one worker."""
        run = session.get_one(ConsolidationRun, self.run_id, with_for_update=True)
        if run.holder != self.holder or run.state != "running":
            raise NightTaken(f"Night {self.run_id} was taken over.", "Its other worker goes on.")
        return run

    def tell(self, **facts: Any) -> None:
        """Write progress: shown by `npllm sleep status` and /ops. Hours of training do not end for a line of it."""
        try:
            with transaction(self.engine) as session:
                session.execute(
                    update(ConsolidationRun)
                    .where(ConsolidationRun.id == self.run_id, ConsolidationRun.holder == self.holder)
                    .values(progress=ConsolidationRun.progress.op("||")(cast(facts, JSONB)))
                )
        except Unavailable as error:
            log.warning("Progress is not told: %s", error)

    def release(self) -> None:
        self._stop.set()

    def _beat(self) -> None:
        while not self._stop.wait(LEASE.total_seconds() / 4):
            try:
                with transaction(self.engine) as session:
                    session.execute(
                        update(ConsolidationRun)
                        .where(ConsolidationRun.id == self.run_id, ConsolidationRun.holder == self.holder)
                        .values(leased_until=now() + LEASE)
                    )
            except Exception:  # noqa: S112 - the database is away: the lease runs out, and the fence refuses
                continue
