"""What routing costs: a direct call, a routed one, and one whose turn is stored before the reply is given.

The model is a stub on loopback in a process of its own that answers at once, so that what is left is ours. The four
take turns, call by call: whatever else the machine does falls on all of them alike.

    direct    the client asks the model server for one version
    routed    the router draws the arm, and the version's server is asked (as a turn does)
    stored    routed, and the answer, its outbox row, its unit and the ledger's "handled" committed (as a turn does)
    commit    one row written and committed, nothing else: what the disk takes of `stored`
"""

import asyncio
import json
import multiprocessing
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
from sqlalchemy.orm import Session

from bot import people, rollout_line
from bot.answers import Generated, Turn, save
from bot.bench.ground import temporary_ground
from bot.bench.load import percentile
from bot.lanes import lease
from bot.recall import Recalled
from bot.wiring import Awake, build
from core import registry
from core.db import psycopg_url, transaction
from core.messages import Identifier, InboundMessage, Person
from core.prompts import ChatMessage
from core.rollouts import Plan, Stage
from core.settings import load_settings
from core.tables import InboundEvent, Message, new_id

PEOPLE = 200
ASKED: list[ChatMessage] = [{"role": "user", "content": "Qual é o prazo de entrega?"}]
ANSWER = "O prazo é de cinco dias úteis."
PLAN = Plan("bench", (Stage(0.5, 30, 0.0, 0.15),))


def run(*, calls: int) -> dict[str, Any]:
    """{calls, direct|routed|stored|commit: {p50_ms, p99_ms}, overhead: {routed_ms, stored_ms}}; all in milliseconds."""
    with temporary_ground() as (system, _), _stub() as url:
        settings = load_settings(running=False, inference_url=f"{url}/v1", simulator="off", **_of(system.environment))
        awake = build(settings)
        return _measure(awake, calls)


def _of(environment: dict[str, str]) -> dict[str, str]:
    return {"database_url": environment["DATABASE_URL"], "redis_url": environment["REDIS_URL"]}


def _measure(awake: Awake, calls: int) -> dict[str, Any]:
    with transaction(awake.engine) as session:
        champion, challenger = (_version(session) for _ in range(2))
        registry.crown(session, "customers", champion.id, expected=None)
        rollout_line.start(session, challenger.name, PLAN, actor="bench")
    awake.models._loaded |= {champion.name, challenger.name}
    times = {name: [0.0] * calls for name in ("direct", "routed", "stored", "commit")}
    with lease(awake.engine, awake.heartbeat, "bench") as lane, _bare_commit(awake) as commit:
        assert lane is not None
        turns = [_turn(awake) for _ in range(min(calls, PEOPLE))]

        def direct(turn: Turn, event: int, model: str) -> None:
            awake.models.server.reply(ASKED, model=model, max_tokens=64, timeout=10.0)

        def routed(turn: Turn, event: int, model: str) -> Any:
            route = awake.router.route("customers", str(turn.customer_id))
            return route, awake.models.reply(route.version, ASKED, max_tokens=64, timeout=10.0)

        def stored(turn: Turn, event: int, model: str) -> None:
            route, reply = routed(turn, event, model)
            save(awake, event, turn, lane, Generated(reply.text, route.version, reply, (), ()), route, Recalled(None))

        kinds: list[tuple[str, Callable[[Turn, int, str], Any]]] = [
            ("direct", direct), ("routed", routed), ("stored", stored), ("commit", commit)
        ]  # fmt: skip
        for number in range(-50, calls):  # the first fifty warm up
            turn, event = _incoming(awake, turns[number % len(turns)])
            # The direct call asks for the version that the router is going to draw: each has a connection of its own.
            drawn = awake.router.route("customers", str(turn.customer_id)).version
            model = drawn.name or awake.models.base
            for name, call in kinds[number % 4 :] + kinds[: number % 4]:
                started = time.perf_counter()
                call(turn, event, model)
                if number >= 0:
                    times[name][number] = (time.perf_counter() - started) * 1000
    found: dict[str, Any] = {"calls": calls}
    for name, values in times.items():
        found[name] = {"p50_ms": round(percentile(values, 0.5), 3), "p99_ms": round(percentile(values, 0.99), 3)}
    found["overhead"] = {
        f"{name}_ms": round(statistics.median(a - b for a, b in zip(times[name], times["direct"], strict=True)), 3)
        for name in ("routed", "stored")
    }
    return found


@contextmanager
def _bare_commit(awake: Awake) -> Iterator[Callable[[Turn, int, str], None]]:
    """A row and its commit through the driver alone."""
    with psycopg.connect(psycopg_url(str(awake.settings.database_url)), autocommit=True) as connection:
        connection.execute("CREATE TABLE bench_commit (event bigint)")

        def commit(turn: Turn, event: int, model: str) -> None:
            connection.execute("INSERT INTO bench_commit VALUES (%s)", [event])

        yield commit


def _version(session: Session) -> Any:
    manifest = {"base": {"model": "stub", "revision": "stub"}}
    return registry.register(
        session, context="customers", source="import", location="folder:none", sha256=uuid.uuid4().hex,
        manifest=manifest,
    )  # fmt: skip


def _turn(awake: Awake) -> Turn:
    """A person who has written once."""
    who = uuid.uuid4().hex
    person = Person((Identifier("visitor", who),), None)
    message = InboundMessage(
        channel="web",
        person=person,
        provider_message_id=who,
        text="Oi",
        address={"visitor": who, "key": who},
        context="customers",
    )
    with transaction(awake.engine) as session:
        customer = people.identify(session, person, "customers")
        conversation = people.conversation_of(session, message, customer, f"web:{who}", idle_hours=24)
        session.flush()
        return Turn(message, uuid.uuid4(), customer.id, conversation.id, "customers", "pt", ask_consent=False)


def _incoming(awake: Awake, turn: Turn) -> tuple[Turn, int]:
    """The next message of that person, as `receive` has stored it."""
    with transaction(awake.engine) as session:
        message = Message(
            id=new_id(), conversation_id=turn.conversation_id, customer_id=turn.customer_id, context="customers",
            channel="web", direction="in", role="customer", text="Oi",
        )  # fmt: skip
        event = InboundEvent(source="web", external_id=str(message.id), kind="message", lane="bench", payload={})
        session.add_all([message, event])
        session.flush()
        return replace(turn, message_id=message.id), event.id


@contextmanager
def _stub() -> Iterator[str]:
    """A model server that answers every request at once, in a process of its own."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join(5)


def _serve(pipe: Any) -> None:
    asyncio.run(_listen(pipe))


async def _listen(pipe: Any) -> None:
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "stub"}
    usage = {"prompt_tokens": 8, "completion_tokens": 8, "total_tokens": 16}
    chunks = [
        {**head, "choices": [{"index": 0, "delta": {"content": ANSWER}, "finish_reason": "stop"}]},
        {**head, "choices": [], "usage": usage},
    ]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    models = json.dumps({"object": "list", "data": [{"id": "stub", "object": "model"}]}).encode()
    listing = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(models) + models

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                if request.startswith(b"GET"):
                    writer.write(listing)
                    continue
                length = next(
                    int(line[15:]) for line in request.split(b"\r\n") if line.lower().startswith(b"content-length:")
                )
                await reader.readexactly(length)
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()
