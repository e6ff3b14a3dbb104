"""Which parts the system is made of on one machine, and the settings that `up` makes up for them.

What is set in the environment stands: with DATABASE_URL there is no embedded Postgres, with REDIS_URL no Redis, with
INFERENCE_URL no local base. What is not set is made here once (passwords, ports), kept in the data directory, and
written to `run/environment.json` for every other `npllm` command.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot.up.supervisor import Part
from core.errors import Conflict, SettingError
from core.settings import Settings, load_settings, runtime_file
from integrations.postgres.embedded import EmbeddedPostgres
from integrations.redis.embedded import EmbeddedRedis

MIN_FREE = 500 * 1024 * 1024  # bytes
SIMULATED = {
    "TWILIO_ACCOUNT_SID": lambda: "AC" + secrets.token_hex(16),
    "TWILIO_AUTH_TOKEN": lambda: secrets.token_hex(16),
    "TWILIO_WHATSAPP_FROM": lambda: "whatsapp:+551140028922",
    "META_APP_SECRET": lambda: secrets.token_hex(16),
    "META_VERIFY_TOKEN": lambda: secrets.token_hex(16),
    "META_ACCESS_TOKEN": lambda: secrets.token_hex(16),
    "META_PHONE_NUMBER_ID": lambda: "10" + str(secrets.randbelow(10**13)).zfill(13),
    "SLACK_SIGNING_SECRET": lambda: secrets.token_hex(16),
    "SLACK_BOT_TOKEN": lambda: "xoxb-simulated-" + secrets.token_hex(12),
}


@dataclass
class System:
    """The parts and settings of one data directory.

    Attributes:
        simulated: whether the fake vendors run.
        environment: the settings that were made up.
    """

    settings: Settings
    simulated: bool
    environment: dict[str, str] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.settings.data_dir / "run"

    @property
    def url(self) -> str:
        return f"http://{self.settings.host}:{self.ports['web']}"

    @property
    def ports(self) -> dict[str, int]:
        ports: dict[str, int] = self.made["ports"]
        return ports

    def first_parts(self) -> list[Part]:
        """Ledger and doorbell, where they are ours."""
        parts = []
        if "DATABASE_URL" in self.environment:
            postgres = self._postgres()
            parts.append(
                Part("postgres", postgres.command, postgres.ready, postgres.prepare, user=postgres.user,
                     signals=(signal.SIGINT,), port=postgres.port)
            )  # fmt: skip
        if "REDIS_URL" in self.environment:
            redis = self._redis()
            parts.append(Part("redis", redis.command, redis.ready, redis.prepare, port=redis.port))
        return parts

    def model_part(self) -> Part | None:
        """The model server, while the base or the embedder is local."""
        if not (self.settings.local_base or self.settings.local_embeddings):
            return None
        port = self.ports["model"]
        return self._ours("model", ["model", "--port", str(port)], port=port, path="/health", patience=300.0)

    def other_parts(self) -> list[Part]:
        """Everything that needs the ledger."""
        web = self.ports["web"]
        parts = [self._ours("web", ["web", "--port", str(web)], port=web, path="/healthz")]
        if self.simulated:
            vendors = self.ports["vendors"]
            parts.append(self._ours("vendors", ["vendors", "--port", str(vendors)], port=vendors, path="/healthz"))
        if self.settings.slack_app_token:
            parts.append(self._ours("slack", ["slack"]))
        parts += [self._ours("awake", ["awake"]), self._ours("clock", ["clock"])]
        asleep = self._ours("asleep", ["asleep"])
        asleep.signals = (signal.SIGTERM, signal.SIGTERM)
        return [*parts, asleep]

    def _ours(
        self, name: str, arguments: list[str], *, port: int | None = None, path: str = "", patience: float = 60.0
    ) -> Part:
        command = [sys.executable, "-m", "bot.cli", *arguments]
        ready = (lambda: answers(f"http://{self.settings.host}:{port}{path}")) if port else (lambda: True)
        return Part(name, lambda: command, ready, env=self.environment, patience=patience, port=port)

    def _postgres(self) -> EmbeddedPostgres:
        return EmbeddedPostgres(
            self.settings.data_dir / "postgres", self.ports["postgres"], self.made["postgres_password"]
        )

    def _redis(self) -> EmbeddedRedis:
        return EmbeddedRedis(self.settings.data_dir / "redis", self.ports["redis"], self.made["redis_password"])


def make_system(settings: Settings) -> System:
    """Fill in what is not set, and write it down.

    Raises:
        SettingError: the data directory cannot be used, or PORT is taken.
    """
    folder = settings.data_dir
    prepare_folder(folder)
    made_file = folder / "made.json"
    made = json.loads(made_file.read_text()) if made_file.exists() else {}
    for secret in ("postgres_password", "redis_password", "session_secret", "model_key"):
        made.setdefault(secret, secrets.token_hex(24))
    made.setdefault("operator_password", secrets.token_urlsafe(9))
    made.setdefault("simulated", {name: make() for name, make in SIMULATED.items()})
    made["ports"] = choose_ports(settings, made.get("ports", {}))
    write_private(made_file, json.dumps(made, indent=2))
    system = System(settings, wants_simulator(settings), made=made)
    system.environment = _environment(system)
    write_private(runtime_file(folder), json.dumps(system.environment, indent=2))
    # As every child will read them: what was made up, over what was given.
    fields = {name.lower(): value for name, value in system.environment.items() if name != "NPLLM_DATA_DIR"}
    system.settings = load_settings(running=False, **{**settings.model_dump(exclude_unset=True), **fields})
    return system


def _environment(system: System) -> dict[str, str]:
    """The settings that are not set, as our children and other commands will read them."""
    settings, made, ports = system.settings, system.made, system.ports
    host, vendors = settings.host, f"http://127.0.0.1:{system.ports['vendors']}"
    wanted: dict[str, tuple[Any, str]] = {
        "DATABASE_URL": (settings.database_url, system._postgres().url),
        "REDIS_URL": (settings.redis_url, system._redis().url),
        "SESSION_SECRET": (settings.session_secret, made["session_secret"]),
        "OPERATOR_PASSWORD": (settings.operator_password, made["operator_password"]),
        "LOCAL_MODEL_KEY": (settings.local_model_key, made["model_key"]),
        "PUBLIC_BASE_URL": (settings.public_base_url, system.url),
    }
    environment = {name: value for name, (given, value) in wanted.items() if not given}
    environment["LOCAL_MODEL_URL"] = f"http://{host}:{ports['model']}/v1"
    environment["NPLLM_DATA_DIR"] = str(settings.data_dir)
    if system.simulated:
        environment |= made["simulated"]
        environment |= {
            "TWILIO_API_BASE_URL": vendors,
            "META_GRAPH_BASE_URL": vendors,
            "SLACK_API_BASE_URL": f"{vendors}/api",
        }
    return environment


def wants_simulator(settings: Settings) -> bool:
    """Where SIMULATOR says so; else where no channel of a vendor is set up at all."""
    if settings.simulator != "auto":
        return settings.simulator == "on"
    return not (settings.twilio_auth_token or settings.meta_app_secret or settings.slack_signing_secret)


def prepare_folder(folder: Path) -> None:
    """Make the data directory.

    Raises:
        SettingError: it cannot be made, written to, or is nearly full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711 if os.geteuid() == 0 else 0o700)  # Postgres' user has to pass through
        (folder / "run").mkdir(mode=0o700, exist_ok=True)
        probe = folder / "run" / "probe"
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        raise SettingError(
            f"The data directory {folder} cannot be used: {error.strerror}.", "Set NPLLM_DATA_DIR to a folder of yours."
        ) from None
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE:
        raise SettingError(
            f"Only {free // 2**20} MB are free where {folder} lies; {MIN_FREE // 2**20} MB are needed.",
            "Free some space, or set NPLLM_DATA_DIR to another disk.",
        )


def choose_ports(settings: Settings, earlier: dict[str, int]) -> dict[str, int]:
    """A free port for each part: the one it had, if nobody has taken it meanwhile.

    Raises:
        SettingError: PORT is set and taken, or HOST is no address of this machine.
    """
    ports: dict[str, int] = {}
    with contextlib.ExitStack() as held:
        for name in ("web", "postgres", "redis", "model", "vendors"):
            wish = settings.port if name == "web" and settings.port else earlier.get(name, 0)
            probe = _bind(settings.host, wish)
            if probe is None and name == "web" and settings.port:
                raise SettingError(
                    f"Port {settings.port} is in use on {settings.host}.",
                    "Set PORT to another, or unset it for a free one.",
                )
            probe = probe or _bind(settings.host, 0)
            if probe is None:
                raise SettingError(
                    f"HOST: nothing can listen on '{settings.host}'.", "Set HOST to an IPv4 address of this machine."
                )
            held.enter_context(probe)
            ports[name] = probe.getsockname()[1]
    return ports


def _bind(host: str, port: int) -> socket.socket | None:
    probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
        probe.listen(1)  # a port that another program listens on can be bound, but not listened on
        return probe
    except OSError:
        probe.close()
        return None


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the data directory: one `up` per directory.

    Raises:
        Conflict: another one runs on it.
    """
    prepare_folder(folder)
    with (folder / "run" / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            status = read_status(folder)
            raise Conflict(
                f"npllm already runs on {folder} (process {status.get('pid')}, {status.get('url')}).",
                "Use that one, stop it with Ctrl-C, or set NPLLM_DATA_DIR to another folder.",
            ) from None
        yield


def read_status(folder: Path) -> dict[str, Any]:
    """What a running `up` says of itself; empty if none ever ran there."""
    try:
        status = json.loads((folder / "run" / "status.json").read_text())
        return status if isinstance(status, dict) else {}
    except (OSError, ValueError):
        return {}


def is_running(folder: Path) -> bool:
    """Whether an `up` holds the data directory now."""
    try:
        with (folder / "run" / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(lock, fcntl.LOCK_UN)
        return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def write_private(path: Path, text: str) -> None:
    """Write a file that only we may read, whole or not at all."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    part.replace(path)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
