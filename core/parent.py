"""A child that outlives its parent would hold a port and a lease that nobody watches: it ends itself."""

import os
import signal
import threading
import time
from collections.abc import Callable

import psutil

PARENT = "NPLLM_PARENT_PID"


def end_with_parent() -> None:
    """Watch the parent from a thread; when it is gone, ask this process to stop. Only for children of `npllm up`."""
    expected = os.environ.get(PARENT)
    if expected and os.getppid() == int(expected):
        _end_when(lambda: os.getppid() != int(expected))


def end_with(pid: int) -> None:
    """Watch a process that is no parent of this one, say its grandparent."""
    _end_when(lambda: not psutil.pid_exists(pid))


def _end_when(gone: Callable[[], bool]) -> None:
    def watch() -> None:
        while not gone():
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
