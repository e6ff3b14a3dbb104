"""The awake half as real processes (web, awake, clock), with a fault proxy before everything they talk to.

Ledger and doorbell are the tests' own; model and vendors are servers of this process.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx
from proxy import FaultProxy, proxied
from servers import ScriptedModel, serving

from bot.history import History, Violation, check
from bot.simulator.traffic import Signed
from bot.simulator.vendors import create_vendors
from bot.up.system import answers
from core.db import get_engine, transaction
from core.settings import Settings

T = TypeVar("T")

PATIENCE = 180.0  # seconds, on a machine that has other things to do too; the long tests hold their own limits
PARTS = ("web", "awake", "clock")
SECRETS = {
    "twilio_account_sid": "AC" + "0" * 32, "twilio_auth_token": "twilio-token",
    "twilio_whatsapp_from": "whatsapp:+551140028922", "meta_app_secret": "meta-secret",
    "meta_verify_token": "meta-verify", "meta_access_token": "meta-access", "meta_phone_number_id": "100000000000001",
    "slack_signing_secret": "slack-secret", "slack_bot_token": "xoxb-test", "session_secret": "session-secret",
}  # fmt: skip


class Processes:
    """What runs, and how to break it.

    Attributes:
        proxies: redis, postgres, model, vendors.
        settings: as the processes have them, for signing traffic.
        database_url: past the proxy.
    """

    def __init__(self, folder: Path, environment: dict[str, str], settings: Settings, database_url: str) -> None:
        self.folder, self.environment, self.settings, self.database_url = folder, environment, settings, database_url
        self.proxies: dict[str, FaultProxy] = {}
        self.sent: list[dict[str, Any]] = []
        self.model = ScriptedModel()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.acknowledged: set[tuple[str, str]] = set()

    # Processes --------------------------------------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """`web`, `awake`, `clock`; more of a kind as `web.PORT` (at that port), `awake.2`, `awake.3`."""
        for name in names:
            command, _, which = name.partition(".")
            port = which or str(urlsplit(str(self.settings.public_base_url)).port)
            extra = ["--port", port] if command == "web" else []
            with (self.folder / f"{name}.log").open("ab") as output:
                self.running[name] = subprocess.Popen(
                    [sys.executable, "-m", "bot.cli", command, *extra], env={**os.environ, **self.environment},
                    stdout=output, stderr=subprocess.STDOUT,
                )  # fmt: skip
            if command == "web":
                self.until(lambda: answers(f"http://127.0.0.1:{port}/healthz"), PATIENCE)  # noqa: B023

    def kill(self, name: str) -> None:
        """SIGKILL; nothing is said, nothing is finished."""
        self.running[name].kill()
        self.running[name].wait(10)

    def stop(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            try:
                process.wait(12)
            except subprocess.TimeoutExpired:
                process.kill()

    # Traffic ----------------------------------------------------------------------------------------------------------

    def deliver(self, requests: Sequence[Signed], *, connections: int = 16, timeout: float = 15.0) -> list[int | None]:
        """Each request once; the statuses, None where no answer came. What got a 200 must be on the ledger for ever."""

        async def all_of_them() -> list[int | None]:
            room = asyncio.Semaphore(connections)
            async with httpx.AsyncClient(timeout=timeout) as client:

                async def one(request: Signed) -> int | None:
                    async with room:
                        try:
                            response = await client.post(request.url, content=request.body, headers=request.headers)
                        except httpx.HTTPError:
                            return None
                    return response.status_code

                return await asyncio.gather(*(one(request) for request in requests))

        statuses = beside_any_loop(asyncio.run, all_of_them())
        self.told(request for request, status in zip(requests, statuses, strict=True) if status == 200)
        return statuses

    def told(self, requests: Any) -> None:
        """These were acknowledged."""
        for request in requests:
            source = urlsplit(request.url).path.removeprefix("/hooks/").split("/")[0]
            key = f"msg:T0SIM:{request.message_id}" if source == "slack" else request.message_id
            self.acknowledged.add((source, key))

    def insist(self, requests: Sequence[Signed], *, seconds: float = PATIENCE) -> None:
        """As vendors do: deliver again what was not acknowledged."""
        left = list(requests)
        end = time.monotonic() + seconds
        while left:
            statuses = self.deliver(left)
            left = [request for request, status in zip(left, statuses, strict=True) if status != 200]
            assert time.monotonic() < end, f"{len(left)} were never acknowledged: {set(statuses)}"
            if left:
                time.sleep(0.3)

    # What came of it --------------------------------------------------------------------------------------------------

    def waiting(self) -> int:
        """Messages not handled, and parts not settled; straight from Postgres, past the proxy."""
        history = self.history(settled=True, compare=False)
        return sum(v.rule in ("every message is handled", "everything is sent, or refused on the record")
                   for v in history.violations)  # fmt: skip

    def settle(self, seconds: float = PATIENCE) -> float:
        """Wait until nothing waits; returns how long it took."""
        began = time.monotonic()
        self.until(lambda: self.waiting() == 0, seconds)
        return time.monotonic() - began

    def history(self, *, settled: bool = True, compare: bool = True) -> History:
        with transaction(get_engine(self.database_url)) as session:
            return check(
                session, settled=settled, acknowledged=self.acknowledged if compare else (),
                vendor_log=list(self.sent) if compare else None,
            )  # fmt: skip

    def violations(self) -> list[Violation]:
        """What the history checker finds once it is quiet: a vendor's late status callback is given time to be read."""
        end = time.monotonic() + 10
        while (found := self.history().violations) and time.monotonic() < end:
            time.sleep(0.2)
        return found

    def answers_to(self, requests: Sequence[Signed], addresses: Sequence[str]) -> list[int]:
        """How many answers each of these people got, consent questions left out."""
        wanted = set(addresses)
        counts = dict.fromkeys(addresses, 0)
        for entry in list(self.sent):
            if entry["to"] in wanted and "Posso aprender" not in str(entry["text"]):
                counts[entry["to"]] += 1
        return [counts[address] for address in addresses]

    def until(self, check_: Callable[[], Any], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not check_():
            if time.monotonic() > end:
                logs = "\n".join(f"--- {name}\n{self.tail(name)}" for name in self.running)
                raise AssertionError(f"not within {seconds} s: {self.history(compare=False)}\n{logs}")
            time.sleep(0.1)

    def tail(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-1500:]


@contextmanager
def processes(
    folder: Path, database_url: str, redis_url: str, web_port: int, **environment: str
) -> Iterator[Processes]:
    """Everything started, every proxy passing."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        model = ScriptedModel()
        model.say = lambda *_: "Entregamos em todo o Brasil."
        here: dict[str, Any] = {**SECRETS, "public_base_url": f"http://127.0.0.1:{web_port}", "data_dir": folder}
        vendors = create_vendors(Settings(**here))
        proxies = {
            "redis": stack.enter_context(proxied(_port(redis_url))),
            "postgres": stack.enter_context(proxied(_port(database_url))),
            "model": stack.enter_context(proxied(_port(stack.enter_context(serving(model.app))))),
            "vendors": stack.enter_context(proxied(_port(stack.enter_context(serving(vendors))))),
        }
        outside = f"http://127.0.0.1:{proxies['vendors'].port}"
        inside = f"http://127.0.0.1:{proxies['model'].port}/v1"
        here |= {
            "database_url": _moved(database_url, proxies["postgres"].port),
            "redis_url": _moved(redis_url, proxies["redis"].port),
            "inference_url": inside, "local_model_url": inside, "twilio_api_base_url": outside,
            "meta_graph_base_url": outside, "slack_api_base_url": f"{outside}/api",
        }  # fmt: skip
        variables = {name.upper(): str(value) for name, value in here.items() if name != "data_dir"}
        variables |= {"NPLLM_DATA_DIR": str(folder), "AWAKE_THREADS": "8", **environment}
        found = Processes(folder, variables, Settings(**here), database_url)
        found.proxies, found.model, found.sent = proxies, model, vendors.state.sent
        try:
            found.start(*PARTS)
            yield found
        finally:
            found.stop()


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _moved(url: str, port: int) -> str:
    """The same address at another port of this machine."""
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}" if user else f"127.0.0.1:{port}"))


def beside_any_loop(call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """In a thread of its own: where a browser test ran before, this one has a running loop already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *arguments, **named).result()
