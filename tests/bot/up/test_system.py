"""What `up` makes up, keeps, and refuses."""

import json
import os
import socket
from pathlib import Path

import pytest

from bot.up.system import choose_ports, is_running, make_system, only_one, prepare_folder, wants_simulator
from core.errors import Conflict, SettingError
from core.settings import Settings, load_settings, runtime_file
from integrations.postgres.embedded import check_reachable


def here(tmp_path: Path, **values: object) -> Settings:
    return Settings(data_dir=tmp_path / "data", **values)  # type: ignore[arg-type]


def test_secrets_and_ports_are_kept(tmp_path: Path) -> None:
    first = make_system(here(tmp_path))
    second = make_system(here(tmp_path))
    assert first.made == second.made
    assert (tmp_path / "data" / "made.json").stat().st_mode & 0o077 == 0
    assert runtime_file(tmp_path / "data").stat().st_mode & 0o077 == 0


def test_no_two_installations_share_a_secret(tmp_path: Path) -> None:
    one, other = make_system(here(tmp_path / "a")), make_system(here(tmp_path / "b"))
    for name in ("session_secret", "operator_password", "postgres_password"):
        assert one.made[name] != other.made[name]
    assert one.environment["TWILIO_AUTH_TOKEN"] != other.environment["TWILIO_AUTH_TOKEN"]


def test_what_is_set_stands(tmp_path: Path) -> None:
    system = make_system(here(tmp_path, database_url="postgresql://u:p@127.0.0.1/x", session_secret="mine"))
    assert "DATABASE_URL" not in system.environment
    assert "SESSION_SECRET" not in system.environment
    assert [part.name for part in system.first_parts()] == ["redis"]


def test_a_real_channel_switches_the_simulator_off(tmp_path: Path) -> None:
    assert wants_simulator(here(tmp_path))
    assert not wants_simulator(here(tmp_path, meta_app_secret="secret"))
    assert wants_simulator(here(tmp_path, meta_app_secret="secret", simulator="on"))
    system = make_system(here(tmp_path, meta_app_secret="secret"))
    assert "TWILIO_AUTH_TOKEN" not in system.environment  # an unset secret closes a door; it never opens it
    assert not system.settings.twilio_open


def test_without_a_local_base_and_embedder_no_model_process(tmp_path: Path) -> None:
    system = make_system(here(tmp_path, inference_url="http://127.0.0.1:9/v1", embedding_model="openai:text-embedding"))
    assert system.model_part() is None
    assert make_system(here(tmp_path, inference_url="http://127.0.0.1:9/v1")).model_part() is not None


def test_other_commands_find_the_running_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = make_system(here(tmp_path))
    monkeypatch.setenv("NPLLM_DATA_DIR", str(tmp_path / "data"))
    assert load_settings().database_url == system.environment["DATABASE_URL"]
    monkeypatch.setenv("DATABASE_URL", "postgresql://other")
    assert load_settings().database_url == "postgresql://other"
    assert load_settings(running=False).redis_url is None


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=f"Port {port} is in use"):
            make_system(here(tmp_path, port=port))


@pytest.mark.parametrize("host", ["no such host", "203.0.113.9", "::1"])
def test_an_address_that_is_not_ours_is_named(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingError, match="HOST"):
        choose_ports(here(tmp_path, host=host), {})


def test_an_earlier_port_is_taken_again_if_it_is_free(tmp_path: Path) -> None:
    ports = choose_ports(here(tmp_path), {})
    assert choose_ports(here(tmp_path), ports) == ports
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports["redis"]))
        taken.listen()
        again = choose_ports(here(tmp_path), ports)
    assert again["redis"] != ports["redis"]
    assert again["web"] == ports["web"]


def test_one_up_per_data_directory(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    prepare_folder(folder)
    (folder / "run" / "status.json").write_text(json.dumps({"pid": 1, "url": "http://there"}))
    assert not is_running(folder)
    with only_one(folder):
        assert is_running(folder)
        with pytest.raises(Conflict, match="http://there"), only_one(folder):
            pass
    assert not is_running(folder)


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingError, match="NPLLM_DATA_DIR"):
        prepare_folder(tmp_path / "file" / "data")


def test_a_nearly_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("bot.up.system.shutil.disk_usage", lambda _: usage(10**9, 10**9 - 1, 1))
    with pytest.raises(SettingError, match="Free some space"):
        prepare_folder(tmp_path / "data")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_a_folder_that_postgres_user_cannot_reach_is_named(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    with pytest.raises(SettingError, match="may not enter"):
        check_reachable(locked / "data", "nobody")
