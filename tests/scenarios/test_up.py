"""The whole system as its operator starts it: `npllm up` with a tiny base, killed in parts, stopped, started again."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bot.up.system import read_status

pytestmark = pytest.mark.timeout(240)


class Up:
    """`npllm up` on one data directory."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "NPLLM_DATA_DIR": str(folder), "BASE_MODEL": str(base), "AWAKE_THREADS": "4",
                    "DEBOUNCE_SECONDS": "0"}  # fmt: skip
        self.log = folder.parent / "up.log"

    def begin(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bot.cli", "up"], env=self.env, stdout=output, stderr=subprocess.STDOUT
            )

    def start(self) -> None:
        self.begin()
        end = time.monotonic() + 120
        while b"npllm runs at" not in self.log.read_bytes():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)

    def run(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "bot.cli", *arguments], env=self.env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("status", "--json"))
        return found

    def stop(self, wish: signal.Signals = signal.SIGINT) -> list[int]:
        """Ctrl-C, or what `kill` sends; returns processes that are left."""
        everyone = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(wish)
        self.process.wait(60)
        self.log.write_bytes(b"")
        return [child.pid for child in everyone if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def up(tiny_base: Path) -> Iterator[Up]:
    with tempfile.TemporaryDirectory(prefix="npllm-up-", dir="/var/tmp") as name:
        Path(name).chmod(0o711)
        system = Up(Path(name) / "data", tiny_base)
        yield system
        if system.process.poll() is None:
            system.stop()


def test_up_answers_survives_crashes_stops_clean_and_finds_its_data_again(up: Up) -> None:
    up.start()
    status = up.status()
    assert {"postgres", "redis", "model", "web", "vendors", "awake", "clock", "asleep"} == set(status["processes"])
    assert all(process["state"] == "running" for process in status["processes"].values())
    assert status["data_dir"] == str(up.folder)

    reply = json.loads(up.run("simulate", "meta", "--text", "Quanto custa?", "--wait", "60", "--json"))
    assert reply["accepted"] == 1
    assert reply["replies"][0]["text"]

    assert "already runs on" in up.run("up", code=1)

    ports = {name: process["port"] for name, process in status["processes"].items()}
    for name in ("postgres", "redis", "web", "awake", "asleep"):
        os.kill(status["processes"][name]["pid"], signal.SIGKILL)
    end = time.monotonic() + 60
    while True:
        now = read_status(up.folder)["processes"]  # what `npllm status` prints
        if all(p["state"] == "running" for p in now.values()) and now["postgres"]["restarts"] == 1:
            break
        assert time.monotonic() < end, now
        time.sleep(0.1)
    assert {name: process["port"] for name, process in now.items()} == ports
    assert [now[name]["restarts"] for name in ("postgres", "redis", "web", "awake", "asleep")] == [1] * 5
    up.run("simulate", "twilio", "--text", "Ainda está aí?", "--wait", "60")

    before = [json.loads(line) for line in up.run("events", "list", "--json").splitlines()]
    assert up.stop() == []
    assert "Nothing runs" in up.run("status", code=1)

    up.start()
    after = [json.loads(line) for line in up.run("events", "list", "--json").splitlines()]
    assert after[: len(before)] == before
    assert {"interaction.received", "reply.sent"} <= {event["type"] for event in after}
    up.run("doctor")
    assert up.stop() == []


@pytest.mark.parametrize("sign", ["postgres.new", "postgres/postmaster.pid"])  # the cluster is being made; it starts
def test_up_that_is_ended_while_it_starts_leaves_nothing_behind(up: Up, sign: str) -> None:
    up.begin()
    end = time.monotonic() + 60
    while not (up.folder / sign).exists():
        assert up.process.poll() is None and time.monotonic() < end, up.log.read_text()
        time.sleep(0.02)
    assert up.stop(signal.SIGTERM) == []
    assert not (up.folder / sign).exists()
    assert "Nothing runs" in up.run("status", code=1)


def test_a_bench_that_is_ended_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bot.cli", "bench", "router", "--calls", "100000"]
    with (tmp_path / "log").open("wb") as output:
        bench = subprocess.Popen(command, env={**os.environ, "NPLLM_DATA_DIR": str(tmp_path)}, stderr=output)
    end = time.monotonic() + 90
    folders: list[str] = []
    while not folders:
        assert bench.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.1)
        everyone = psutil.Process(bench.pid).children(recursive=True)
        lines = [child.as_dict(["cmdline"], ad_value=[])["cmdline"] for child in everyone]
        folders = [line[line.index("-D") + 1] for line in lines if "-D" in line]
    folder = Path(folders[0]).parent
    assert folder.exists()
    bench.terminate()
    bench.wait(60)
    assert not [child for child in everyone if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not folder.exists()
