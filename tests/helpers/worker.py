"""A worker in a thread, for tests that wait for answers as people do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from bot import jobs
from bot.wiring import Awake
from core.jobs import BELL


@contextmanager
def working(awake: Awake) -> Iterator[None]:
    """A worker that does what rings, as the awake process does."""
    stop, bell = threading.Event(), redis.Redis.from_url(str(awake.settings.redis_url), decode_responses=True)

    def work() -> None:
        while not stop.is_set():
            rung: Any = bell.brpop([BELL], timeout=0.2)
            if rung is not None:
                lane = str(rung[1])
                (jobs.read_signals if lane.startswith("signals/") else jobs.answer)(lane)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
