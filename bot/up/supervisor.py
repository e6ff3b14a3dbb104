"""Start, watch, restart and stop child processes; `status.json` always tells what runs.

A child that ends is started again on the same port, at once the first time, later with growing pauses. Children
are leaders of their own process groups: Ctrl-C reaches the supervisor alone, which then stops them in reverse order.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click

from core.errors import Unavailable
from core.parent import PARENT

State = Literal["starting", "running", "restarting", "stopped"]
MAX_LOG = 20 * 1024 * 1024  # bytes; an older log is kept beside it once
STEADY = 30.0  # seconds of running after which the next crash counts as the first again


@dataclass
class Part:
    """One child process.

    Attributes:
        ready: whether it does its work; asked until it says so (its own start-up is `patience` seconds at most).
        prepare: run before every start.
        user: run as this user (Postgres under root).
        signals: sent one after another, a little apart, to stop it.
    """

    name: str
    command: Callable[[], Sequence[str]]
    ready: Callable[[], bool]
    prepare: Callable[[], None] = lambda: None
    env: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    signals: tuple[signal.Signals, ...] = (signal.SIGTERM,)
    patience: float = 60.0
    port: int | None = None

    process: subprocess.Popen[bytes] | None = None
    state: State = "stopped"
    restarts: int = 0
    started_at: float = 0.0
    start_again_at: float = 0.0
    failures: int = 0
    asked_at: float = 0.0

    def facts(self) -> dict[str, Any]:
        pid = self.process.pid if self.process and self.process.poll() is None else None
        return {"pid": pid, "state": self.state, "restarts": self.restarts, "port": self.port}


class Supervisor:
    """Keeps parts running until told to stop.

    Args:
        status_file: written whole at every change, `facts` included.
    """

    def __init__(self, logs: Path, status_file: Path, facts: dict[str, Any]) -> None:
        self.logs = logs
        self.status_file = status_file
        self.facts = facts
        self.parts: list[Part] = []
        self.groups: list[tuple[Part, ...]] = []
        logs.mkdir(parents=True, exist_ok=True)

    def launch(self, *parts: Part) -> None:
        """Start parts without waiting for them."""
        self.groups.append(parts)
        for part in parts:
            self.parts.append(part)
            self._spawn(part)

    def wait_for(self, *parts: Part) -> None:
        """Wait until parts do their work.

        Raises:
            Unavailable: one ended, or was not ready in time; the message shows the end of its log.
        """
        for part in parts:
            end = time.monotonic() + part.patience
            while not part.ready():
                ended = part.process is not None and part.process.poll() is not None
                if ended or time.monotonic() > end:
                    what = "ended at once" if ended else f"was not ready after {part.patience:.0f} seconds"
                    raise Unavailable(f"{part.name} {what}:\n{self.tail(part)}", f"Its log: {self._log(part)}")
                time.sleep(0.05)
            part.state = "running"
        self.write_status()

    def watch(self, stopping: Callable[[], bool], say: Callable[[str], None] = click.echo) -> None:
        """Restart what ends, until `stopping` says so."""
        while not stopping():
            for part in self.parts:
                self._look_after(part, say)
            time.sleep(0.25)

    def stop(self) -> None:
        """End all parts, those started last first (parts started together end together); nothing is left behind."""
        for group in reversed(self.groups):
            self._end(group)
        self.write_status()

    def tail(self, part: Part, lines: int = 12) -> str:
        try:
            return "\n".join(self._log(part).read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def write_status(self) -> None:
        status = {**self.facts, "processes": {part.name: part.facts() for part in self.parts}}
        part_file = self.status_file.with_suffix(".part")
        part_file.touch(mode=0o600)
        part_file.write_text(json.dumps(status, indent=2))
        part_file.replace(self.status_file)

    def _look_after(self, part: Part, say: Callable[[str], None]) -> None:
        now = time.monotonic()
        if part.state == "restarting":
            if now >= part.start_again_at:
                with contextlib.suppress(Unavailable):  # its preparation failed: the next look tries again
                    self._spawn(part)
                    part.restarts += 1
                    self.write_status()
            return
        if part.process is None or part.process.poll() is not None:
            code = part.process.returncode if part.process else None
            part.failures = 1 if now - part.started_at > STEADY else part.failures + 1
            pause = 0.0 if part.failures == 1 else min(10.0, 0.5 * 2 ** (part.failures - 2))
            part.state, part.start_again_at = "restarting", now + pause
            say(f"{part.name} ended ({_how(code)}); starting it again" + (f" in {pause:.1f} s" if pause else ""))
            self.write_status()
        elif part.state == "starting" and now - part.asked_at > 0.5:
            part.asked_at = now
            if part.ready():
                part.state = "running"
                say(f"{part.name} is back")
                self.write_status()

    def _spawn(self, part: Part) -> None:
        part.prepare()
        log = self._log(part)
        if log.exists() and log.stat().st_size > MAX_LOG:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            part.process = subprocess.Popen(
                list(part.command()),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **part.env, PARENT: str(os.getpid())},
                user=part.user,
                group=_group_of(part.user),
                extra_groups=[] if part.user else None,
                start_new_session=True,
                cwd="/" if part.user else None,
            )
        part.state, part.started_at = "starting", time.monotonic()

    def _end(self, parts: Sequence[Part], patience: float = 10.0) -> None:
        alive = [part for part in parts if part.process is not None and part.process.poll() is None]
        for number in range(max((len(part.signals) for part in alive), default=0)):
            if number:
                time.sleep(1.2)  # RQ takes a second signal for a second wish only after a second
            for part in alive:
                if number < len(part.signals) and part.process is not None:
                    with contextlib.suppress(ProcessLookupError):
                        part.process.send_signal(part.signals[number])
        end = time.monotonic() + patience
        for part in alive:
            assert part.process is not None
            try:
                part.process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(part.process.pid, signal.SIGKILL)
                part.process.wait(5)
        for part in parts:
            part.state = "stopped"

    def _log(self, part: Part) -> Path:
        return self.logs / f"{part.name}.log"


def _group_of(user: str | None) -> int | None:
    if user is None:
        return None
    import pwd

    return pwd.getpwnam(user).pw_gid


def _how(code: int | None) -> str:
    if code is None:
        return "never started"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
