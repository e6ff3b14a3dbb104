"""Redacted traces. Their absence or failure never touches a reply.

langchain would trace on its own, unredacted, where LANGSMITH_TRACING is set; `silence_langchain` switches that
off, and what is sent is only what `Tracer.trace` was given.
"""

import logging
import os
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger(__name__)


class Tracer:
    """Sends one run per turn, in the background.

    Args:
        key: without one nothing is ever sent.
        redact: applied to every text before it leaves.
    """

    def __init__(self, *, key: str | None, endpoint: str, project: str, redact: Callable[[str], str]) -> None:
        silence_langchain()
        self.project = project
        self.redact = redact
        self.client: Any = None
        if key:
            from langsmith import Client

            self.client = Client(api_url=endpoint, api_key=key, timeout_ms=5_000, auto_batch_tracing=True)

    def trace(self, context: str, question: str, passages: list[str] | None, answer: str, version: str | None) -> None:
        """One turn. Errors are logged at most as a warning."""
        if self.client is None:
            return
        try:
            now = datetime.now(UTC)
            self.client.create_run(
                id=uuid.uuid4(),
                name="turn",
                run_type="chain",
                project_name=self.project,
                inputs={"question": self.redact(question), "passages": passages or []},
                outputs={"answer": self.redact(answer)},
                extra={"metadata": {"context": context, "version": version}},
                start_time=now,
                end_time=now,
            )
        except Exception as error:
            log.warning("LangSmith got no trace: %s", error)


def silence_langchain() -> None:
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING_V2"):
        os.environ[name] = "false"
