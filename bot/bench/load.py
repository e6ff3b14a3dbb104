"""A small HTTP load generator: prepared requests over kept-alive connections, as many at a time as asked for.

It reads no body and parses one line of each answer, so that it takes little from the cores it shares with the server.
"""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bot.simulator.traffic import Signed


@dataclass(frozen=True)
class Load:
    """What a run of requests took; times in milliseconds, answers by status."""

    requests: int
    failed: int
    seconds: float
    times_ms: list[float]
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    def percentile(self, share: float) -> float:
        return percentile(self.times_ms, share)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def fire(requests: Sequence[Signed], *, connections: int) -> Load:
    """Post every request once and wait for all answers."""
    return asyncio.run(_fire(requests, connections))


async def _fire(requests: Sequence[Signed], connections: int) -> Load:
    times: list[float] = []
    statuses: Counter[int] = Counter()
    queue = list(reversed([(request.url, _raw(request)) for request in requests]))

    async def connection() -> None:
        parts = urlsplit(requests[0].url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            while queue:
                _, raw = queue.pop()
                started = time.perf_counter()
                writer.write(raw)
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
                )
                await reader.readexactly(length)
                times.append((time.perf_counter() - started) * 1000)
                statuses[int(head[9:12])] += 1
        finally:
            writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(connections)))
    failed = sum(count for status, count in statuses.items() if not 200 <= status < 300)
    return Load(len(requests), failed, time.perf_counter() - started, times, dict(statuses))


def _raw(request: Signed) -> bytes:
    parts = urlsplit(request.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    headers = {**request.headers, "host": parts.netloc, "content-length": str(len(request.body))}
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + request.body


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
