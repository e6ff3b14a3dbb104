"""A TCP proxy that misbehaves on demand: what stands between us and Redis, Postgres, a model or a vendor."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

Mode = Literal["pass", "slow", "reset", "half-open", "down"]
LATENCY = 2.0  # seconds, of "slow"


class FaultProxy:
    """Forwards `port` to another port of this machine.

    pass       as if it were not there
    slow       every answer comes LATENCY seconds later
    reset      connections are cut with RST, old ones and new ones
    half-open  connections stand, nothing passes; they are cut when the fault ends (as by a machine that came back)
    down       nobody listens, old connections are cut
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.mode: Mode = "pass"
        self.latency = LATENCY
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._run(self._listen())

    def set(self, mode: Mode, *, latency: float = LATENCY) -> None:
        """Begin a fault, or end it with "pass"."""
        self.latency = latency
        self._run(self._change(mode))

    def close(self) -> None:
        self._run(self._change("down"))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, backlog=256)

    async def _change(self, mode: Mode) -> None:
        before, self.mode = self.mode, mode
        if mode in ("reset", "down") or before == "half-open":
            for writer in list(self._writers):
                _cut(writer)
        if mode == "down" and self._server is not None:
            self._server.close()
            self._server = None
        if mode != "down" and self._server is None:
            await self._listen()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        onward: asyncio.StreamWriter | None = None
        try:
            if self.mode == "reset":
                return
            answers, onward = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(onward)
            pumps = [self._pump(reader, onward, False), self._pump(answers, writer, True)]
            tasks = [asyncio.ensure_future(pump) for pump in pumps]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        except OSError:
            pass
        finally:
            for one in (writer, onward):
                if one is not None:
                    _cut(one) if self.mode in ("reset", "down", "half-open") else one.close()
                    self._writers.discard(one)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                while self.mode == "half-open":
                    await asyncio.sleep(0.05)
                if self.mode == "slow" and is_answer:
                    await asyncio.sleep(self.latency)
                writer.write(data)
                await writer.drain()


def _cut(writer: asyncio.StreamWriter) -> None:
    """RST instead of a polite end."""
    with contextlib.suppress(OSError, ValueError):
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def proxied(target: int) -> Iterator[FaultProxy]:
    proxy = FaultProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
