"""A child that outlives its parent would hold a port and a lease that nobody watches: it ends itself."""

import os
import signal
import threading
import time

PARENT = "NPLLM_PARENT_PID"


def end_with_parent() -> None:
    """Watch the parent from a thread; when it is gone, ask this process to stop. Only for children of `npllm up`."""
    expected = os.environ.get(PARENT)
    if not expected or os.getppid() != int(expected):
        return

    def watch() -> None:
        while os.getppid() == int(expected):
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
