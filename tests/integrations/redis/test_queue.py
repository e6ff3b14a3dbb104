"""The doorbell: jobs by name, JSON only, not too often."""

import time

import pytest
import redis as redis_client
from rq import Queue

from core.jobs import ALL, ANSWER, BELL, GUARD_ROLLOUTS, READ_SIGNALS
from integrations.redis.queue import connect, enqueue, enqueue_once, queue, ring, taken


def waiting(client: redis_client.Redis, name: str) -> Queue:
    return queue(client, name)


def test_a_job_carries_its_path_and_ids_as_json(redis_url: str) -> None:
    client = connect(redis_url)
    enqueue(client, ANSWER, "meta:1:+5511900000000")
    (job,) = waiting(client, "awake").jobs
    assert job.func_name == "bot.jobs.answer"
    assert job.args == ("meta:1:+5511900000000",) or job.args == ["meta:1:+5511900000000"]
    raw = client.hget(job.key, "data")
    assert b"bot.jobs.answer" in __import__("zlib").decompress(raw)  # type: ignore[arg-type]
    assert job.timeout == ANSWER.timeout


def test_at_most_every_so_often(redis_url: str) -> None:
    client = connect(redis_url)
    for _ in range(5):
        enqueue(client, GUARD_ROLLOUTS, at_most_every=60.0)
    assert len(waiting(client, "awake").jobs) == 1
    enqueue(client, ANSWER, "a", at_most_every=60.0)
    enqueue(client, ANSWER, "b", at_most_every=60.0)
    assert len(waiting(client, "awake").jobs) == 3


def test_the_bell_holds_lanes(redis_url: str) -> None:
    client = connect(redis_url)
    ring(client, ["a", "b"])
    ring(client, [])
    assert client.llen(BELL) == 2


def test_every_job_has_a_time_limit_and_a_queue() -> None:
    assert all(job.timeout > 0 and job.queue in ("awake", "asleep") for job in ALL)
    assert len({job.path for job in ALL}) == len(ALL)


def test_one_job_a_lane_waits_however_often_it_is_asked_for(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integrations.redis.queue.LOST", 0.3)
    client = connect(redis_url)
    enqueue_once(client, ANSWER, ["a", "b", "a"])
    enqueue_once(client, ANSWER, ["b", "a"])
    enqueue_once(client, READ_SIGNALS, ["a"])
    enqueue_once(client, ANSWER, [])
    assert [job.args[0] for job in waiting(client, "awake").jobs] == ["a", "b", "a"]
    taken(client, ANSWER, "a")  # it runs: what comes now it may not see any more
    enqueue_once(client, ANSWER, ["a", "b"])
    assert [job.args[0] for job in waiting(client, "awake").jobs] == ["a", "b", "a", "a"]
    waiting(client, "awake").empty()  # lost
    time.sleep(0.4)
    enqueue_once(client, ANSWER, ["a", "b"])
    assert [job.args[0] for job in waiting(client, "awake").jobs] == ["a", "b"]
