"""The way to the ledger: stored once, whole, in order; then the bell."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
import redis
from processes import beside_any_loop
from psycopg.rows import dict_row

from bot.intake import Intake
from core.errors import Unavailable
from core.jobs import BELL
from core.messages import InboundItem


def item(key: str, *, lane: str = "meta:1:+5511990000001", kind: Any = "message", **payload: Any) -> InboundItem:
    return InboundItem(key, kind, lane, payload)


def run(database_url: str, redis_url: str, work: Callable[[Intake], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        intake = Intake(database_url, redis_url)
        await intake.open()
        try:
            return await work(intake)
        finally:
            await intake.close()

    return beside_any_loop(asyncio.run, main())


def ledger(database_url: str) -> list[dict[str, Any]]:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        return connection.execute("SELECT * FROM npllm.inbound_events ORDER BY id").fetchall()


def bell(redis_url: str) -> list[str]:
    lanes: Any = redis.Redis.from_url(redis_url, decode_responses=True).lrange(BELL, 0, -1)
    return list(lanes)


def test_stored_once_and_rung_once(database_url: str, redis_url: str) -> None:
    async def work(intake: Intake) -> list[int]:
        first, second = [item("a"), item("b")], [item("b"), item("c", lane="meta:1:+5511990000002")]
        return [await intake.store("meta", items) for items in (first, first, second, [item("a")], [])]

    assert run(database_url, redis_url, work) == [2, 0, 1, 0, 0]
    assert [row["external_id"] for row in ledger(database_url)] == ["a", "b", "c"]
    assert bell(redis_url) == ["meta:1:+5511990000002", "meta:1:+5511990000001"]


def test_the_same_key_of_another_source_is_another_item(database_url: str, redis_url: str) -> None:
    async def work(intake: Intake) -> int:
        return await intake.store("meta", [item("a")]) + await intake.store("slack", [item("a")])

    assert run(database_url, redis_url, work) == 2


def test_a_key_twice_in_one_batch_is_one_item(database_url: str, redis_url: str) -> None:
    assert run(database_url, redis_url, lambda intake: intake.store("meta", [item("a", n=1), item("a", n=2)])) == 1
    assert ledger(database_url)[0]["payload"] == {"n": 1}


def test_forty_at_a_time_store_each_item_once(database_url: str, redis_url: str) -> None:
    items = [item(f"k{number:02d}", lane=f"l{number % 5}") for number in range(20)]

    async def work(intake: Intake) -> int:
        batches = [intake.store("meta", items[start:]) for start in range(20)]
        singles = [intake.store("meta", [one]) for one in items]
        return sum(await asyncio.gather(*batches, *singles))

    assert run(database_url, redis_url, work) == 20
    assert len(ledger(database_url)) == 20
    assert set(bell(redis_url)) == {f"l{number}" for number in range(5)}


def test_what_comes_together_shares_commits_and_each_hears_what_was_new_of_its_own(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    insert = Intake._insert

    async def counting(intake: Intake, rows: Any) -> Any:
        sizes.append(len(rows))
        return await insert(intake, rows)

    monkeypatch.setattr(Intake, "_insert", counting)
    deliveries = [[item("a")], [item("b")], [item("c"), item("d")], [item("d"), item("e")], [item("c")], [item("f")]]

    async def work(intake: Intake) -> list[int]:
        return await asyncio.gather(*(intake.store("meta", items) for items in deliveries))

    assert run(database_url, redis_url, work) == [1, 1, 2, 1, 0, 1]
    assert sizes == [8]
    assert [row["external_id"] for row in ledger(database_url)] == list("abcdef"), "in the order they came"


def test_what_cannot_be_stored_takes_nobody_with_it(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = Intake._insert

    async def picky(intake: Intake, rows: Any) -> Any:
        if any(key == "bad" for _, key, *_ in rows):
            raise psycopg.DataError("unreadable")
        return await insert(intake, rows)

    monkeypatch.setattr(Intake, "_insert", picky)

    async def work(intake: Intake) -> list[Any]:
        stores = [intake.store("meta", [item(key)]) for key in ("a", "bad", "b")]
        return await asyncio.gather(*stores, return_exceptions=True)

    one, bad, other = run(database_url, redis_url, work)
    assert (one, other) == (1, 1) and isinstance(bad, psycopg.DataError)
    assert [row["external_id"] for row in ledger(database_url)] == ["a", "b"]


@pytest.mark.parametrize("many", [False, True])
def test_what_postgres_cannot_keep_is_cleaned(database_url: str, redis_url: str, many: bool) -> None:
    payload = {"nul": "a\x00b", "k\x00ey": ["\ud83d!", float("nan"), float("-inf"), 1.5], "deep": {"x": "\udc00"}}
    dirty = InboundItem("key\x00\ud83d", "message", "lane\x00\udc00", payload)
    items = [dirty, item("other")] if many else [dirty]
    assert run(database_url, redis_url, lambda intake: intake.store("meta", items)) == len(items)
    row = ledger(database_url)[0]
    assert (row["external_id"], row["lane"]) == ("key", "lane")
    assert row["payload"] == {"nul": "ab", "key": ["!", None, None, 1.5], "deep": {"x": ""}}


def test_names_too_long_for_an_index_are_cut_and_stay_two(database_url: str, redis_url: str) -> None:
    long = [item("é" * 3000 + end, lane="😀" * 3000 + end) for end in ("a", "b")]

    async def work(intake: Intake) -> int:
        return sum([await intake.store("meta", [one]) for one in long + long])

    assert run(database_url, redis_url, work) == 2
    rows = ledger(database_url)
    assert all(len(row["external_id"]) == len(row["lane"]) == 500 for row in rows)
    assert sorted(bell(redis_url)) == sorted(row["lane"] for row in rows)


def test_nothing_of_a_batch_is_stored_if_a_part_cannot_be(database_url: str, redis_url: str) -> None:
    """The ledger goes away in the middle: here, a lock that is not to be had in time."""
    with psycopg.connect(database_url) as other:
        other.execute("INSERT INTO npllm.inbound_events (source, external_id, kind, lane, payload)"
                      " VALUES ('meta', 'b', 'message', 'x', '{}')")  # fmt: skip

        impatient = f"{database_url}?options=-clock_timeout%3D100ms"
        with pytest.raises(Unavailable, match="ledger"):
            run(impatient, redis_url, lambda intake: intake.store("meta", [item("a"), item("b"), item("c")]))
        other.rollback()
    assert ledger(database_url) == []


def test_a_ledger_that_is_away_is_waited_for_once(redis_url: str) -> None:
    async def work(intake: Intake) -> float:
        intake.pool.timeout = 0.5
        started = time.monotonic()
        with pytest.raises(Unavailable, match="ledger"):
            await intake.store("meta", [item("a")])
        return time.monotonic() - started

    assert run("postgresql://nobody:x@127.0.0.1:1/none", redis_url, work) < 0.9
    assert bell(redis_url) == []


def test_a_bell_that_is_away_is_left_alone_for_a_while(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work(intake: Intake) -> float:
        await intake.store("meta", [item("first")])
        started = time.monotonic()
        for number in range(20):
            await intake.store("meta", [item(f"k{number}")])
        return time.monotonic() - started

    assert run(database_url, "redis://127.0.0.1:1/0", work) < 1.0
    assert len(ledger(database_url)) == 21
    assert caplog.text.count("does not ring") <= 2


def test_a_ledger_that_never_answers_is_not_waited_for(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.intake._PATIENCE", 0.2)

    async def work(intake: Intake) -> None:
        with psycopg.connect(database_url) as other:
            other.execute("LOCK TABLE npllm.inbound_events IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(Unavailable, match="too long"):
                await intake.store("meta", [item("a")])
            other.rollback()
        assert await intake.store("meta", [item("a"), item("b")]) in (1, 2), "stored late, or not at all"

    run(database_url, redis_url, work)
    assert [row["external_id"] for row in ledger(database_url)] == ["a", "b"]


@pytest.mark.parametrize("error", [ConnectionResetError("cut"), RuntimeError("closed"), redis.TimeoutError("late")])
def test_whatever_the_bell_raises_the_item_is_stored(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def broken(*_: Any) -> None:
        raise error

    async def work(intake: Intake) -> int:
        monkeypatch.setattr(intake.bell, "lpush", broken)
        return await intake.store("meta", [item("a")])

    assert run(database_url, redis_url, work) == 1
    assert len(ledger(database_url)) == 1


def test_a_bell_that_is_back_rings_again(database_url: str, redis_url: str) -> None:
    async def work(intake: Intake) -> None:
        good = intake.bell
        intake.bell = redis.asyncio.Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=0.1)
        await intake.store("meta", [item("lost", lane="lost")])
        await intake.bell.aclose()
        intake.bell = good
        await intake.store("meta", [item("quiet", lane="quiet")])  # the silence lasts a second
        await asyncio.sleep(1.05)
        await intake.store("meta", [item("heard", lane="heard")])

    run(database_url, redis_url, work)
    assert bell(redis_url) == ["heard"], "what was not rung the clock's sweeper finds"
    assert len(ledger(database_url)) == 3
