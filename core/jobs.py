"""The only list that names both halves: every job, where its code is, which worker runs it.

Jobs are named by dotted path, so that enqueueing one imports nothing of the other half. They carry ids, never
payloads, and every one of them can run twice without harm: Redis is a doorbell, Postgres is the ledger.
"""

from dataclasses import dataclass
from typing import Literal

Queue = Literal["awake", "asleep"]


@dataclass(frozen=True)
class Job:
    """`timeout` in seconds: after it RQ ends the job, and the ledger's lease gives the work to the next."""

    path: str
    queue: Queue
    timeout: int


ANSWER = Job("bot.jobs.answer", "awake", 120)
SEND = Job("bot.jobs.send", "awake", 120)
READ_SIGNALS = Job("bot.jobs.read_signals", "awake", 60)
FILL_ANNOTATIONS = Job("bot.jobs.fill_annotations", "awake", 60)
SHOW_CARDS = Job("bot.jobs.show_cards", "awake", 60)
RELEASE_CLAIMS = Job("bot.jobs.release_claims", "awake", 30)
GUARD_ROLLOUTS = Job("bot.jobs.guard_rollouts", "awake", 240)  # eleven questions of 15 s before a blue-green switch
SEND_ALERTS = Job("bot.jobs.send_alerts", "awake", 120)
ERASE = Job("bot.jobs.erase", "awake", 600)
CONSOLIDATE = Job("learning.jobs.consolidate", "asleep", 6 * 3600)

MEDIA = Job("bot.jobs.media", "awake", 600)
FETCH_MISSED = Job("bot.jobs.fetch_missed", "awake", 120)

ALL = (
    ANSWER, SEND, READ_SIGNALS, FILL_ANNOTATIONS, SHOW_CARDS, RELEASE_CLAIMS, GUARD_ROLLOUTS, SEND_ALERTS, ERASE,
    MEDIA, FETCH_MISSED, CONSOLIDATE,
)  # fmt: skip

BELL = "npllm:bell"  # a Redis list of lanes with something waiting
LATER = "npllm:later"  # a Redis sorted set: lanes to ring for, by time
