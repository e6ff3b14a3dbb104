"""Redacted traces. Their absence or failure never touches a reply.

langchain would trace on its own, unredacted, where LANGSMITH_TRACING is set; `silence_langchain` switches that
off, and what is sent is only what `Tracer.trace` was given.
"""

import logging
import os
import queue
import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger(__name__)

MAX_WAITING = 1_000  # traces


class Tracer:
    """Sends one run per turn, in the background.

    Args:
        key: without one nothing is ever sent.
        redact: makes what is applied to a turn's texts before they leave, of the names its person is known by.
    """

    def __init__(
        self, *, key: str | None, endpoint: str, project: str, redact: Callable[[Sequence[str]], Callable[[str], str]]
    ) -> None:
        silence_langchain()
        self.project = project
        self.redact = redact
        self.client: Any = None
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue(MAX_WAITING)
        if key:
            from langsmith import Client

            self.client = Client(api_url=endpoint, api_key=key, timeout_ms=5_000, auto_batch_tracing=True)
            # The client asks the server about itself before its first run, and waits for it: not in a turn's thread.
            threading.Thread(target=self._send, name="langsmith", daemon=True).start()

    def trace(
        self, context: str, question: str, passages: list[str] | None, answer: str, version: str | None,
        names: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """One turn. It is sent in the background, and dropped where LangSmith is too slow to take it."""
        if self.client is None:
            return
        at, redact = datetime.now(UTC), self.redact(names)
        run = {
            "id": uuid.uuid4(), "name": "turn", "run_type": "chain", "project_name": self.project,
            "inputs": {"question": redact(question), "passages": passages or []},
            "outputs": {"answer": redact(answer)},
            "extra": {"metadata": {"context": context, "version": version}}, "start_time": at, "end_time": at,
        }  # fmt: skip
        try:
            self._waiting.put_nowait(run)
        except queue.Full:
            log.warning("LangSmith does not keep up: a trace was dropped.")

    def flush(self) -> None:
        """Wait until everything was handed over; for tests."""
        self._waiting.join()
        if self.client is not None:
            self.client.flush()

    def _send(self) -> None:
        while True:
            run = self._waiting.get()
            try:
                self.client.create_run(**run)
            except Exception as error:
                log.warning("LangSmith got no trace: %s", error)
            finally:
                self._waiting.task_done()


def silence_langchain() -> None:
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING_V2"):
        os.environ[name] = "false"
