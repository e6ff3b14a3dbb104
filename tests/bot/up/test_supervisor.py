"""Child processes: started, watched, restarted, stopped; none is left behind."""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bot.up.supervisor import Part, Supervisor
from core.errors import Unavailable

SLEEPER = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
SERVER = """
import http.server, sys
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def part(name: str, code: str, *arguments: str, ready: Callable[[], bool] = lambda: True, **options: object) -> Part:
    return Part(name, lambda: [sys.executable, "-c", code, *arguments], ready, **options)  # type: ignore[arg-type]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path / "logs", tmp_path / "status.json", {"url": "http://here"})
    yield made
    made.stop()


@pytest.fixture
def watching(supervisor: Supervisor) -> Iterator[list[str]]:
    """The supervisor watches in a thread; what it says is collected."""
    said: list[str] = []
    stop = threading.Event()
    thread = threading.Thread(target=supervisor.watch, args=(stop.is_set, said.append))
    thread.start()
    yield said
    stop.set()
    thread.join()


def status(supervisor: Supervisor) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(supervisor.status_file.read_text())["processes"]
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


def wait_until(happened: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> Callable[[], bool]:
    def ask() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    return ask


def test_status_tells_pid_state_and_restarts(supervisor: Supervisor) -> None:
    one = part("one", SLEEPER)
    supervisor.launch(one)
    supervisor.wait_for(one)
    facts = status(supervisor)["one"]
    assert facts["state"] == "running"
    assert facts["restarts"] == 0
    assert alive(int(str(facts["pid"])))
    assert supervisor.status_file.stat().st_mode & 0o077 == 0


def test_a_killed_part_comes_back_on_its_port(supervisor: Supervisor, watching: list[str]) -> None:
    port = free_port()
    server = part("server", SERVER, str(port), ready=answers(port), port=port)
    supervisor.launch(server)
    supervisor.wait_for(server)
    first = status(supervisor)["server"]["pid"]
    os.kill(int(str(first)), signal.SIGKILL)
    wait_until(lambda: status(supervisor)["server"]["restarts"] == 1)
    wait_until(lambda: status(supervisor)["server"]["state"] == "running")
    assert answers(port)()
    assert status(supervisor)["server"]["pid"] != first
    assert any("SIGKILL" in line for line in watching)
    wait_until(lambda: "server is back" in watching)


def test_a_part_that_always_ends_is_started_ever_more_slowly(supervisor: Supervisor, watching: list[str]) -> None:
    supervisor.launch(part("broken", "raise SystemExit(7)"))
    wait_until(lambda: sum("exit status 7" in line for line in watching) >= 3, seconds=15)
    assert "in 0.5 s" in watching[1]
    assert "in 1.0 s" in watching[2]


def test_a_part_that_ends_at_once_is_an_error_with_its_log(supervisor: Supervisor) -> None:
    broken = part("broken", "import sys; sys.exit('no such thing')", ready=lambda: False)
    supervisor.launch(broken)
    with pytest.raises(Unavailable, match="no such thing"):
        supervisor.wait_for(broken)


def test_a_part_that_is_never_ready_is_an_error(supervisor: Supervisor) -> None:
    slow = part("slow", SLEEPER, ready=lambda: False, patience=0.3)
    supervisor.launch(slow)
    with pytest.raises(Unavailable, match="not ready after"):
        supervisor.wait_for(slow)


def test_stop_ends_everything_also_what_will_not_listen(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor.launch(part("first", SLEEPER))
    supervisor.launch(part("second", SLEEPER), part("stubborn", STUBBORN))
    time.sleep(0.5)
    pids = [int(str(facts["pid"])) for facts in (p.facts() for p in supervisor.parts)]
    original = supervisor._end
    monkeypatch.setattr(supervisor, "_end", lambda parts, patience=1.0: original(parts, patience))
    supervisor.stop()
    assert not any(alive(pid) for pid in pids)
    assert {facts["state"] for facts in status(supervisor).values()} == {"stopped"}


def test_parts_started_later_end_first(supervisor: Supervisor, tmp_path: Path) -> None:
    note = f"""
import signal, sys, time
def bye(*_):
    open({str(tmp_path / "order")!r}, 'a').write(sys.argv[1] + ' ')
    sys.exit()
signal.signal(signal.SIGTERM, bye)
print('up', flush=True)
time.sleep(600)
"""
    supervisor.launch(part("ledger", note, "ledger"))
    supervisor.launch(part("web", note, "web"))
    wait_until(lambda: all("up" in supervisor.tail(p) for p in supervisor.parts))
    supervisor.stop()
    assert (tmp_path / "order").read_text() == "web ledger "


def test_a_preparation_that_fails_is_tried_again(supervisor: Supervisor, watching: list[str]) -> None:
    tries: list[int] = []

    def prepare() -> None:
        tries.append(1)
        if len(tries) == 2:
            raise Unavailable("not yet")

    one = part("one", SLEEPER, prepare=prepare)
    supervisor.launch(one)
    supervisor.wait_for(one)
    assert one.process is not None
    one.process.kill()
    wait_until(lambda: len(tries) >= 3)
    wait_until(lambda: status(supervisor)["one"]["state"] == "running")
