"""The awake half for tests: real Postgres and Redis, a scripted model, fake vendors, all on loopback.

One database serves all tests of this folder and is emptied before each: that takes a hundredth of a second, making
a new one half of one.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
from servers import ScriptedModel, serving
from street import Street

from bot import jobs, wiring
from bot.simulator.vendors import create_vendors
from bot.wiring import Awake
from core.db import get_engine
from core.settings import Settings
from core.tables import Base
from integrations.postgres.embedded import EmbeddedPostgres

TEMPLATE = "template_npllm"
NOWHERE = "http://127.0.0.1:9"  # the port "discard": nobody listens, and the refusal is immediate

_EMPTY = (
    "UPDATE npllm.contexts SET champion_id = NULL, language = 'pt', overrides = '{}', frozen_reason = NULL,"
    " watched_since = NULL;"
) + "".join(
    f"DELETE FROM {table.fullname};" for table in reversed(Base.metadata.sorted_tables) if table.name != "contexts"
)


@pytest.fixture(scope="session")
def shared_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    base = postgres.url.rsplit("/", 1)[0]
    with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE awake_tests TEMPLATE {TEMPLATE}")
    yield f"{base}/awake_tests"
    with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
        connection.execute("DROP DATABASE awake_tests WITH (FORCE)")


@pytest.fixture
def database_url(request: pytest.FixtureRequest, shared_database_url: str) -> Iterator[str]:
    """The folder's database, emptied; with --pooler, behind PgBouncer."""
    with psycopg.connect(shared_database_url, autocommit=True) as connection:
        connection.execute(_EMPTY)
    url = shared_database_url
    if request.config.getoption("--pooler"):
        url = f"{request.getfixturevalue('pooler').rsplit('/', 1)[0]}/awake_tests"
    yield url
    get_engine(url).dispose()
    get_engine.cache_clear()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Every channel open; nothing of it leaves the machine."""
    return settings.model_copy(update={"public_base_url": NOWHERE})


# The model ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _model_server() -> Iterator[tuple[ScriptedModel, str]]:
    model = ScriptedModel()
    with serving(model.app) as url:
        yield model, url


@pytest.fixture
def model(_model_server: tuple[ScriptedModel, str]) -> ScriptedModel:
    """What it was told in an earlier test is forgotten."""
    _model_server[0].forget()
    return _model_server[0]


# The vendors ----------------------------------------------------------------------------------------------------------


class _Revolving:
    """An ASGI application that stands for whichever one is current. One HTTP client serves them all.

    Making one takes longer than most tests: it is made when something is first asked of it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def become(self, make: Callable[[], Any]) -> None:
        self._make, self._made = make, None

    @property
    def current(self) -> Any:
        with self._lock:
            self._made = self._made or self._make()
            return self._made

    client: httpx.AsyncClient | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.client = self.client or httpx.AsyncClient(timeout=2.0)
        self.current.state.client = self.client
        await self.current(scope, receive, send)


class Vendors:
    """What the fake vendors were sent, and how they misbehave."""

    def __init__(self, url: str, revolving: _Revolving) -> None:
        self.url, self._revolving = url, revolving

    @property
    def sent(self) -> list[dict[str, Any]]:
        return self._revolving.current.state.sent

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What else was asked of Slack."""
        return self._revolving.current.state.calls

    def fault(self, vendor: str, kind: str, **facts: Any) -> None:
        httpx.post(f"{self.url}/_faults", json={"vendor": vendor, "kind": kind, "times": 1, **facts})

    def texts(self) -> list[str]:
        return [str(entry["text"]) for entry in self.sent]


@pytest.fixture(scope="session")
def _vendor_server() -> Iterator[tuple[_Revolving, str]]:
    revolving = _Revolving()
    with serving(revolving) as url:
        yield revolving, url


@pytest.fixture
def vendors(_vendor_server: tuple[_Revolving, str], settings: Settings) -> Vendors:
    revolving, url = _vendor_server
    revolving.become(lambda: create_vendors(settings))
    return Vendors(url, revolving)


# All of it together ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _addresses(_model_server: tuple[ScriptedModel, str], _vendor_server: tuple[_Revolving, str]) -> dict[str, str]:
    model, vendors = f"{_model_server[1]}/v1", _vendor_server[1]
    return {
        "inference_url": model, "local_model_url": model, "twilio_api_base_url": vendors,
        "meta_graph_base_url": vendors, "slack_api_base_url": f"{vendors}/api",
    }  # fmt: skip


@pytest.fixture(scope="session")
def _clients() -> dict[str, Any]:
    """The vendors' clients, made once: each of them reads the machine's certificates."""
    return {}


@pytest.fixture
def awake(
    settings: Settings, model: ScriptedModel, vendors: Vendors, _addresses: dict[str, str], _clients: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Awake]:  # fmt: skip
    """The parts of an awake process, as jobs find them."""
    if not _clients:
        _clients.update(wiring.vendor_clients(settings.model_copy(update=_addresses)))
    _clients["twilio"].contents.forget()  # the fake vendors are new
    monkeypatch.setattr(wiring, "vendor_clients", lambda _: dict(_clients))
    built = wiring.build(settings.model_copy(update=_addresses))
    monkeypatch.setattr(jobs, "get_awake", lambda: built)
    yield built
    built.typists.shutdown()
    built.engine.dispose()
    built.redis.close()


@pytest.fixture
def street(awake: Awake) -> Street:
    """People who write to us."""
    return Street(awake)
