"""Two hands on one context's rollouts at the same instant: the state is one that a single sequence could have made."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from factories import LADDER, make_version
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session
from together import eventually

from bot import privacy, rollout_line, rollout_look, rollouts, watch
from bot.rollout_changes import take_turns
from bot.wiring import Awake
from core import drift, registry
from core.db import get_engine, transaction
from core.errors import Conflict
from core.tables import AdapterVersion, Context, Rollout, RolloutEvent

_WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


@pytest.fixture
def engine(database_url: str) -> Engine:
    return get_engine(database_url)


@pytest.fixture
def first(engine: Engine) -> str:
    with transaction(engine) as session:
        return make_version(session, champion=True).name


@pytest.fixture
def second(engine: Engine) -> str:
    with transaction(engine) as session:
        return make_version(session).name


@contextmanager
def meanwhile(engine: Engine, work: Callable[[Session], Any]) -> Iterator[tuple[Session, Future[Any]]]:
    """A transaction with `work` behind it in another one: that waits for a lock when this one is about to commit."""
    with ThreadPoolExecutor(1) as pool, transaction(engine) as session:
        behind: Future[Any] = Future()

        def in_a_transaction() -> Any:
            with transaction(engine) as other:
                return work(other)

        yield session, behind
        session.flush()
        running = pool.submit(in_a_transaction)
        running.add_done_callback(
            lambda done: behind.set_exception(e) if (e := done.exception()) else behind.set_result(done.result())
        )

        def waits() -> bool:
            with engine.connect() as connection:
                return running.done() or bool(connection.scalar(_WAITING))

        eventually(waits)


def start(session: Session, name: str, **facts: Any) -> Rollout:
    return rollout_line.start(session, name, LADDER, actor="ana", **facts)


def promote(session: Session) -> Rollout:
    return rollouts.promote(session, "customers", actor="ana", full=True, reason="drill")


def promoted(engine: Engine, name: str) -> None:
    """The version is champion, by a rollout."""
    with transaction(engine) as session:
        start(session, name)
        promote(session)


def standing(engine: Engine) -> tuple[str | None, str | None]:
    """Champion, and who rolls out."""
    with transaction(engine) as session:
        champion, rollout = registry.champion(session, "customers"), rollouts.current(session, "customers")
        runs = session.get_one(AdapterVersion, rollout.version_id).name if rollout else None
        return champion.name if champion else None, runs


def state_of(engine: Engine, name: str) -> str:
    with transaction(engine) as session:
        return registry.by_name(session, name).state


def alarmed(monkeypatch: pytest.MonkeyPatch, awake: Awake, first: Callable[[Session], Any]) -> None:
    """Drift finds the champion worse, and before it acts somebody else does."""

    def evidence(*_: object) -> float:
        with transaction(awake.engine) as other:
            first(other)
        return 2 * drift.TWO_ARM_ALARM

    monkeypatch.setattr(watch, "two_arm_evidence", evidence)
    with transaction(awake.engine) as session:
        watch.look_after(session, awake, "customers")


class TestDrift:
    def test_a_rollout_that_begins_meanwhile_is_not_taken_back_for_the_champion(
        self, awake: Awake, first: str, second: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alarmed(monkeypatch, awake, lambda other: start(other, second))
        assert standing(awake.engine) == (first, second)
        assert state_of(awake.engine, second) == "registered"

    def test_an_operators_undo_is_not_followed_by_a_second_one(
        self, awake: Awake, first: str, second: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        promoted(awake.engine, second)
        alarmed(monkeypatch, awake, lambda other: rollouts.undo(other, "customers", actor="ana"))
        assert standing(awake.engine) == (first, None)
        assert state_of(awake.engine, first) == "registered"

    def test_an_operators_resume_is_not_followed_by_a_freeze_for_what_it_ended(
        self, awake: Awake, first: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def evidence(*_: object) -> float:
            with transaction(awake.engine) as other:
                watch.freeze(other, other.get_one(Context, "customers"), actor="drift", reason="Satisfaction fell.")
            with transaction(awake.engine) as other:
                rollouts.resume(other, "customers", actor="ana")
            return 2 * drift.ONE_STREAM_ALARM

        monkeypatch.setattr(watch, "one_stream_evidence", evidence)
        with transaction(awake.engine) as session:
            watch.look_after(session, awake, "customers")
        with transaction(awake.engine) as session:
            assert session.get_one(Context, "customers").frozen_reason is None
            assert session.scalars(select(RolloutEvent.verb).order_by(RolloutEvent.id)).all() == ["freeze", "thaw"]


class TestTurns:
    def test_undo_behind_a_start_takes_that_one_back(self, engine: Engine, first: str, second: str) -> None:
        """Else the champion was quarantined while a rollout was compared with it."""
        with meanwhile(engine, lambda other: rollouts.undo(other, "customers", actor="drift")) as (session, undone):
            start(session, second)
        assert undone.result() == first
        assert standing(engine) == (first, None)
        assert (state_of(engine, first), state_of(engine, second)) == ("registered", "quarantined")

    def test_start_behind_an_undo_is_compared_with_who_serves_then(
        self, engine: Engine, first: str, second: str
    ) -> None:
        promoted(engine, second)
        with transaction(engine) as session:
            third = make_version(session).name
        with meanwhile(engine, lambda other: start(other, third).against_id) as (session, against):
            rollouts.undo(session, "customers", actor="drift")
            expected = registry.by_name(session, first).id
        assert against.result() == expected

    def test_what_an_undo_quarantines_does_not_begin(self, engine: Engine, first: str) -> None:
        with meanwhile(engine, lambda other: start(other, first)) as (session, begun):
            rollouts.undo(session, "customers", actor="drift", to="base")
        with pytest.raises(Conflict, match="is quarantined"):
            begun.result()
        assert standing(engine) == (None, None)

    def test_abort_stops_who_begins_out_of_the_line_meanwhile(self, engine: Engine, first: str, second: str) -> None:
        """Else it said that there was nothing to abort, and the version served."""
        with transaction(engine) as session:
            start(session, make_version(session).name)
            start(session, second, queue=True)
            rollouts.abort(session, "customers", actor="ana")
        with meanwhile(engine, lambda other: rollouts.abort(other, "customers", actor="ana").state) as (session, done):
            rollout_line.next_in_line(session, "customers")
        assert done.result() == "aborted"
        assert standing(engine) == (first, None)

    def test_a_look_of_before_a_promotion_writes_nothing_over_it(self, engine: Engine, first: str, second: str) -> None:
        """Else who was champion before was forgotten, and undo went to the frozen base."""
        with transaction(engine) as session:
            start(session, second)
        with transaction(engine) as session:
            rollout = rollouts.current(session, "customers")
            assert rollout is not None
            decision = rollout_look.look(session, rollout)
            assert decision.action == "wait"
            with transaction(engine) as other:
                promote(other)
            with pytest.raises(Conflict, match="changed meanwhile"):
                rollout_look.act(session, rollout, decision)
        with transaction(engine) as session:
            assert rollouts.undo(session, "customers", actor="ana") == first

    def test_retry_does_not_revive_what_an_erasure_retires(self, engine: Engine, second: str) -> None:
        with transaction(engine) as session:
            registry.by_name(session, second).state = "quarantined"
        with meanwhile(engine, lambda other: rollouts.retry(other, second, actor="ana")) as (session, retried):
            take_turns(session, "customers")  # as bot/privacy.py
            registry.by_name(session, second).state = "retired"
        with pytest.raises(Conflict, match="is retired, not quarantined"):
            retried.result()
        assert state_of(engine, second) == "retired"


class TestNobodyHoldsWhatAnotherNeeds:
    """Else each waits for the other, and Postgres ends one of them: perhaps the abort."""

    @pytest.mark.parametrize("verb", ["promote", "abort", "undo", "erase"])
    def test_who_waits_holds_nothing(
        self, engine: Engine, first: str, second: str, verb: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with transaction(engine) as session:
            start(session, second)

        def erase(other: Session) -> None:
            version = registry.by_name(other, second)
            monkeypatch.setattr(privacy, "_taught_by", lambda *_: [version])
            privacy._retire(other, set(), privacy.Erased(contexts=["customers"]), actor="ana")

        verbs: dict[str, Callable[[Session], Any]] = {
            "promote": promote, "abort": lambda other: rollouts.abort(other, "customers", actor="ana"),
            "undo": lambda other: rollouts.undo(other, "customers", actor="ana"), "erase": erase,
        }  # fmt: skip
        with ThreadPoolExecutor(1) as pool:
            with transaction(engine) as session:
                take_turns(session, "customers")

                def in_a_transaction() -> None:
                    with transaction(engine) as other:
                        verbs[verb](other)

                behind = pool.submit(in_a_transaction)

                def waits() -> bool:
                    with engine.connect() as connection:
                        return bool(connection.scalar(_WAITING))

                eventually(waits)
                session.execute(select(Rollout.id).with_for_update(nowait=True))
                session.execute(select(AdapterVersion.id).with_for_update(nowait=True))
            behind.result()
        assert standing(engine)[1] is None
