"""`npllm bench ingest`: how fast webhooks are verified, stored, rung for and acknowledged.

The baseline (bot/bench/bare.py) does the least that can be called the same: HMAC check, INSERT, the same bell. Both
run as uvicorn processes on one ledger, in turns, so that the ratio holds where the machine's speed drifts.
"""

import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

from bot.bench.ground import temporary_ground
from bot.bench.load import Load, fire, median, percentile
from bot.simulator import traffic
from bot.up.system import System, answers
from core.errors import Unavailable

ROUNDS = 4


def run(*, requests: int = 3_000, connections: int = 32, processes: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """The figures: `ratio` and the rest for one web process, and each number of processes in `by_processes`.

    Args:
        requests: per side and round; ROUNDS rounds.
    """
    with temporary_ground() as (system, _):
        found = {count: _compare(system, count, requests, connections) for count in processes}
    return {**found[processes[0]], "by_processes": {str(count): figures for count, figures in found.items()}}


def _compare(system: System, workers: int, requests: int, connections: int) -> dict[str, Any]:
    ours, bare = system.ports["web"], system.ports["vendors"]
    with (
        _uvicorn(system, "bot.app:create_app", ours, workers),
        _uvicorn(system, "bot.bench.bare:create_bare", bare, workers),
    ):
        sides: dict[str, list[Load]] = {"ours": [], "bare": []}
        fire(_batch(system, ours, "/hooks/meta", 300), connections=connections)  # warm both
        fire(_batch(system, bare, "/bare", 300), connections=connections)
        for _ in range(ROUNDS):
            sides["bare"].append(fire(_batch(system, bare, "/bare", requests), connections=connections))
            sides["ours"].append(fire(_batch(system, ours, "/hooks/meta", requests), connections=connections))
    failed = sum(load.failed for loads in sides.values() for load in loads)
    if failed:
        raise Unavailable(f"{failed} requests were refused.", "Look at the web process' log.")
    times = [time for load in sides["ours"] for time in load.times_ms]
    ratios = [mine.per_second / theirs.per_second for mine, theirs in zip(sides["ours"], sides["bare"], strict=True)]
    return {
        "ratio": round(median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "requests_per_s": round(median([load.per_second for load in sides["ours"]]), 1),
        "bare_requests_per_s": round(median([load.per_second for load in sides["bare"]]), 1),
        "p50_ms": round(percentile(times, 0.5), 2),
        "p95_ms": round(percentile(times, 0.95), 2),
        "p99_ms": round(percentile(times, 0.99), 2),
        "connections": connections,
        "requests": requests * ROUNDS,
    }


def _batch(system: System, port: int, path: str, count: int) -> list[traffic.Signed]:
    """Messages of as many people; every one of them is new to the ledger."""
    settings = system.settings
    url = f"http://{settings.host}:{port}{path}"
    people = [f"+55119{number:08d}" for number in range(count)]
    return [replace(traffic.meta_text(settings, "Quanto custa?", sender=person), url=url) for person in people]


class _uvicorn:
    """A server process for the length of a `with`."""

    def __init__(self, system: System, application: str, port: int, workers: int) -> None:
        self.port, self.host = port, system.settings.host
        self.command = [
            sys.executable, "-m", "uvicorn", application, "--factory", "--host", self.host, "--port", str(port),
            "--workers", str(workers), "--no-access-log", "--log-level", "warning",
        ]  # fmt: skip
        self.environment = {**os.environ, **system.environment}

    def __enter__(self) -> None:
        self.process = subprocess.Popen(self.command, env=self.environment)
        end = time.monotonic() + 30
        while not answers(f"http://{self.host}:{self.port}/healthz"):
            if time.monotonic() > end or self.process.poll() is not None:
                raise Unavailable(f"{self.command[3]} did not start.", "Look at the lines above.")
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(15)
