"""The bundled Postgres: a password, loopback only, leftovers ended, a broken start said."""

import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from core.errors import Unavailable
from integrations.postgres import embedded
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


@pytest.fixture
def fresh(reachable_folder: Path, free_tcp_port: int) -> EmbeddedPostgres:
    """A server whose cluster is not made yet."""
    place = Path(tempfile.mkdtemp(dir=reachable_folder))
    place.chmod(0o711)
    return EmbeddedPostgres(place / "postgres", free_tcp_port, "secret")


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt])
def test_a_cluster_that_was_not_made_to_its_end_leaves_nothing_half_written(
    fresh: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, ending: type[BaseException] | None
) -> None:
    def half(command: list[str], user: str | None) -> subprocess.CompletedProcess[str]:
        assert "initdb" in command[0]
        (Path(command[command.index("-D") + 1]) / "PG_VERSION").write_text("18")
        if ending:
            raise ending
        return subprocess.CompletedProcess(command, 1, "", "initdb: error: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_run", half)
        with pytest.raises(ending or Unavailable, match=None if ending else "No space left"):
            fresh.prepare()
    assert [path.name for path in fresh.folder.parent.iterdir() if path.name != "postgres-server"] == ["postgres"]
    assert list(fresh.folder.iterdir()) == []
    fresh.prepare()
    assert (fresh.folder / "PG_VERSION").exists()


def test_what_a_killed_start_left_beside_it_is_made_anew(fresh: EmbeddedPostgres) -> None:
    half = fresh.folder.with_name("postgres.new")
    half.mkdir()
    (half / "PG_VERSION").write_text("18")
    fresh.prepare()
    assert not half.exists()
    assert (fresh.folder / "global").is_dir()


def test_a_folder_of_something_else_is_left_alone(fresh: EmbeddedPostgres) -> None:
    fresh.folder.mkdir()
    (fresh.folder / "letters.txt").write_text("mine")
    with pytest.raises(Unavailable, match="no Postgres cluster"):
        fresh.prepare()
    assert (fresh.folder / "letters.txt").read_text() == "mine"
