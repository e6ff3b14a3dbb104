"""What a bad day does to the system: real processes, a fault at a time, and a checker that reads the history.

Each test has a short form, and a long one with the figures of the reliability goals (`pytest -m slow`):

    1  the same event delivered again and again, 64 at a time      one answer each, ack p99 < 500 ms
    2  SIGKILL of the worker at random points                      0 lost, 0 twice, all answered within 60 s
    3  SIGKILL of the web process between commit and 200           the vendor's retry is absorbed
    4  FLUSHALL with messages queued; Redis down                   webhooks still 200; answered within 60 s
    5  Postgres down                                               503, never 200 without a commit
    6  latency, resets, half-open connections, everywhere          nothing twice, recovery within 30 s
    7  forged, truncated, re-serialised bodies; rotated secrets    401, and nothing stored
    8  stale Slack requests, byte-exact replays                    refused; one answer in total
    -  two web and three worker processes, one of each killed      one answer each
"""

import random
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl

import psycopg
import pytest
import redis
from processes import PATIENCE, Processes, beside_any_loop, processes
from proxy import Mode
from pydantic import SecretStr

from bot.bench.load import fire
from bot.simulator import traffic
from bot.simulator.traffic import Signed
from core.db import get_engine
from integrations.postgres.embedded import EmbeddedPostgres
from integrations.redis.embedded import EmbeddedRedis

pytestmark = pytest.mark.timeout(900)

Vendor = Literal["twilio", "meta", "slack"]
slow = pytest.mark.slow


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_numbers = iter(range(1, 10**7))


@pytest.fixture(scope="module")
def system(postgres: EmbeddedPostgres, redis_server: EmbeddedRedis, reachable_folder: Path) -> Iterator[Processes]:
    """One system for all tests of this file: its history grows, and is checked as a whole each time."""
    base, name = postgres.url.rsplit("/", 1)[0], f"faults_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template_npllm")
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    folder = reachable_folder / name
    with processes(
        folder, f"{base}/{name}", redis_server.url, _free_port(),
        LEASE_SECONDS="2", DEBOUNCE_SECONDS="0.3", REPLY_TIMEOUT="6", META_APP_SECRET_PREVIOUS="old-meta-secret",
    ) as running:  # fmt: skip
        yield running
    get_engine(f"{base}/{name}").dispose()
    client.flushall()
    with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def people(
    system: Processes, count: int, vendors: Sequence[Vendor] = get_args(Vendor)
) -> tuple[list[Signed], list[str]]:
    """So many new people with a question each; and where their answers go."""
    requests, addresses = [], []
    for number in range(count):
        vendor, n = vendors[number % len(vendors)], next(_numbers)
        phone = f"+55119{n:08d}"
        if vendor == "twilio":
            requests.append(traffic.twilio_message(system.settings, "Vocês entregam?", sender=phone))
            addresses.append(f"whatsapp:{phone}")
        elif vendor == "meta":
            requests.append(traffic.meta_text(system.settings, "Vocês entregam?", sender=phone))
            addresses.append(phone.lstrip("+"))
        else:
            requests.append(traffic.slack_message(system.settings, "Oi?", user=f"U{n}", channel=f"D{n}"))
            addresses.append(f"D{n}")
    return requests, addresses


def again(system: Processes, request: Signed, attempt: int) -> Signed:
    """The vendor's retry: the same bytes, its headers beside them."""
    slack = {"x-slack-retry-num": str(attempt), "x-slack-retry-reason": "http_timeout"}
    headers = slack if "slack" in request.url else {"i-twilio-idempotency-token": request.message_id}
    return replace(request, headers={**request.headers, **headers})


@pytest.mark.parametrize(
    ("events", "times"), [pytest.param(60, 5, id="short"), pytest.param(1000, 10, id="long", marks=slow)]
)
def test_1_every_delivery_is_acknowledged_and_each_event_answered_once(
    system: Processes, events: int, times: int, record_property: Any
) -> None:
    requests, addresses = people(system, events)
    deliveries = [again(system, request, attempt) for request in requests for attempt in range(times)]
    random.Random(1).shuffle(deliveries)
    load = beside_any_loop(fire, deliveries, connections=64)
    assert load.failed == 0
    system.told(requests)
    figures = {"per_s": round(load.per_second), "p50": load.percentile(0.5), "p99": load.percentile(0.99)}
    figures["answered_within_s"] = round(system.settle(PATIENCE + events * 0.3), 1)
    report(record_property, "1", deliveries=len(deliveries), **figures)
    assert events < 1000 or figures["p99"] < 500
    assert system.answers_to(requests, addresses) == [1] * events
    assert system.violations() == []


@pytest.mark.parametrize(
    ("kills", "messages"), [pytest.param(1, 12, id="short"), pytest.param(20, 50, id="long", marks=slow)]
)
def test_2_a_worker_killed_at_any_point_loses_nothing_and_says_nothing_twice(
    system: Processes, kills: int, messages: int, record_property: Any
) -> None:
    """Twilio and Slack can be asked; Meta cannot, and has a test of its own below."""
    rng, longest = random.Random(2), 0.0
    system.model.delay = 0.1
    for _ in range(kills):
        requests, addresses = people(system, messages, ("twilio", "slack"))
        assert set(system.deliver(requests)) == {200}
        time.sleep(rng.uniform(0.0, 0.02 * messages))
        system.kill("awake")
        killed = time.monotonic()
        system.start("awake")
        system.settle()
        longest = max(longest, time.monotonic() - killed)
        assert system.answers_to(requests, addresses) == [1] * messages
    system.model.delay = 0.0
    report(record_property, "2", kills=kills, messages=kills * messages, longest_recovery_s=round(longest, 1))
    assert kills == 1 or longest <= 60
    assert system.violations() == []


@pytest.mark.parametrize("kills", [pytest.param(1, id="short"), pytest.param(20, id="long", marks=slow)])
def test_3_a_web_process_killed_between_commit_and_200(system: Processes, kills: int, record_property: Any) -> None:
    """The bell comes after the commit: while Redis is slow, the row is there and the 200 is not."""
    import threading

    in_between = 0
    for _ in range(kills):
        (request,), addresses = people(system, 1, ("meta",))
        system.proxies["redis"].set("half-open")
        first: list[int | None] = []
        sender = threading.Thread(target=lambda: first.extend(system.deliver([request])))  # noqa: B023
        sender.start()
        system.until(lambda: _stored(system, request.message_id), 10)  # noqa: B023
        system.kill("web")
        sender.join()
        in_between += first == [None]
        system.proxies["redis"].set("pass")
        system.start("web")
        system.insist([request, request])
        system.settle()
        assert system.answers_to([request], addresses) == [1]
    report(record_property, "3", kills=kills, between_commit_and_200=in_between)
    assert in_between >= kills * 0.5, "the kill came too late too often: this test shows nothing"
    assert system.violations() == []


def _stored(system: Processes, key: str) -> bool:
    with psycopg.connect(system.database_url) as connection:
        found = connection.execute("SELECT 1 FROM npllm.inbound_events WHERE external_id = %s", (key,)).fetchone()
    return found is not None


@pytest.mark.parametrize("queued", [pytest.param(20, id="short"), pytest.param(200, id="long", marks=slow)])
def test_4_redis_forgets_everything(system: Processes, queued: int, record_property: Any) -> None:
    system.kill("awake")
    requests, addresses = people(system, queued)
    assert set(system.deliver(requests)) == {200}
    redis.Redis.from_url(_past(system, "REDIS_URL")).flushall()
    system.start("awake")
    took = system.settle()
    report(record_property, "4 FLUSHALL", queued=queued, answered_within_s=round(took, 1))
    assert queued < 200 or took <= 60
    assert system.answers_to(requests, addresses) == [1] * queued
    assert system.violations() == []


@pytest.mark.parametrize(
    ("seconds", "messages"), [pytest.param(3, 15, id="short"), pytest.param(120, 200, id="long", marks=slow)]
)
def test_4_redis_is_down(system: Processes, seconds: int, messages: int, record_property: Any) -> None:
    system.proxies["redis"].set("down")
    requests, addresses = people(system, messages)
    began = time.monotonic()
    assert set(system.deliver(requests)) == {200}, "the bell is not needed to store"
    time.sleep(max(0.0, seconds - (time.monotonic() - began)))
    system.proxies["redis"].set("pass")
    took = system.settle()
    report(record_property, "4 down", seconds=seconds, messages=messages, answered_within_s=round(took, 1))
    assert messages < 200 or took <= 60
    assert system.answers_to(requests, addresses) == [1] * messages
    assert system.violations() == []


@pytest.mark.parametrize(
    ("seconds", "messages"), [pytest.param(3, 15, id="short"), pytest.param(60, 100, id="long", marks=slow)]
)
def test_5_postgres_is_down(system: Processes, seconds: int, messages: int, record_property: Any) -> None:
    before, addresses_before = people(system, messages)
    assert set(system.deliver(before)) == {200}  # some of these are in the middle of their turn
    system.proxies["postgres"].set("down")
    began = time.monotonic()
    during, addresses = people(system, messages)
    assert set(system.deliver(during)) == {503}, "never 200 without a commit"
    time.sleep(max(0.0, seconds - (time.monotonic() - began)))
    system.proxies["postgres"].set("pass")
    returned = time.monotonic()
    system.insist(during)
    system.settle()
    report(record_property, "5", seconds=seconds, answered_within_s=round(time.monotonic() - returned, 1))
    assert system.answers_to(before + during, addresses_before + addresses) == [1] * 2 * messages
    assert system.violations() == []


QUICK = {("redis", "reset"), ("vendors", "reset")}
FAULTS = [
    pytest.param(where, mode, id=f"{where}-{mode}", marks=() if (where, mode) in QUICK else slow)
    for where in ("redis", "postgres", "model", "vendors") for mode in ("slow", "reset", "half-open")
]  # fmt: skip


@pytest.mark.parametrize(("where", "mode"), FAULTS)
def test_6_a_network_that_misbehaves(system: Processes, where: str, mode: Mode, record_property: Any) -> None:
    requests, addresses = people(system, 12, ("twilio", "slack"))
    system.proxies[where].set(mode)
    statuses = system.deliver(requests, timeout=30.0)
    time.sleep(1 if (where, mode) in QUICK else 10)
    system.proxies[where].set("pass")
    healed = time.monotonic()
    system.insist([request for request, status in zip(requests, statuses, strict=True) if status != 200])
    system.settle()
    recovery = time.monotonic() - healed
    fresh, more = people(system, 4, ("twilio", "slack"))
    system.insist(fresh)
    system.settle()  # no thread is left hanging
    report(
        record_property, f"6 {where} {mode}", statuses=sorted(map(str, set(statuses))), recovery_s=round(recovery, 1)
    )
    assert (where, mode) in QUICK or recovery <= 30
    assert system.answers_to(requests + fresh, addresses + more) == [1] * 16
    assert system.violations() == []


@pytest.mark.parametrize("count", [pytest.param(400, id="short"), pytest.param(100_000, id="long", marks=slow)])
def test_7_nothing_forged_gets_in(system: Processes, count: int, record_property: Any) -> None:
    """Many of them are no JSON at all, and are refused as unsigned: they were not parsed."""
    rng = random.Random(7)
    genuine, _ = people(system, 30)
    with psycopg.connect(system.database_url) as connection:
        (before,) = connection.execute("SELECT count(*) FROM npllm.inbound_events").fetchone() or (0,)
    began, wrong = time.monotonic(), 0
    for start in range(0, count, 5_000):
        forged = [_forged(rng, rng.choice(genuine)) for _ in range(min(5_000, count - start))]
        load = beside_any_loop(fire, forged, connections=32)
        wrong += load.requests - load.statuses.get(401, 0)
    with psycopg.connect(system.database_url) as connection:
        (after,) = connection.execute("SELECT count(*) FROM npllm.inbound_events").fetchone() or (0,)
    report(record_property, "7", forged=count, not_refused=wrong, seconds=round(time.monotonic() - began, 1))
    assert (wrong, after) == (0, before)


def _forged(rng: random.Random, request: Signed) -> Signed:
    """One of: cut short, one byte changed, written again, another body, signature of nothing, none at all."""
    import json

    body, headers = request.body, dict(request.headers)
    name = next(name for name in headers if name.endswith(("signature", "signature-256")))
    match rng.randrange(6):
        case 0:
            body = body[: rng.randrange(len(body))]
        case 1:
            place = rng.randrange(len(body))
            body = body[:place] + bytes([body[place] ^ (1 << rng.randrange(7))]) + body[place + 1 :]
        case 2 if body.startswith(b"{"):
            body = json.dumps(json.loads(body), separators=(",", ":")).encode()
        case 2 | 3:
            body = rng.randbytes(rng.randrange(1, 300))
        case 4:
            headers[name] = headers[name][:-4] + "AAA="
        case 5:
            del headers[name]
    # Twilio signs what a form says: %2B and %2b say the same, and that is no forgery.
    texts = [one.decode("latin-1") for one in (body, request.body)]
    if name == "x-twilio-signature":
        texts = [str(parse_qsl(text, keep_blank_values=True)) for text in texts]
    if texts[0] == texts[1] and headers == request.headers:
        del headers[name]
    return replace(request, body=body, headers=headers)


def test_7_a_rotated_secret_is_taken_until_it_is_taken_away(system: Processes) -> None:
    """META_APP_SECRET_PREVIOUS: what Meta still signs with the old one is no forgery."""
    old = system.settings.model_copy(update={"meta_app_secret": SecretStr("old-meta-secret")})
    signed = [traffic.meta_text(old, "Oi", sender=f"+55119{next(_numbers):08d}") for _ in range(20)]
    assert set(system.deliver(signed)) == {200}
    older = system.settings.model_copy(update={"meta_app_secret": SecretStr("older-secret")})
    signed = [traffic.meta_text(older, "Oi", sender=f"+55119{next(_numbers):08d}") for _ in range(20)]
    assert set(system.deliver(signed)) == {401}
    system.settle()


def test_8_what_is_stale_is_refused_and_what_is_replayed_is_answered_once(system: Processes) -> None:
    for seconds in (-301, 315):  # ahead: less by the time that the request is under way
        (request,), addresses = people(system, 1, ("slack",))
        assert system.deliver([_signed_at(system, request, seconds)]) == [401]
        assert system.answers_to([request], addresses) == [0]
    requests, addresses = people(system, 4, ("twilio", "meta"))
    assert set(system.deliver(requests)) == {200}
    system.settle()
    for age in ("1 hour", "8 days"):
        with psycopg.connect(system.database_url) as connection:
            connection.execute(
                "UPDATE npllm.inbound_events SET received_at = received_at - %s::interval,"
                " handled_at = handled_at - %s::interval WHERE external_id = ANY(%s)",
                (age, age, [request.message_id for request in requests]),
            )
        assert set(system.deliver(requests)) == {200}
    system.settle()
    assert system.answers_to(requests, addresses) == [1] * 4
    assert system.violations() == []


@pytest.mark.parametrize("messages", [pytest.param(24, id="short"), pytest.param(600, id="long", marks=slow)])
def test_two_web_and_three_worker_processes_share_the_work(
    system: Processes, messages: int, record_property: Any
) -> None:
    """docs/scale.md. Each event comes to both doors at once; in the middle, one door and one worker are killed."""
    door = _free_port()
    more = (f"web.{door}", "awake.2", "awake.3")
    system.start(*more)
    system.model.delay = 0.1
    try:
        requests, addresses = people(system, messages)
        elsewhere = [replace(one, url=one.url.replace(_address(system), f"127.0.0.1:{door}")) for one in requests]
        half = messages // 2
        both = [pair for pairs in zip(requests[:half], elsewhere[:half], strict=True) for pair in pairs]
        assert set(system.deliver(both)) == {200}
        system.kill("awake.2")
        system.kill(f"web.{door}")
        assert set(system.deliver(requests[half:])) == {200}
        took = system.settle()
        report(record_property, "several processes", messages=messages, settled_after_s=round(took, 1))
        assert system.answers_to(requests, addresses) == [1] * messages
        assert system.violations() == []
    finally:
        system.model.delay = 0.0
        for name in more:
            system.kill(name)
            del system.running[name]


def _address(system: Processes) -> str:
    return str(system.settings.public_base_url).removeprefix("http://")


def _signed_at(system: Processes, request: Signed, seconds: int) -> Signed:
    """Signed by Slack itself, so many seconds from now."""
    import hashlib
    import hmac

    at = str(int(time.time()) + seconds)
    digest = hmac.new(b"slack-secret", f"v0:{at}:".encode() + request.body, hashlib.sha256).hexdigest()
    headers = {**request.headers, "x-slack-request-timestamp": at, "x-slack-signature": f"v0={digest}"}
    return replace(request, headers=headers)


def _past(system: Processes, name: str) -> str:
    """An address past its proxy."""
    proxy = system.proxies["redis"]
    return system.environment[name].replace(f":{proxy.port}", f":{proxy.target}")


def report(record_property: Any, test: str, **figures: Any) -> None:
    """For docs/log.md: shown with `pytest -rA`, and in the JUnit file."""
    line = f"fault test {test}: " + ", ".join(
        f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )
    print(line)  # noqa: T201
    record_property("figures", line)
