"""When a night is asked for: quiet, due, enough to learn; two clocks ask once."""

import threading
from datetime import UTC, datetime, timedelta

import nights as days
import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from bot import nights
from core.db import get_engine, transaction
from core.errors import Conflict
from core.settings import Settings
from core.tables import ConsolidationRun, Context, Message, PrivacyAction, now

MIDNIGHT = datetime(2026, 11, 25, 6, 0, tzinfo=UTC)  # three in the morning in São Paulo


@pytest.fixture
def engine(database_url: str) -> Engine:
    return get_engine(database_url)


@pytest.fixture
def here(settings: Settings) -> Settings:
    """Sleeping hours all day long, so that only the reason under test keeps a context awake."""
    return settings.model_copy(update={"sleep_hours": "00:00-23:59:59", "sleep_minimum_examples": 5})


def a_quiet_day(engine: Engine, count: int = 6, *, minutes: float = 60) -> None:
    with transaction(engine) as session:
        days.a_day(session, count)
        for message in session.scalars(select(Message)):
            message.created_at = now() - timedelta(minutes=minutes)


def customers(session: Session) -> Context:
    return session.get_one(Context, "customers")


def outlook(engine: Engine, settings: Settings, at: datetime | None = None) -> nights.Outlook:
    with transaction(engine) as session:
        return nights.outlook(session, customers(session), settings, at)


def test_quiet_due_and_enough_falls_asleep(engine: Engine, here: Settings) -> None:
    a_quiet_day(engine)
    with transaction(engine) as session:
        (run_id,) = nights.request_due_nights(session, here)
        run = session.scalars(select(ConsolidationRun)).one()
    assert (str(run.id), run.sequence, run.requested_by, run.context) == (run_id, 0, "clock", "customers")


def test_by_day_it_stays_awake(engine: Engine, here: Settings) -> None:
    a_quiet_day(engine)
    found = outlook(engine, here.model_copy(update={"sleep_hours": "02:00-06:00"}), MIDNIGHT + timedelta(hours=9))
    assert not found.due
    assert "sleeping hours" in found.why[0]


def test_while_somebody_writes_it_stays_awake(engine: Engine, here: Settings) -> None:
    a_quiet_day(engine, minutes=3)
    found = outlook(engine, here)
    assert not found.due
    assert "3 minutes ago" in found.why[0]


def test_too_little_to_learn_is_said_and_no_night_is_spent(engine: Engine, here: Settings) -> None:
    a_quiet_day(engine, count=4)
    assert "4 answers" in outlook(engine, here).why[0]
    with transaction(engine) as session:
        assert nights.request_due_nights(session, here) == []


def test_one_night_a_date_however_many_clocks_ask(engine: Engine, here: Settings) -> None:
    a_quiet_day(engine)
    asked: list[str] = []
    start = threading.Barrier(8)

    def clock() -> None:
        start.wait()
        with transaction(engine) as session:
            asked.extend(nights.request_due_nights(session, here))

    threads = [threading.Thread(target=clock) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(asked)) == 1
    with transaction(engine) as session:
        run = session.scalars(select(ConsolidationRun)).one()
        run.state, run.ended_at = "registered", now()
    with transaction(engine) as session:
        assert nights.request_due_nights(session, here) == []
    assert "slept already" in outlook(engine, here).why[0]


def test_a_failed_night_is_owed_on_the_next_date(engine: Engine, here: Settings) -> None:
    a_quiet_day(engine)
    with transaction(engine) as session:
        yesterday = datetime.now(UTC).date() - timedelta(days=1)
        run = nights.claim(session, "customers", here, yesterday, sequence=0, requested_by="clock")
        assert run is not None
        run.state = "failed"
    assert outlook(engine, here).due


def test_a_context_with_a_weekly_preset_sleeps_once_a_week(engine: Engine, here: Settings) -> None:
    a_quiet_day(engine)
    with transaction(engine) as session:
        customers(session).preset = "tutor"
        run = nights.claim(session, "customers", here, datetime.now(UTC).date(), sequence=0, requested_by="clock")
        assert run is not None
        assert run.strategy == "mas+replay"
        run.state = "registered"
    assert not outlook(engine, here, now() + timedelta(hours=1)).due
    assert outlook(engine, here, now() + timedelta(days=8)).due


@pytest.mark.parametrize(
    ("earlier", "strategy"),
    [
        ([("registered", 1, "replay")], "replay"),  # learning one night's examples again gains nothing
        ([("registered", 2, "replay"), ("registered", 1, "replay")], "deep"),
        ([("refused", 2, "replay"), ("refused", 1, "replay")], "deep"),
        ([("skipped", 2, "replay"), ("failed", 1, "replay")], "replay"),
        ([("registered", 9, "deep"), ("registered", 8, "replay"), ("refused", 7, "replay")], "deep"),
        ([("registered", 9, "deep"), ("registered", 8, "replay")], "replay"),
        ([("registered", 4, "replay"), ("registered", 3, "replay"), ("refused", 1, "deep")], "replay"),
    ],
)
def test_once_a_week_everything_is_learned_again(
    engine: Engine, here: Settings, earlier: list[tuple[str, int, str]], strategy: str
) -> None:
    a_quiet_day(engine)
    friday = datetime(2026, 11, 27, 6, 0, tzinfo=UTC)
    here = here.model_copy(update={"sleep_strategy": "replay"})
    with transaction(engine) as session:
        customers(session).preset = "support"
        for state, days_ago, how in earlier:
            at = friday - timedelta(days=days_ago)
            session.add(
                ConsolidationRun(
                    context="customers", night=at.date(), strategy=how, seed=0, state=state, stage="done", created_at=at
                )
            )
    assert outlook(engine, here, friday).strategy == strategy


def test_a_run_whose_worker_died_is_asked_for_again(engine: Engine, here: Settings) -> None:
    with transaction(engine) as session:
        run = nights.claim(session, "customers", here, datetime.now(UTC).date(), sequence=0, requested_by="clock")
        assert run is not None
        run.state, run.leased_until = "running", now() - timedelta(seconds=1)
        run_id = str(run.id)
    with transaction(engine) as session:
        assert nights.request_due_nights(session, here) == [run_id]


def test_by_hand_a_second_night_of_the_date_counts_up(engine: Engine, here: Settings) -> None:
    with transaction(engine) as session:
        first = nights.request_now(session, "customers", here, requested_by="ana")
        with pytest.raises(Conflict, match="asleep already"):
            nights.request_now(session, "customers", here, requested_by="ana")
        session.get_one(ConsolidationRun, first).state = "refused"
        session.flush()
        second = nights.request_now(session, "customers", here, requested_by="ana")
        assert session.get_one(ConsolidationRun, second).sequence == 2


def test_after_an_erasure_the_next_night_learns_again_from_the_base(engine: Engine, here: Settings) -> None:
    with transaction(engine) as session:
        session.add(
            PrivacyAction(verb="erase", actor="x", subject="y", contexts=["customers"], versions=["customers-v2"])
        )
    found = outlook(engine, here)  # no new example is needed, nor a planned date
    assert (found.due, found.strategy, found.rebuild) == (True, "deep", True)
    with transaction(engine) as session:
        nights.request_due_nights(session, here)
        run = session.scalars(select(ConsolidationRun)).one()
        assert (run.strategy, run.options["rebuild"]) == ("deep", True)
        run.state = "registered"
    assert not outlook(engine, here).rebuild


def test_an_erasure_of_somebody_who_taught_nothing_costs_no_night(engine: Engine, here: Settings) -> None:
    with transaction(engine) as session:
        for counts in ({}, {"messages": 4, "examples": 0}):
            session.add(
                PrivacyAction(verb="erase", actor="x", subject="y", contexts=["customers"], versions=[], counts=counts)
            )
    assert not outlook(engine, here).rebuild
    with transaction(engine) as session:
        session.add(
            PrivacyAction(
                verb="erase", actor="x", subject="z", contexts=["customers"], versions=[], counts={"examples": 1}
            )
        )
    assert outlook(engine, here).rebuild
