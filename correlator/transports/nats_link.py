"""Link: nats-py's client, with a way past its queues."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult

import nats.errors
from nats.aio.client import Client

from .nats_reader import Reader, Take
from .system_words import system_reason

__all__ = ["PING", "End", "Link", "checked_url", "dial"]

_log = logging.getLogger("correlator")

PING = 5.0  # seconds; two without an answer, and the connection counts as lost
_DIAL = 5.0  # seconds that connecting may take
_PORT = 4222
_SILENCE = 60.0  # seconds in which the same error is not logged again
_AGAIN = 0.25  # seconds between the client's attempts to connect

End = Callable[[], Awaitable[None]]


class Link(Client):
    """A connection to NATS.

    nats-py gives each message to a queue and each queue to a task, and looks at each subject that
    is published. For replies, which only have to be looked up, that is more than all the rest of
    the work; so what is subscribed here is handed over as it comes off the wire, and what is sent
    goes to its buffer as one piece. These are inner names of nats-py (2.16), and a test holds that
    they are there.
    """

    def __init__(self, *, secure: bool) -> None:
        super().__init__()
        self._secure = secure
        self._ps = self._reader = Reader(self)
        self._refused: list[str] = []  # what the server said of subscriptions that it forbids

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # Whoever is in the way may leave that out; the client would go on in clear, password first.
        if initial_connection and self._secure and not info.get("tls_required"):
            raise ConnectionError("it offers no TLS")
        await super()._process_info(info, initial_connection)

    async def _process_err(self, err_msg: str) -> None:
        if "violation for subscription" in err_msg:
            self._refused.append(err_msg)
        await super()._process_err(err_msg)

    async def _attempt_reconnect(self) -> None:
        # The last it does is to set a future, which one attempt that was cancelled for the next
        # shares with that: the second to end finds it done, and would be reported.
        with suppress(asyncio.InvalidStateError):
            await super()._attempt_reconnect()

    async def send(self, commands: list[bytes]) -> None:
        """Send protocol commands, as one write."""
        data = b"".join(commands)
        writer = getattr(self._transport, "_io_writer", None)
        if (
            writer is not None
            and self.is_connected
            and not self._pending
            and not writer.transport.get_write_buffer_size()
        ):
            # Nothing is before it, so it need not wait for the client's flusher, a task.
            writer.write(data)
            return
        await self._send_command(data)
        await self._flush_pending()

    async def ping(self) -> asyncio.Future[bool]:
        """Return a future that is done when the server has seen all that was sent so far.

        `Client.flush` would overtake what is still in the buffer, since it writes its PING past it.
        Do not cancel the future: the client's reader dies of that.
        """
        pong = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        await self.send([b"PING\r\n"])
        return pong

    async def sync(self, timeout: float = PING) -> None:
        """Wait until the server has seen all that was sent so far. Raises TimeoutError."""
        done, _ = await asyncio.wait([await self.ping()], timeout=timeout)
        if not done:
            raise TimeoutError(f"NATS gave no answer in {timeout} s")

    @property
    def has_begun(self) -> bool:
        """Whether it was told to connect: before, it cannot be closed."""
        return self._flush_queue is not None

    def abort(self) -> None:
        """End the connection at once, whatever still waits to be written."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def take(self, subject: str, queue: str, take: Take) -> End:
        """Subscribe, and be sure of it. Returns what ends it. Raises ConnectionError."""
        subscription = await self.subscribe(subject, queue)
        number = b"%d" % subscription._id
        self._reader.takers[number] = take
        await self.sync()
        # The server's own words are in small letters by now: the client's parser does that.
        if any(f'"{subject.lower()}"' in each for each in self._refused):
            del self._reader.takers[number]
            raise ConnectionError(f"NATS does not let this user subscribe to {subject}")

        async def end() -> None:
            with suppress(nats.errors.Error, OSError, TimeoutError):  # gone, and all with it
                await subscription.unsubscribe()
                await self.sync(1)
            self._reader.takers.pop(number, None)

        return end


def checked_url(url: SplitResult) -> SplitResult:
    """Return a URL that names a server. Raises ValueError, which does not quote it."""
    try:
        port = url.port
    except ValueError:
        port = 0
    # Without what is there: a password with a slash in it ends up in any of these.
    if not url.hostname or port == 0 or url.path.strip("/") or url.query or url.fragment:
        raise ValueError("url must name a host, a port or none, and nothing after them, for NATS")
    return url


async def dial(client: Link, url: SplitResult, **options: Any) -> None:
    """Connect a client: it fails at once if nobody is there, but once connected it never gives up.

    Raises:
        ConnectionError: nobody is there, or it refuses us. The message has no secret in it.
    """
    said, again_at = "", 0.0
    last: Exception | None = None

    async def on_error(error: Exception) -> None:
        nonlocal said, again_at, last
        last = error
        # Of its errors only this one tells more by its text than by its class, and no secret.
        denied = "permissions violation" in str(error)
        what = str(error) if denied else type(error).__name__
        now = asyncio.get_running_loop().time()
        if what != said or now >= again_at:  # it tries four times a second
            said, again_at = what, now + _SILENCE
            _log.warning("NATS at %s: %s", url.hostname, what)

    given = {
        "error_cb": on_error,
        "ping_interval": PING,
        "max_outstanding_pings": 2,
        "reconnect_time_wait": _AGAIN,
        "max_reconnect_attempts": 1,
        "allow_reconnect": False,
        "servers": url.geturl(),
        **options,
    }
    try:
        async with asyncio.timeout(_DIAL):
            await client.connect(**given)
    except (OSError, nats.errors.Error, TimeoutError) as error:
        client.abort()  # which it does not do by itself
        why: Exception = error
        if isinstance(error, nats.errors.NoServersError) and last is not None:
            why = last  # the client's own says only that it gave up on the server
        # Without the client's own error, which may hold the URL.
        at = f"{url.hostname}:{url.port or _PORT}"
        raise ConnectionError(f"could not connect to NATS at {at}: {_reason(why)}") from None
    client.options |= {"max_reconnect_attempts": -1, "allow_reconnect": True}


def _reason(error: Exception) -> str:
    """Return what went wrong: no error's own text but ours, for there may be a secret in it."""
    text = str(error).lower()
    if "authorization violation" in text:
        return "it refuses this user, or the password"
    if type(error) is ConnectionError:
        return str(error)  # ours, from above
    return system_reason(error)
