"""The awake and the asleep worker, and the bell that turns lanes into jobs.

awake    many RQ SimpleWorkers, each a thread: a turn waits on HTTP almost all of its time, so twenty conversations
         need twenty waits, not twenty processes. Clients and pools stay open. No torch in here.
asleep   one forking RQ Worker: a night's memory returns when it ends, and a crash takes only the night.
"""

import logging
import signal
import threading
import time
from typing import Any

import redis
from rq import SimpleWorker, Worker
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty
from rq.worker import WorkerStatus

from bot.logs import set_up
from bot.wiring import get_awake
from core.jobs import ANSWER, BELL, READ_SIGNALS
from core.parent import end_with_parent
from core.settings import get_settings
from integrations.redis.queue import connect, enqueue_once, need_redis, queue, rung_by_now

log = logging.getLogger(__name__)

_BATCH = 200  # lanes taken from the bell at once
_LOOK = 0.25  # seconds between two looks at what was to ring later


class ThreadWorker(SimpleWorker):
    """An RQ worker that lives in a thread: no signals, no pub/sub thread of its own, time-outs by timer."""

    death_penalty_class = TimerDeathPenalty

    def _install_signal_handlers(self) -> None:
        pass

    def subscribe(self) -> None:
        pass

    def unsubscribe(self) -> None:
        pass


def run_awake() -> None:
    """Serve the awake queue until SIGTERM or SIGINT."""
    settings = get_settings()
    set_up("awake", settings.log_level)
    end_with_parent()
    get_awake()  # built before the threads start: they share it
    stop = threading.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: stop.set())
    url = need_redis(settings)
    threads = [threading.Thread(target=_answer_bell, args=(url, stop), name="bell", daemon=True)]
    workers: list[ThreadWorker] = []
    for number in range(settings.awake_threads):
        threads.append(
            threading.Thread(target=_work, args=(url, number, stop, workers), name=f"awake-{number}", daemon=True)
        )
    for thread in threads:
        thread.start()
    log.info("awake with %d threads", settings.awake_threads)
    stop.wait()
    for worker in list(workers):
        worker._stop_requested = True
    end = time.monotonic() + 8  # for the turns in hand; threads that only wait for a job end with the process
    while time.monotonic() < end and any(worker.get_state() == WorkerStatus.BUSY for worker in list(workers)):
        time.sleep(0.05)


def _work(url: str, number: int, stop: threading.Event, workers: list[ThreadWorker]) -> None:
    """One worker thread; it comes back when Redis does."""
    while not stop.is_set():
        client = connect(url, blocking=True)
        try:
            # worker_ttl bounds the blocking wait for a job (ttl - 15 s), and so how long a stop takes to be seen.
            worker = ThreadWorker([queue(client, "awake")], connection=client, serializer=JSONSerializer, worker_ttl=20)
            workers.append(worker)
            try:
                worker.work(logging_level="WARNING", with_scheduler=False)
            finally:
                workers.remove(worker)  # one that lost Redis in a turn would say BUSY for ever
        except redis.RedisError as error:
            log.warning("Thread %d waits for Redis: %s", number, error)
            stop.wait(1.0)
        except Exception:
            log.exception("Thread %d starts again", number)
            stop.wait(1.0)


def _answer_bell(url: str, stop: threading.Event) -> None:
    """Turn rung lanes into jobs: one job a lane, however often it rang. What is lost here the sweeper finds."""
    client = connect(url, blocking=True)
    while not stop.is_set():
        try:
            first: Any = client.brpop([BELL], timeout=_LOOK)
            more: Any = client.rpop(BELL, _BATCH) if first else None
            lanes = [lane.decode() for lane in [*(first or ())[1:], *(more or ())]] + rung_by_now(client)
            enqueue_once(client, READ_SIGNALS, [lane for lane in lanes if lane.startswith("signals/")])
            enqueue_once(client, ANSWER, [lane for lane in lanes if not lane.startswith("signals/")])
        except redis.RedisError as error:
            log.warning("The bell waits for Redis: %s", error)
            stop.wait(1.0)


def run_asleep() -> None:
    """Serve the asleep queue until SIGTERM; a second one ends a running night (it resumes or starts cleanly)."""
    settings = get_settings()
    set_up("asleep", settings.log_level)
    end_with_parent()
    client = connect(need_redis(settings), blocking=True)
    worker = Worker([queue(client, "asleep")], connection=client, serializer=JSONSerializer, worker_ttl=60)
    worker.work(logging_level="WARNING", with_scheduler=False)
