"""The clock: finds what the bell lost, and enqueues what is due.

Any number of clocks may run: every job is idempotent, and a night is claimed in Postgres.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis
from sqlalchemy import Engine, text

from bot.handover import return_stale
from bot.logs import set_up
from bot.nights import request_due_nights
from core import jobs
from core.db import get_engine, need_database, transaction
from core.parent import end_with_parent
from core.partitions import ensure_partitions
from core.settings import Settings, get_settings
from integrations.redis.queue import connect, enqueue, enqueue_once, need_redis, ring

log = logging.getLogger(__name__)

GRACE = 3.0  # seconds a fresh event is left to its own bell
# Lanes with something due that nobody holds. A lane waits for its oldest event: only that one's time counts.
_FORGOTTEN = text("""
    SELECT lane FROM (
        SELECT DISTINCT ON (e.lane) e.lane, e.not_before FROM npllm.inbound_events e
        WHERE e.handled_at IS NULL AND e.received_at < now() - :grace * interval '1 second'
        ORDER BY e.lane, e.id
    ) oldest
    WHERE (not_before IS NULL OR not_before <= now())
      AND NOT EXISTS (SELECT 1 FROM npllm.lanes l WHERE l.lane = oldest.lane AND l.leased_until > now())
    LIMIT 1000
""")
_UNSENT = text("""
    SELECT DISTINCT o.lane FROM npllm.outbox o
    WHERE o.state IN ('pending', 'sending', 'unknown') AND o.not_before <= now()
      AND o.delivery IS DISTINCT FROM 'unknown'
      AND o.created_at < now() - interval '1 second'
      AND NOT EXISTS (SELECT 1 FROM npllm.lanes l WHERE l.lane = o.lane AND l.leased_until > now())
    LIMIT 1000
""")
_OLD_WEBHOOKS = text("""
    UPDATE npllm.inbound_events SET payload = '{}'
    WHERE handled_at < now() - :days * interval '1 day' AND payload <> '{}'
""")


@dataclass
class Duty:
    """Something to do every `seconds`."""

    seconds: float
    action: Callable[[], object]
    due: float = 0.0


def sweep(engine: Engine, client: redis.Redis) -> int:
    """Ring for what waits and nobody holds; returns how many lanes."""
    with transaction(engine) as session:
        forgotten = [row[0] for row in session.execute(_FORGOTTEN, {"grace": GRACE})]
        unsent = [row[0] for row in session.execute(_UNSENT)]
    ring(client, forgotten)
    enqueue_once(client, jobs.SEND, set(unsent) - set(forgotten))
    return len(forgotten) + len(unsent)


def forget_webhooks(engine: Engine, days: float) -> int:
    """What vendors sent, as they sent it, is kept for some days after it was handled; returns how many went.

    Its key stays on the ledger, so that nothing is handled twice, and so does what was made of it.
    """
    with engine.begin() as connection:
        return connection.execute(_OLD_WEBHOOKS, {"days": days}).rowcount


def duties(settings: Settings, engine: Engine, client: redis.Redis) -> list[Duty]:
    """Everything that is due now and then."""

    def partitions() -> None:
        with engine.begin() as connection:
            ensure_partitions(connection)

    def nights() -> None:
        with transaction(engine) as session:
            runs = request_due_nights(session, settings)
        for run in runs:
            enqueue(client, jobs.CONSOLIDATE, run, at_most_every=30.0)

    def handovers() -> None:
        with transaction(engine) as session:
            return_stale(session, settings)

    of_channels = []
    if settings.slack_open and settings.slack_review_channel:
        of_channels.append(Duty(5.0, lambda: enqueue(client, jobs.SHOW_CARDS, at_most_every=4.0)))
    if settings.twilio_open:
        of_channels.append(Duty(120.0, lambda: enqueue(client, jobs.FETCH_MISSED, at_most_every=100.0)))
    return [
        *of_channels,
        Duty(30.0, handovers),
        Duty(2.0, lambda: sweep(engine, client)),
        Duty(5.0, lambda: enqueue(client, jobs.FILL_ANNOTATIONS, at_most_every=4.0)),
        Duty(10.0, lambda: enqueue(client, jobs.GUARD_ROLLOUTS, at_most_every=2.0)),
        Duty(10.0, lambda: enqueue(client, jobs.SEND_ALERTS, at_most_every=5.0)),
        Duty(30.0, lambda: enqueue(client, jobs.RELEASE_CLAIMS, at_most_every=20.0)),
        Duty(30.0, nights),
        Duty(600.0, lambda: enqueue(client, jobs.ERASE, at_most_every=300.0)),
        Duty(15.0 if settings.media_fetch else 600.0, lambda: enqueue(client, jobs.MEDIA, at_most_every=10.0)),
        Duty(3600.0, partitions),
        Duty(3600.0, lambda: forget_webhooks(engine, settings.webhook_days)),
    ]


def run_clock() -> None:
    """Tick until SIGTERM or SIGINT."""
    settings = get_settings()
    set_up("clock", settings.log_level)
    end_with_parent()
    stop = threading.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: stop.set())
    engine, client = get_engine(need_database(settings), pool_size=2), connect(need_redis(settings))
    agenda = duties(settings, engine, client)
    while not stop.wait(0.5):
        for duty in agenda:
            if time.monotonic() >= duty.due:
                duty.due = time.monotonic() + duty.seconds
                try:
                    duty.action()
                except Exception as error:  # Redis or Postgres is away: the next tick tries again
                    log.warning("%s", error)
