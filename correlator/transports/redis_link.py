"""Link: one connection to a Redis or Valkey server, on which nothing is ever sent twice.

redis-py's own client sends a command again when the connection breaks, up to ten times, and a
request that is sent again is done again. So its connections are used here, without its client.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl as tls
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import SplitResult, unquote

from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import ResponseError

from ..checks import check_instance

__all__ = ["BLOCK", "TIMEOUT", "Link", "Server", "checked", "delays", "reason"]

BLOCK: Final = 2.0
"""Seconds that a server waits for something to read, before it answers that there is nothing."""
TIMEOUT: Final = 3.0
"""Seconds for an exchange; a server that takes longer counts as lost."""

_DATABASE = re.compile(r"/?|/[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is, and who asks to be let in."""

    host: str
    port: int
    database: int
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    ssl: tls.SSLContext | None = field(repr=False)

    @classmethod
    def at(cls, url: SplitResult, ssl: tls.SSLContext | None) -> Self:
        """Return the server that a URL names.

        Raises:
            ValueError: it names none, or `ssl` is given and it does not ask for TLS.
            TypeError: `ssl` is no context.
        """
        try:
            port = url.port or 6379
        except ValueError:
            port = 0
        # Without what is there: a password with a slash in it ends up in any of these.
        if not url.hostname or not port:
            raise ValueError("url must name a host, and a port or none, for Redis")
        if url.query or url.fragment or _DATABASE.fullmatch(url.path) is None:
            raise ValueError("url must end with a database's number, or with its host, for Redis")
        if ssl is not None:
            check_instance("ssl", ssl, tls.SSLContext)
        if url.scheme in ("rediss", "valkeys"):
            ssl = tls.create_default_context() if ssl is None else ssl
        elif ssl is not None:
            raise ValueError(f"ssl is for rediss: and valkeys:, not for {url.scheme}:")
        return cls(
            host=url.hostname,
            port=port,
            database=int(url.path.strip("/") or 0),
            user=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
            ssl=ssl,
        )

    def connection(self) -> Connection:
        """Return a connection that is not yet connected."""
        options: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "db": self.database,
            "username": self.user,
            "password": self.password,
            "protocol": 2,  # every server speaks it, and answers are the same on all of them
            "driver_info": None,
            "socket_timeout": None,  # it would be a task a write and a timer an answer
        }
        if self.ssl is None:
            return Connection(**options)
        connection = SSLConnection(**options)
        connection.ssl_context.context = self.ssl  # instead of one that it would make itself
        return connection

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Link:
    """A connection that is made when it is first used, and anew after it broke."""

    def __init__(self, server: Server) -> None:
        self._connection = server.connection()
        self._lock = asyncio.Lock()
        self._timeout: asyncio.Timeout | None = None
        self._transport: asyncio.WriteTransport | None = None

    def pack(self, *command: str | bytes | int) -> bytes:
        """Return a command as it goes over the wire. Raises UnicodeEncodeError."""
        return b"".join(self._connection.pack_command(*command))

    async def call(self, *commands: bytes, block: float = 0.0) -> list[Any]:
        """Send commands in one write and return their answers; an error is an answer as well.

        Args:
            commands: what `pack` made.
            block: seconds that the server may wait before it answers.

        Raises:
            ConnectionError: the connection broke, or the server took too long. Any of the commands
                may have been carried out or not. Its text holds nothing that was sent.
        """
        async with self._lock:
            try:
                async with asyncio.timeout(block + TIMEOUT) as self._timeout:
                    return await self._exchange(commands)
            except Exception as error:
                raise ConnectionError(reason(error)) from None
            finally:
                self._timeout = None

    def interrupt(self) -> None:
        """End the exchange that is under way, if there is one, as if it had taken too long."""
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Disconnect, whatever the server does."""
        await self._drop(nowait=False)

    async def _exchange(self, commands: tuple[bytes, ...]) -> list[Any]:
        connection = self._connection
        try:
            if connection.is_connected and await connection.can_read():
                # Nothing was asked, so it is the end. What is written after that is lost.
                await self._drop()
            await connection.connect_check_health(check_health=False)
            assert connection._writer is not None, "it has just connected"
            self._transport = connection._writer.transport
            await connection.send_packed_command(commands, check_health=False)
            answers = []
            for _ in commands:
                try:
                    answers.append(await connection.read_response())
                except ResponseError as error:
                    answers.append(error.with_traceback(None))  # it would keep this frame
            return answers
        except BaseException:
            # Answers may be left on the way, and the next who asks would get them
            # (CVE-2023-28858, CVE-2023-28859).
            await self._drop()
            raise

    async def _drop(self, *, nowait: bool = True) -> None:
        # redis-py closes, which means: as soon as the server has taken what is buffered. One that
        # stalls would hold us up, and get requests then that nobody waits for any more.
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        await self._connection.disconnect(nowait=nowait)


def checked(answer: Any) -> Any:
    """Return an answer, unless it is an error other than that a group is there already.

    Raises:
        ConnectionError: it is one.
    """
    if isinstance(answer, Exception) and not str(answer).startswith("BUSYGROUP"):
        raise ConnectionError(reason(answer))
    return answer


def reason(error: Exception) -> str:
    """Return what went wrong: kinds of errors alone, for a server may repeat what it was sent."""
    if type(error) is ConnectionError:
        return str(error)  # one of those above
    cause = error.__context__  # redis-py puts its own error over the system's
    return type(cause if isinstance(cause, OSError) else error).__name__


def delays() -> Iterator[float]:
    """Yield the seconds to wait before each attempt to connect again."""
    longest = 0.05
    while True:
        yield longest * random.uniform(0.5, 1)  # noqa: S311  # spreads replicas, hides nothing
        longest = min(2 * longest, 2.0)
