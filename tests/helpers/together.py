"""Things that happen at once, or a little later."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def in_threads(work: Callable[[int], Any], count: int) -> list[Any]:
    """Run `work(0)` to `work(count - 1)` from the same moment on; the first exception is raised."""
    barrier = threading.Barrier(count)

    def one(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def eventually(check: Callable[[], Any], seconds: float = 15.0) -> Any:
    """The first true thing that `check` returns; fails where none comes in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{check} did not come true within {seconds} s")
