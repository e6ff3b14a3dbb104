"""The sweeper finds what the bell lost and leaves alone what somebody works on; every duty enqueues its job."""

from datetime import timedelta

import pytest
import redis
from factories import make_answer, make_event, make_lane, make_part
from nights import a_day
from sqlalchemy import Engine, select, update

from bot.clock import GRACE, duties, forget_webhooks, sweep
from core import jobs
from core.db import transaction
from core.jobs import BELL
from core.settings import Settings
from core.tables import ConsolidationRun, InboundEvent, Message, now
from integrations.redis.queue import connect, queue

OLD = timedelta(seconds=GRACE + 1)


@pytest.fixture
def bell(redis_url: str) -> redis.Redis:
    return connect(redis_url)


def rung(bell: redis.Redis) -> list[str]:
    return sorted(lane.decode() for lane in bell.lrange(BELL, 0, -1))  # type: ignore[union-attr]


def test_forgotten_lanes_are_rung_for(engine: Engine, bell: redis.Redis) -> None:
    with transaction(engine) as session:
        make_event(session, lane="meta:forgotten", received=OLD)
        make_event(session, lane="meta:forgotten", received=OLD)
        make_event(session, lane="meta:fresh")
        make_event(session, lane="meta:held", received=OLD)
        make_lane(session, "meta:held")
        make_event(session, lane="meta:died", received=OLD)
        make_lane(session, "meta:died", seconds=-1)
        make_event(session, lane="meta:done", received=OLD, handled_at=now())
        make_event(session, lane="meta:later", received=OLD, not_before=now() + timedelta(minutes=1))
    assert sweep(engine, bell) == 2
    assert rung(bell) == ["meta:died", "meta:forgotten"]


def test_a_lane_waits_for_its_oldest_event(engine: Engine, bell: redis.Redis) -> None:
    """The next try of the oldest is later: what came after it must not overtake it."""
    with transaction(engine) as session:
        make_event(session, lane="meta:1", received=OLD, not_before=now() + timedelta(minutes=1))
        make_event(session, lane="meta:1", received=OLD)
    assert sweep(engine, bell) == 0


def test_unsent_parts_are_sent(engine: Engine, bell: redis.Redis) -> None:
    with transaction(engine) as session:
        for state in ("pending", "sending", "unknown", "sent", "failed"):
            part = make_part(session, make_answer(session), state=state)
            part.created_at, part.lane = now() - timedelta(seconds=5), f"meta:{state}"
            part.not_before = now() - timedelta(seconds=1)
    assert sweep(engine, bell) == 3
    assert sorted(job.args[0] for job in queue(bell, "awake").jobs) == ["meta:pending", "meta:sending", "meta:unknown"]
    sweep(engine, bell)
    assert len(queue(bell, "awake").jobs) == 3  # asked for a moment ago


def test_every_duty_runs_and_enqueues_its_job(engine: Engine, bell: redis.Redis, settings: Settings) -> None:
    with transaction(engine) as session:
        a_day(session, 6)
        session.execute(update(Message).values(created_at=now() - timedelta(hours=1)))
    sleepy = settings.model_copy(
        update={"sleep_hours": "00:00-23:59:59", "sleep_minimum_examples": 5, "slack_review_channel": "C0REVIEW"}
    )
    agenda = duties(sleepy, engine, bell)
    for duty in agenda:
        duty.action()
    enqueued = {job.func_name for name in ("awake", "asleep") for job in queue(bell, name).jobs}
    # The others are enqueued by what happened, not by the clock.
    assert enqueued == {job.path for job in jobs.ALL} - {jobs.ANSWER.path, jobs.SEND.path, jobs.READ_SIGNALS.path}
    with transaction(engine) as session:
        assert [run.requested_by for run in session.scalars(select(ConsolidationRun))] == ["clock"]
    for duty in agenda:
        duty.action()
    assert len(queue(bell, "asleep").jobs) == 1


def test_what_vendors_sent_is_forgotten_some_days_after_it_was_handled(engine: Engine) -> None:
    def event(name: str, *, handled: float | None, received: float = 50) -> InboundEvent:
        at = now() - timedelta(days=handled) if handled is not None else None
        return InboundEvent(
            source="meta", external_id=name, kind="message", lane="meta:1", payload={"text": "Oi"},
            received_at=now() - timedelta(days=received), handled_at=at, outcome="answered" if at else None,
        )  # fmt: skip

    with transaction(engine) as session:
        session.add_all([event("old", handled=31), event("new", handled=29), event("waits", handled=None)])
    assert (forget_webhooks(engine, 30.0), forget_webhooks(engine, 30.0)) == (1, 0)
    with transaction(engine) as session:
        kept = {row.external_id: (row.payload, row.outcome) for row in session.scalars(select(InboundEvent))}
    assert kept == {
        "old": ({}, "answered"), "new": ({"text": "Oi"}, "answered"), "waits": ({"text": "Oi"}, None)
    }  # fmt: skip
