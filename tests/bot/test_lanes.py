"""The lease on a lane: one holder, renewed while it works, lost in time, and refused afterwards."""

import threading
import time
from datetime import timedelta

import pytest
from factories import make_lane
from sqlalchemy import Engine, select
from together import eventually, in_threads

from bot.lanes import Heartbeat, Lease, LeaseLost, lease
from core.db import transaction
from core.tables import Lane, now


@pytest.fixture
def heartbeat(engine: Engine) -> Heartbeat:
    return Heartbeat(engine, 2.0)


def row_of(engine: Engine, lane: str) -> Lane | None:
    with transaction(engine) as session:
        return session.get(Lane, lane)


def test_held_inside_and_given_back(engine: Engine, heartbeat: Heartbeat) -> None:
    with lease(engine, heartbeat, "meta:1") as held:
        assert held is not None
        row = row_of(engine, "meta:1")
        assert row is not None
        assert row.holder == held.holder
        assert timedelta(seconds=1) < row.leased_until - now() <= timedelta(seconds=2.1)
        with lease(engine, heartbeat, "meta:2") as another:
            assert another is not None
    assert row_of(engine, "meta:1") is None
    assert heartbeat.held == set()


def test_the_second_gets_nothing(engine: Engine, heartbeat: Heartbeat) -> None:
    with lease(engine, heartbeat, "meta:1") as held:
        assert held is not None
        with lease(engine, heartbeat, "meta:1") as second:
            assert second is None
        row = row_of(engine, "meta:1")
        assert row is not None  # the second did not release what it never had
        assert row.holder == held.holder


def test_given_back_when_the_work_fails(engine: Engine, heartbeat: Heartbeat) -> None:
    with pytest.raises(RuntimeError), lease(engine, heartbeat, "meta:1"):
        raise RuntimeError("the work failed")
    assert row_of(engine, "meta:1") is None


def test_of_eight_at_once_one_holds(engine: Engine, heartbeat: Heartbeat) -> None:
    done = threading.Barrier(8)

    def work(number: int) -> bool:
        with lease(engine, heartbeat, "meta:1") as held:
            done.wait()
            return held is not None

    assert sum(in_threads(work, 8)) == 1


def test_a_dead_holders_lease_runs_out(engine: Engine, heartbeat: Heartbeat) -> None:
    with transaction(engine) as session:
        make_lane(session, "meta:1", seconds=0.3)
    with lease(engine, heartbeat, "meta:1") as held:
        assert held is None

    def try_again() -> bool:
        with lease(engine, heartbeat, "meta:1") as held:
            return held is not None

    eventually(try_again, 5)


def test_the_heartbeat_renews_while_the_work_goes_on(engine: Engine) -> None:
    """Three times as long as the lease lasts."""
    heartbeat = Heartbeat(engine, 0.5)
    with lease(engine, heartbeat, "meta:1") as held:
        assert held is not None
        time.sleep(1.5)
        with lease(engine, Heartbeat(engine, 0.5), "meta:1") as second:
            assert second is None
        with transaction(engine) as session:
            held.fence(session)


def test_one_thread_renews_all_leases(engine: Engine, heartbeat: Heartbeat) -> None:
    with lease(engine, heartbeat, "meta:1"), lease(engine, heartbeat, "meta:2"), lease(engine, heartbeat, "meta:3"):
        assert len(heartbeat.held) == 3
        assert heartbeat._thread is not None
        assert heartbeat._thread.is_alive()
        first = heartbeat._thread
    with lease(engine, heartbeat, "meta:1"):
        assert heartbeat._thread is first


def test_the_thread_ends_with_the_last_lease_and_the_next_one_has_its_own(engine: Engine) -> None:
    heartbeat = Heartbeat(engine, 0.4)
    with lease(engine, heartbeat, "meta:1"):
        first = heartbeat._thread
        assert first is not None
    first.join(5)
    assert not first.is_alive()
    with lease(engine, heartbeat, "meta:1"):
        time.sleep(1.0)
        with lease(engine, Heartbeat(engine, 0.4), "meta:1") as second:
            assert second is None


class TestFence:
    def test_late_writes_are_refused(self, engine: Engine, heartbeat: Heartbeat) -> None:
        """The process was stopped for longer than its lease; somebody else took the lane."""
        with lease(engine, heartbeat, "meta:1") as held:
            assert held is not None
            heartbeat.remove(held.holder)
            with transaction(engine) as session:
                session.get_one(Lane, "meta:1").leased_until = now() - timedelta(seconds=1)
            with lease(engine, heartbeat, "meta:1") as taker:
                assert taker is not None
                with pytest.raises(LeaseLost, match="on a lane ran out"), transaction(engine) as session:
                    held.fence(session)
                with transaction(engine) as session:
                    taker.fence(session)

    def test_releasing_late_takes_nothing_from_the_new_holder(self, engine: Engine, heartbeat: Heartbeat) -> None:
        with lease(engine, heartbeat, "meta:1") as held:
            assert held is not None
            with transaction(engine) as session:
                session.get_one(Lane, "meta:1").holder = "somebody-else"
        row = row_of(engine, "meta:1")
        assert row is not None
        assert row.holder == "somebody-else"

    def test_nobody_takes_the_lane_between_fence_and_commit(self, engine: Engine, heartbeat: Heartbeat) -> None:
        """The fence locks the row: a taker waits for the write that was fenced, and sees it."""
        order = []
        with transaction(engine) as session:
            make_lane(session, "meta:1", seconds=30)
        fenced = threading.Event()

        def write() -> None:
            with transaction(engine) as session:
                Lease("meta:1", "somebody-else").fence(session)
                session.scalars(select(Lane).where(Lane.lane == "meta:1")).one().leased_until = now() - timedelta(1)
                session.flush()
                fenced.set()
                time.sleep(0.3)
                order.append("written")

        writer = threading.Thread(target=write)
        writer.start()
        fenced.wait()
        with lease(engine, heartbeat, "meta:1") as held:
            order.append("taken" if held else "refused")
        writer.join()
        assert order[0] == "written"
