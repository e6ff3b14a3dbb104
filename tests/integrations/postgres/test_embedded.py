"""The bundled Postgres: a password, loopback only, leftovers ended, a broken start said."""

import subprocess
import time
from pathlib import Path

import psycopg
import pytest

from core.errors import Unavailable
from integrations.postgres.embedded import EmbeddedPostgres, stop_leftover


def test_only_with_the_password(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres.url.replace("for-tests", "guess"), connect_timeout=3)


def test_it_listens_on_loopback_alone(postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.url.rsplit("/", 1)[0] + "/postgres") as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        assert connection.execute("SHOW unix_socket_directories").fetchone() == ("",)


def test_a_server_left_behind_is_ended_before_the_next_start(reachable_folder: Path, free_tcp_port: int) -> None:
    server = EmbeddedPostgres(reachable_folder / "left" / "postgres", free_tcp_port, "secret")
    server.folder.parent.mkdir()
    server.folder.parent.chmod(0o711)
    server.prepare()
    process = subprocess.Popen(server.command(), user=server.user, cwd="/", stderr=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while not server.ready():
        assert time.monotonic() < end
        time.sleep(0.05)
    server.prepare()  # as the next `npllm up` would
    assert process.wait(10) is not None
    assert not server.ready()


def test_no_leftover_is_no_error(tmp_path: Path) -> None:
    stop_leftover(tmp_path)
    (tmp_path / "postmaster.pid").write_text("not a number")
    stop_leftover(tmp_path)


def test_a_cluster_that_cannot_be_made_leaves_nothing_half_written(
    reachable_folder: Path, free_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedPostgres(reachable_folder / "full" / "postgres", free_tcp_port, "secret")
    server.folder.parent.mkdir()
    server.folder.parent.chmod(0o711)

    def no_space(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = arguments[0]
        assert isinstance(command, list)
        if "initdb" in str(command[0]):
            (server.folder / "base").mkdir()
            return subprocess.CompletedProcess(command, 1, "", "initdb: error: No space left on device")
        return original(*arguments, **options)  # type: ignore[call-overload]

    original = subprocess.run
    monkeypatch.setattr(subprocess, "run", no_space)
    with pytest.raises(Unavailable, match="No space left"):
        server.prepare()
    assert list(server.folder.iterdir()) == []
    assert not (server.folder.parent / "postgres.password").exists()
