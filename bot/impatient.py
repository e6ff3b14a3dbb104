"""An HTTP connection that is not held open by a request that never comes: uvicorn has no time-out for that.

The application answers a slow body with 408 (`bot.hooks.read_body`); here the connection is closed whose request line
and headers do not come, or whose body goes on after the answer.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SECONDS = 15.0  # from the connection, or the last answer's end if bytes follow it, to the request's last byte


class ImpatientProtocol(HttpToolsProtocol):
    """For uvicorn's `http` setting."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_request()  # the next request of a kept connection begins
        super().data_received(data)

    def on_message_complete(self) -> None:
        self._expect_nothing()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        self._deadline = self.loop.call_later(SECONDS, self.transport.close)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
