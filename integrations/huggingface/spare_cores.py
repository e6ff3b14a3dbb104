"""How many threads a product may use right now: as many as there are cores that nobody else needs.

With two threads a product is cut in two halves, and each of a step's hundreds of products waits for the slower half. On
idle cores that is nearly twice as fast. With another busy process on one of them, that half waits for its time slice at
every product, and a step takes five to ten times as long as with one thread, even where the other process is niced.
So the number is not set once, but follows what the others use.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import psutil

_WINDOW_S = 0.2  # the system counts in hundredths of a second
_TOLERATED = 0.25  # of a core: the system's own small work


class SpareCores:
    """Watches the machine; cheap enough to be asked before every step.

    Args:
        most: never more than this.
    """

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self._cores = available_cores()
        self._lent = 0
        self._lock = threading.Lock()
        self._at, self._busy, self._own = self._read()
        self._others = float(self._cores)  # until it is known otherwise

    @contextlib.contextmanager
    def lend(self) -> Iterator[None]:
        """One core is used by another thread of this process meanwhile."""
        with self._lock:
            self._lent += 1
        try:
            yield
        finally:
            with self._lock:
                self._lent -= 1

    def now(self) -> int:
        """Threads to use for the next step, 1 at least."""
        if self._most == 1:
            return 1
        if time.monotonic() - self._at >= _WINDOW_S:
            self._look()
        return max(1, min(self._most, int(self._cores - self._others + _TOLERATED) - self._lent))

    def _look(self) -> None:
        at, busy, own = self._read()
        self._others = max(0.0, (busy - self._busy) - (own - self._own)) / (at - self._at)
        self._at, self._busy, self._own = at, busy, own

    def _read(self) -> tuple[float, float, float]:
        """Now, seconds of work of all cores, seconds of work of this process."""
        times = psutil.cpu_times()
        working = ("user", "nice", "system", "irq", "softirq", "steal")
        return time.monotonic(), sum(getattr(times, name, 0.0) for name in working), time.process_time()


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
