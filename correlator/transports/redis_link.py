"""Link: one connection to a Redis or Valkey server, on which nothing is ever sent twice.

redis-py's own client sends a command again when the connection breaks, up to ten times, and a
request that is sent again is done again. Its connections, without the client, cost a coroutine for
each answer. So what is below is on asyncio itself, and on hiredis, which packs and parses.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any, Final, cast

import hiredis
from redis.exceptions import ResponseError

from .redis_server import Server
from .redis_words import reason

__all__ = ["BLOCK", "TIMEOUT", "Link", "checked", "delays", "pack"]

BLOCK: Final = 2.0
"""Seconds that a server waits for something to read, before it answers that there is nothing."""
TIMEOUT: Final = 3.0
"""Seconds in which nothing moves; a server that takes longer counts as lost."""

_NOT_YET: Final = object()


def pack(*command: str | bytes | int) -> bytes:
    """Return a command as it goes over the wire."""
    # Its stub says that it returns anything.
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # and: a tuple of one
    return packed


class Link:
    """A connection that is made when it is first used, and anew after it broke."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = asyncio.Lock()
        self._answers: _Answers | None = None

    async def call(self, *commands: bytes, block: float = 0.0) -> list[Any]:
        """Send commands in one write and return their answers; an error is an answer as well.

        Args:
            commands: what `pack` made.
            block: seconds that the server may wait before it answers.

        Raises:
            ConnectionError: the connection broke, or nothing moved on it for too long. Any of the
                commands may have been carried out or not. Its text holds nothing that was sent.
        """
        async with self._lock:
            try:
                answers = self._answers
                # What came in though nothing was asked is the answer to nothing, maybe of another.
                if answers is None or answers.ended or answers.is_ahead:
                    answers = await self._connect()
                return await answers.to(commands, block + TIMEOUT)
            except BaseException as error:
                # Answers may be left on the way, and the next who asks would get them
                # (CVE-2023-28858, CVE-2023-28859).
                self._drop()
                if isinstance(error, Exception):
                    raise ConnectionError(reason(error)) from None
                raise

    def interrupt(self) -> None:
        """End the exchange that is under way, if there is one, as if it had taken too long."""
        if self._answers is not None:
            self._answers.end(TimeoutError())

    async def close(self) -> None:
        """Disconnect, whatever the server does."""
        self._drop()
        if self._answers is not None:
            await self._answers.lost

    async def _connect(self) -> _Answers:
        """Connect, and be let in. Raises OSError, TimeoutError or ResponseError."""
        self._drop()
        server = self._server
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(TIMEOUT):
            _, self._answers = await loop.create_connection(
                _Answers, server.host, server.port, ssl=server.ssl
            )
        commands = []
        if server.password is not None:
            user = () if server.user is None else (server.user,)
            commands.append(pack("AUTH", *user, server.password))
        if server.database:
            commands.append(pack("SELECT", server.database))
        if commands:
            for answer in await self._answers.to(commands, TIMEOUT):
                if isinstance(answer, Exception):
                    raise answer
        return self._answers

    def _drop(self) -> None:
        # Not closed, which means: as soon as the server has taken what is buffered. One that stalls
        # would hold us up, and get requests then that nobody waits for any more.
        if self._answers is not None:
            self._answers.end(ConnectionAbortedError())


class _Answers(asyncio.Protocol):
    """Takes the answers off a connection, to one exchange at a time.

    Attributes:
        ended: whether the connection is of no use any more.
        lost: done when the loop has closed it, which it does at once.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader(replyError=ResponseError, notEnoughData=_NOT_YET)
        self._transport: asyncio.Transport | None = None
        self._taken: list[Any] = []
        self._missing = 0
        self._all: asyncio.Future[list[Any]] | None = None
        self._heard = 0  # bytes
        self._timer: asyncio.TimerHandle | None = None
        self.ended = False
        self.lost: asyncio.Future[None] = self._loop.create_future()

    async def to(self, commands: list[bytes] | tuple[bytes, ...], patience: float) -> list[Any]:
        """Send commands and return their answers.

        Args:
            commands: what is sent.
            patience: seconds for the answers to begin. After that they may take as long as they
                like, while they keep coming: a large one takes its time on a slow link.
        """
        assert self._transport is not None, "it is connected"
        self._missing = len(commands)
        self._all = self._loop.create_future()
        self._transport.write(b"".join(commands))
        self._wait(patience)
        self._take()  # a server that is full says so before it is asked
        try:
            return await self._all
        finally:
            self._all = None
            if self._timer is not None:
                self._timer.cancel()

    @property
    def is_ahead(self) -> bool:
        """Whether something has come in that nobody asked for."""
        return self._parser.has_data()

    def end(self, error: Exception) -> None:
        """Disconnect, and let whoever waits for answers have that error."""
        if self.ended:
            return
        self.ended = True
        self._taken = []
        if self._all is not None and not self._all.done():
            self._all.set_exception(error)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by class

    def data_received(self, data: bytes) -> None:
        self._heard += len(data)
        self._parser.feed(data)
        if self._all is not None:
            self._take()

    def _take(self) -> None:
        gets, taken = self._parser.gets, self._taken
        try:
            while self._missing:
                answer = gets()
                if answer is _NOT_YET:
                    return
                taken.append(answer)
                self._missing -= 1
        except hiredis.ProtocolError as error:
            self.end(error)
            return
        self._taken = []
        if self._all is not None and not self._all.done():
            self._all.set_result(taken)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(exc if isinstance(exc, OSError) else ConnectionResetError())
        self.lost.set_result(None)

    def _wait(self, seconds: float) -> None:
        assert self._transport is not None, "it is connected"
        seen = self._heard, self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(seconds, self._look, seen)

    def _look(self, seen: tuple[int, int]) -> None:
        """End what has not moved since then."""
        assert self._transport is not None, "it is connected"
        if seen == (self._heard, self._transport.get_write_buffer_size()):
            self.end(TimeoutError())
        else:
            self._wait(TIMEOUT)


def checked(answer: Any) -> Any:
    """Return an answer, unless it is an error other than that a group is there already.

    Raises:
        ConnectionError: it is one. What was to be seen to is not.
    """
    if isinstance(answer, Exception) and not str(answer).startswith("BUSYGROUP"):
        raise ConnectionError(reason(answer))
    return answer


def delays() -> Iterator[float]:
    """Yield the seconds to wait before each attempt to connect again."""
    longest = 0.05
    while True:
        yield longest * random.uniform(0.5, 1)  # noqa: S311  # spreads replicas, hides nothing
        longest = min(2 * longest, 2.0)
