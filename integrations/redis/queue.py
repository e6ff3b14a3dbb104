"""The doorbell: RQ's queues, and the bell that the web process rings.

RQ's own `enqueue` costs a web request more than half of its INSERT, a push a tenth of it (docs/log.md), so a webhook
only pushes the lane's name; a thread of the awake worker turns lanes into jobs. JSON is the serializer: pickled jobs
would run whatever a writer to Redis likes.
"""

import logging
import time
from collections.abc import Iterable
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from core.errors import SettingError
from core.jobs import BELL, LATER, Job
from core.settings import Settings

log = logging.getLogger(__name__)

LOST = 20.0  # seconds after which a job that has not begun is put on its queue again


def need_redis(settings: Settings) -> str:
    """Raises:
    SettingError: none is set.
    """
    if not settings.redis_url:
        raise SettingError("There is no Redis.", "Start `npllm up`, or set REDIS_URL.")
    return settings.redis_url


def connect(url: str, *, blocking: bool = False) -> redis.Redis:
    """A client. `blocking` ones wait for work and have no read time-out of their own."""
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=2,
        socket_timeout=None if blocking else 5,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=1.0), 3),
        retry_on_error=[redis.ConnectionError],
    )


def queue(client: redis.Redis, name: str) -> Queue:
    return Queue(name, connection=client, serializer=JSONSerializer)


def enqueue(client: redis.Redis, job: Job, *args: Any, at_most_every: float = 0.0) -> None:
    """Put a job on its queue.

    Args:
        at_most_every: seconds in which the same job with the same arguments is not enqueued again. (RQ's own
            `unique` would also wait for a job that died with its worker.)
    """
    if at_most_every:
        recent = "npllm:recent:" + ":".join([job.path, *map(str, args)])
        if not client.set(recent, 1, nx=True, px=int(at_most_every * 1000)):
            return
    queue(client, job.queue).enqueue_call(job.path, args=args, **_kept(job))


def enqueue_once(client: redis.Redis, job: Job, lanes: Iterable[str]) -> None:
    """Put a job on its queue for each lane that has none waiting there.

    The bell rings and the sweeper finds far more often than a busy worker can look. Without this each of them would add
    a job, most of them for nothing, and a backlog would grow by being looked at. A job that begins says `taken`;
    one that got lost before it (Redis emptied, a worker killed) is replaced after `LOST`.
    """
    wanted = list(dict.fromkeys(lanes))
    with client.pipeline(transaction=False) as pipe:
        for lane in wanted:
            pipe.set(_waiting(job, lane), 1, nx=True, px=int(LOST * 1000))
        fresh = [lane for lane, new in zip(wanted, pipe.execute(), strict=True) if new]
    if fresh:
        jobs = queue(client, job.queue)
        jobs.enqueue_many([jobs.prepare_data(job.path, args=(lane,), **_kept(job)) for lane in fresh])


def _kept(job: Job) -> dict[str, Any]:
    """How long a job may take, and what RQ keeps of it: nothing, not of a failure either. A lane is called by
    somebody's phone; the ledger knows what is still to be done, and the log what went wrong."""
    return {"timeout": job.timeout, "result_ttl": 0, "failure_ttl": 0}


def taken(client: redis.Redis, job: Job, lane: str) -> None:
    """The job has begun: what comes for its lane from now on needs another one."""
    try:
        client.delete(_waiting(job, lane))
    except redis.RedisError as error:
        log.info("The queue was not told that a job began (%s); it will see in %.0f s.", type(error).__name__, LOST)


def _waiting(job: Job, lane: str) -> str:
    return f"npllm:waiting:{job.path}:{lane}"


def ring(client: redis.Redis, lanes: list[str]) -> None:
    """Say that lanes have something waiting."""
    if lanes:
        client.lpush(BELL, *lanes)


def ring_later(client: redis.Redis, lane: str, seconds: float) -> None:
    """Ring for a lane in a while. Where this gets lost, the clock's sweeper finds the lane a little later."""
    try:
        client.zadd(LATER, {lane: time.time() + seconds})
    except redis.RedisError as error:
        log.warning("The bell cannot be set (%s); the sweeper will find the lane.", type(error).__name__)


def rung_by_now(client: redis.Redis) -> list[str]:
    """Take the lanes that `ring_later` set the bell for, and whose time has come."""
    due: Any = client.zrangebyscore(LATER, "-inf", time.time(), start=0, num=200)
    return [lane.decode() for lane in due if client.zrem(LATER, lane)]
