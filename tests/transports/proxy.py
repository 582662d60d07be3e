"""A proxy between a client and a server, for faults of the network that are made on purpose."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from ssl import SSLContext
from typing import Literal, Self

__all__ = ["Proxy"]

_HOST = "127.0.0.1"
_CHUNK = 64 * 1024
_QUEUED = 16  # chunks that wait for their delay to pass

_Way = Literal["up", "down"]  # to the server, and to the client


class Proxy:
    """Passes on what comes to `port` to a server here, and back. An async context manager.

    Args:
        target: the server's port.
        ssl: with it, clients speak TLS, and the server does not see that.

    Attributes:
        port: where it listens, on 127.0.0.1.
    """

    def __init__(self, target: int, *, ssl: SSLContext | None = None) -> None:
        self._target = target
        self._ssl = ssl
        self._delay = 0.0
        self._left: dict[_Way, int | None] = {"up": None, "down": None}
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._refuses = False
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, _HOST, 0, ssl=self._ssl)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        tasks = list(self._connections)
        self.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def __len__(self) -> int:
        """Return how many connections there are."""
        return len(self._connections)

    # -- faults ----------------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset all connections. New ones are let through."""
        for writers in self._connections.values():
            _reset(writers)

    def cut_after(self, count: int, way: _Way | None = None) -> None:
        """Reset all connections once so many more bytes have passed, in mid-frame perhaps.

        Args:
            count: how many, of all connections together.
            way: count those to the server, ``"up"``, or to the client, ``"down"``. By default each
                has its own count, and the first that is through cuts.
        """
        self._left = {each: count if way in (each, None) else None for each in self._left}

    def delay(self, seconds: float) -> None:
        """Let everything take so much longer, each way, from now on."""
        self._delay = seconds

    def freeze(self) -> None:
        """Go silent: connections stay and new ones are taken, but nothing is passed on.

        Nor is anything read, beyond the few hundred kilobytes that wait here.
        """
        self._thawed.clear()

    def thaw(self) -> None:
        """Go on, with what was sent meanwhile."""
        self._thawed.set()

    def refuse(self) -> None:
        """Reset new connections at once. Those that are there stay."""
        self._refuses = True

    def accept(self) -> None:
        """Let new connections through again."""
        self._refuses = False

    # -- passing on ------------------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            _reset([writer])
            return
        writers = [writer]
        task = asyncio.get_running_loop().create_task(self._connect(reader, writers))
        self._connections[task] = writers
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        _reset(self._connections.pop(task))

    async def _connect(
        self, client: asyncio.StreamReader, writers: list[asyncio.StreamWriter]
    ) -> None:
        await self._thawed.wait()
        with suppress(OSError):
            server, writer = await asyncio.open_connection(_HOST, self._target)
            writers.append(writer)
            if writers[0].is_closing():  # it was cut meanwhile
                return
            for each in writers:
                # So that `drain` waits for all of it. At 0, TLS would wait with nothing to wait
                # for: asyncio.sslproto compares with >= what other transports compare with >.
                each.transport.set_write_buffer_limits(high=1, low=0)
            try:
                async with asyncio.TaskGroup() as ways:
                    ways.create_task(self._pass(client, writer, "up"))
                    ways.create_task(self._pass(server, writers[0], "down"))
                while writers:  # both have said all they had to say: no reset here
                    writers.pop().close()
            except* OSError:
                pass

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Way
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._read(reader, queue))
            both.create_task(self._write(queue, writer, way))

    async def _read(
        self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        chunk = b" "
        while chunk:
            await self._thawed.wait()
            chunk = await reader.read(_CHUNK)
            await queue.put((asyncio.get_running_loop().time(), chunk))

    async def _write(
        self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, way: _Way
    ) -> None:
        while True:
            when, chunk = await queue.get()
            await asyncio.sleep(when + self._delay - asyncio.get_running_loop().time())
            await self._thawed.wait()
            if not chunk:
                if not writer.can_write_eof():  # TLS
                    writer.close()
                elif not writer.is_closing():
                    writer.write_eof()
                return
            if writer.is_closing():  # meanwhile: uvloop takes a write for a mistake then
                raise ConnectionResetError
            left = self._left[way]
            if left is not None:
                chunk = chunk[:left]
                self._left[way] = left - len(chunk)
            writer.write(chunk)
            await writer.drain()
            if self._left[way] == 0:
                self._left = {"up": None, "down": None}
                self.cut()
                return


def _reset(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        if not writer.is_closing():
            # Closed with no time to linger, TCP sends RST: see socket(7).
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
