"""The awake worker's threads."""

import threading
from typing import Any

import pytest
import redis
from rq.worker import WorkerStatus

from bot import workers


def test_a_thread_that_loses_redis_in_a_turn_does_not_hold_up_the_end(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ leaves the worker in its last state, and an end waits for those that are busy."""
    stop = threading.Event()
    known: list[Any] = []

    def lose(worker: workers.ThreadWorker, **_: Any) -> None:
        worker._state = WorkerStatus.BUSY  # as in a turn
        assert known == [worker]
        stop.set()
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(workers.ThreadWorker, "work", lose)
    workers._work(redis_url, 0, stop, known)
    assert known == []
