"""Real parts for every test: one Postgres with pgvector and one Redis for the whole run, a fresh database per test.

The database is copied from a migrated template (a fraction of a second); Redis is flushed. Vendors are servers on
loopback (`bot.simulator.vendors`), models are scripted or tiny but real.
"""

import gc
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from sqlalchemy import Engine

from core.db import get_engine
from core.migrate import migrate
from core.settings import Settings, get_settings
from integrations.postgres.embedded import EmbeddedPostgres
from integrations.redis.embedded import EmbeddedRedis

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
TEMPLATE = "template_npllm"


@pytest.fixture(scope="module", autouse=True)
def _set_aside() -> None:
    """What is in memory when a file's tests begin (libraries, all tests) is not looked at again: models and nights
    collect garbage themselves, and each time took up to a second of it."""
    gc.collect()
    gc.freeze()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def free_tcp_port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def reachable_folder() -> Iterator[Path]:
    """A folder that Postgres' unprivileged user can enter, also where the tests run as root."""
    with tempfile.TemporaryDirectory(prefix="npllm-tests-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@pytest.fixture(scope="session")
def postgres(reachable_folder: Path) -> Iterator[EmbeddedPostgres]:
    """The bundled server; quick and unsafe settings, because its data lives as long as the run."""
    server = EmbeddedPostgres(reachable_folder / "postgres", free_port(), "for-tests")
    server.prepare()
    command = [*server.command(), "-c", "fsync=off", "-c", "full_page_writes=off"]
    with _child(command, reachable_folder / "postgres.log", user=server.user):
        _wait(server.ready, "Postgres")
        with _admin(server) as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate(_url(server, TEMPLATE))
        get_engine(_url(server, TEMPLATE)).dispose()
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole systems first: of two processes that share the files (`-n 2`) none is left alone with a long one."""
    items.sort(key=lambda item: "scenarios" not in item.path.parts)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pooler", action="store_true", help="Run behind PgBouncer in transaction mode.")
    parser.addoption("--screenshots", metavar="FOLDER", help="Let browser tests write the pictures of the docs there.")


@pytest.fixture
def database_url(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> Iterator[str]:
    """A migrated, empty database of this test's own; with --pooler, behind PgBouncer."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with _admin(postgres) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    url = _url(postgres, name)
    if request.config.getoption("--pooler"):
        url = f"{request.getfixturevalue('pooler').rsplit('/', 1)[0]}/{name}"
    yield url
    get_engine(url).dispose()
    get_engine.cache_clear()
    with _admin(postgres) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def pooler(postgres: EmbeddedPostgres, reachable_folder: Path) -> Iterator[str]:
    """The address of a PgBouncer in transaction mode before the same server; skips where none is installed."""
    import shutil

    binary = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if binary is None:
        pytest.skip("no pgbouncer on this machine (Debian: apt install pgbouncer)")
    folder, port = reachable_folder / "pgbouncer", free_port()
    folder.mkdir()
    (folder / "users.txt").write_text('"npllm_owner" "for-tests"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={postgres.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {folder}/users.txt\n"
        "pool_mode = transaction\ndefault_pool_size = 4\n"
    )
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    url = f"postgresql://npllm_owner:for-tests@127.0.0.1:{port}/postgres"
    with _child([binary, str(folder / "pgbouncer.ini")], reachable_folder / "pgbouncer.log", user=postgres.user):
        _wait(lambda: _connects(url), "PgBouncer")
        yield url


@pytest.fixture
def engine(database_url: str) -> Engine:
    return get_engine(database_url)


@pytest.fixture(scope="session")
def redis_server(reachable_folder: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(reachable_folder / "redis", free_port(), "for-tests")
    server.prepare()
    with _child(server.command(), reachable_folder / "redis.log"):
        _wait(server.ready, "Redis")
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    redis.Redis.from_url(redis_server.url).flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def tiny_base(reachable_folder: Path) -> Path:
    """A base model that answers in milliseconds (nonsense)."""
    from tiny import write_tiny_base

    folder = reachable_folder / "tiny-base"
    folder.mkdir()
    write_tiny_base(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test reads the developer's environment, `.env` or running system."""
    from core.settings import variable_names

    for name in variable_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NPLLM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings with every channel open, on this test's own database."""
    return make_settings(database_url=database_url, redis_url=redis_url, data_dir=tmp_path / "data")


def make_settings(**values: Any) -> Settings:
    """Every channel open, secrets of no worth."""
    defaults: dict[str, Any] = {
        "session_secret": "session-secret",
        "operator_password": "operator-password",
        "public_base_url": "http://testserver",
        "twilio_account_sid": "AC" + "0" * 32,
        "twilio_auth_token": "twilio-token",
        "twilio_whatsapp_from": "whatsapp:+551140028922",
        "meta_app_secret": "meta-secret",
        "meta_verify_token": "meta-verify",
        "meta_access_token": "meta-access",
        "meta_phone_number_id": "100000000000001",
        "slack_signing_secret": "slack-secret",
        "slack_bot_token": "xoxb-test",
        "lease_seconds": 2.0,
        "holdback_share": 0.0,  # people's ids are random: who is held back would be, too
        "solicited_share": 0.0,
        "debounce_seconds": 0.0,
    }
    return Settings(**{**defaults, **values})


class _child:
    """A server process for the length of a `with`."""

    def __init__(self, command: list[str], log: Path, user: str | None = None) -> None:
        self.command, self.log, self.user = command, log, user

    def __enter__(self) -> None:
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=subprocess.STDOUT, user=self.user, cwd="/" if self.user else None
            )

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(2)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def _wait(ready: Any, name: str, seconds: float = 30.0) -> None:
    import time

    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            pytest.fail(f"{name} did not start.")
        time.sleep(0.05)


def _connects(url: str) -> bool:
    try:
        psycopg.connect(url, prepare_threshold=None, connect_timeout=2).close()
        return True
    except psycopg.OperationalError:
        return False


def _admin(server: EmbeddedPostgres) -> psycopg.Connection[Any]:
    return psycopg.connect(_url(server, "postgres"), autocommit=True)


def _url(server: EmbeddedPostgres, database: str) -> str:
    return server.url.rsplit("/", 1)[0] + f"/{database}"


# Tests may import helpers from this folder by file: there are no packages here (--import-mode=importlib).
sys.path.insert(0, str(Path(__file__).parent / "helpers"))
