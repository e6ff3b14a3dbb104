"""`npllm bench reply`: how long a visitor of the website waits, at 1 and at 20 conversations at once.

Against the running system, through its own chat API: ledger, bell, worker, retrieval, model, outbox and back. Each
conversation is a new visitor who asks one of the shop's held-out questions; the next begins when the answer is whole.
"""

import asyncio
import json
import time
from typing import Any

import httpx

from bot.bench.load import percentile
from bot.visitors import Visitors
from core import shop
from core.errors import Unavailable
from core.settings import Settings


def run(settings: Settings, *, concurrency: int, replies: int) -> dict[str, Any]:
    """The figures at one number of conversations."""
    if not settings.public_base_url:
        raise Unavailable("No running system is known.", "Start it: npllm up")
    asked = [question.text for question in shop.questions("pt", "valid")]
    taken = asyncio.run(_talk(settings.public_base_url, Visitors(settings), asked, concurrency, replies))
    firsts = [first for first, _ in taken]
    wholes = [whole for _, whole in taken]
    return {
        "concurrency": concurrency,
        "replies": len(taken),
        "first_token": {"p50_ms": round(percentile(firsts, 0.5)), "p95_ms": round(percentile(firsts, 0.95))},
        "whole": {"p50_ms": round(percentile(wholes, 0.5)), "p95_ms": round(percentile(wholes, 0.95))},
    }


async def _talk(
    url: str, visitors: Visitors, asked: list[str], concurrency: int, replies: int
) -> list[tuple[float, float]]:
    """(milliseconds to the first piece, to the whole answer) of each reply; the first round only warms up."""
    async with httpx.AsyncClient(base_url=url, timeout=120.0) as client:
        await asyncio.gather(*(_ask(client, visitors, asked[i % len(asked)]) for i in range(concurrency)))
        taken: list[tuple[float, float]] = []
        waiting = iter(range(replies))

        async def one() -> None:
            for number in waiting:
                taken.append(await _ask(client, visitors, asked[number % len(asked)]))

        await asyncio.gather(*(one() for _ in range(concurrency)))
    return taken


async def _ask(client: httpx.AsyncClient, visitors: Visitors, text: str) -> tuple[float, float]:
    started, first, event = time.perf_counter(), 0.0, ""
    body = {"message": text, "stream": True, "visitor": visitors.of_the_operator()}
    async with client.stream("POST", "/api/chat", json=body) as response:
        if not response.is_success:
            raise Unavailable(f"The chat API answered {response.status_code}.", "Look at `npllm status`.")
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("data: ") and event in ("piece", "message", "error"):
                if event == "error":
                    raise Unavailable(json.loads(line[6:])["error"])
                first = first or (time.perf_counter() - started) * 1000
                if event == "message":
                    return first, (time.perf_counter() - started) * 1000
    raise Unavailable("An answer ended before it was whole.", "Look at `npllm status`.")
