"""Traffic: what goes out over a transport and what comes in, what becomes of it, and how much.

What is sent is put into an outbox, which one task empties once a turn of the loop: what many
callers send in one turn leaves as one write.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Final, Generic, Literal

from typing_extensions import TypeVar

from ..core import Correlator
from ..errors import CorrelatorClosed, NoResponder, RequestRejected
from .message import ERROR_CODE_HEADER, ERROR_HEADER, Message
from .outgoing import Outbox, Outgoing
from .serving import Dropped
from .stats import TransportStats

__all__ = ["Traffic"]

V = TypeVar("V", default=Message)

_log = logging.getLogger("correlator")

_EPOCH = 16  # bytes


class Traffic(ABC, Generic[V]):
    """The part of `Transport` that sends and takes, and keeps the books on it. See there."""

    error_header: ClassVar[str] = ERROR_HEADER
    """The header that says that a reply is an error, and which."""
    error_code_header: ClassVar[str] = ERROR_CODE_HEADER

    def __init__(
        self,
        correlator: Correlator[str, V],
        *,
        replica: str,
        decode: Callable[[Message], V] | None,
    ) -> None:
        self._correlator = correlator
        self._decode = decode
        self.replica: Final = replica
        self.owner: Final = f"{replica}-{secrets.token_hex(_EPOCH)}"
        self._state: Literal["new", "open", "closed"] = "new"
        self._ready = asyncio.Event()
        self._outbox = Outbox()
        self._sending: set[asyncio.Future[bool]] = set()
        self._dropped = Dropped()
        self._sent = self._received = self._malformed = self._forwarded = self._reconnects = 0

    # -- what is there to see ------------------------------------------------------------------

    def stats(self) -> TransportStats:
        """Return the counters of this moment."""
        return TransportStats(
            connected=self._ready.is_set(),
            sent=self._sent,
            received=self._received,
            malformed=self._malformed,
            forwarded=self._forwarded,
            reconnects=self._reconnects,
            expired=self._dropped.expired,
            overflowed=self._dropped.overflowed,
        )

    def __repr__(self) -> str:
        state = "connected" if self._ready.is_set() else self._state
        # Without the URL, which may hold a password, and most of the epoch.
        return f"<{type(self).__name__} {self.owner[:-24]}… {state}>"

    # -- what comes in -------------------------------------------------------------------------

    def _received_reply(self, request_id: str, message: Message) -> None:
        """Settle the request that a reply is for. Never raises."""
        self._received += 1
        headers = message.headers
        code = headers.get(self.error_code_header) if headers else None
        try:
            if code is None and (not headers or self.error_header not in headers):
                decode = self._decode
                # Without one, V is Message.
                reply: Any = message if decode is None else decode(message)
                self._correlator.resolve(request_id, reply)
            else:
                self._reject(request_id, code, message)
        except CorrelatorClosed:
            pass
        except Exception as error:
            self._received_nonsense(error)

    def _reject(self, request_id: str, code: str | None, message: Message) -> None:
        """End a request with the error that its responder answered."""
        # Its text stays in the reply: it is the other side's, and may hold what no log should.
        known = f" {code}" if code and code.isascii() and code.isdigit() and len(code) < 6 else ""
        error = RequestRejected(
            f"the responder answered with an error{known}", request_id=request_id, reply=message
        )
        self._correlator.reject(request_id, error)

    def _received_nonsense(self, error: Exception | str) -> None:
        """A message is malformed: it costs itself, and is counted."""
        self._malformed += 1
        what = error if isinstance(error, str) else type(error).__name__
        _log.warning("%r dropped a malformed message: %s", self, what)

    def _no_responder(self, request_id: str) -> None:
        """The broker says that nobody listens where that request was sent."""
        error = NoResponder("nobody listens at the destination", request_id=request_id)
        self._end(request_id, error)

    def _unsent(self, outgoing: Outgoing, error: Exception) -> None:
        """That could not be sent."""
        if outgoing.sent is not None:
            if not outgoing.sent.done():
                outgoing.sent.set_exception(error)
                outgoing.sent.exception()  # whoever waits gets it; nobody else need to hear of it
            return
        if outgoing.deadline is None:
            _log.warning("%r could not send an answer: %s", self, type(error).__name__)
            return
        self._sent -= 1
        rejected = RequestRejected(
            f"the request could not be sent: {type(error).__name__}",
            request_id=outgoing.request_id,
        )
        rejected.__cause__ = error
        self._end(outgoing.request_id, rejected)

    def _end(self, request_id: str, error: Exception) -> None:
        if self._state == "open" and request_id in self._correlator:
            self._correlator.reject(request_id, error)

    # -- what goes out -------------------------------------------------------------------------

    def _put(self, outgoing: Outgoing) -> None:
        self._check_open()  # also for who had to wait for a place meanwhile
        self._outbox.put(outgoing)

    async def _empty_outbox(self) -> None:
        while self._state == "open":  # clients keep a cancellation to themselves now and then
            await self._outbox.filled()
            await self._ready.wait()
            batch = [out for out in self._outbox.take() if self._is_wanted(out)]
            self._sent += sum(out.deadline is not None for out in batch)
            try:
                await self._write(batch)
            except Exception as error:
                for out in batch:
                    self._unsent(out, error)
                    del out
            del batch  # or it would hold what was sent last for as long as nothing is

    def _is_wanted(self, outgoing: Outgoing) -> bool:
        """Tell whether somebody still waits for what it brings: he may have to wake up yet."""
        if outgoing.deadline is not None:
            return outgoing.request_id in self._correlator
        return outgoing.sent is None or not outgoing.sent.done()

    @abstractmethod
    async def _write(self, batch: list[Outgoing]) -> None:
        """Send a batch, as one write. What it raises is what became of all of the batch.

        Where only one of them cannot be sent, say so with `_unsent`. Tell each `sent` there is.
        """

    def _send(self, address: str, request_id: str, message: Message) -> Coroutine[Any, Any, bool]:
        """Send a reply, and tell whether it reached a place where somebody takes it."""
        return self._send_out(Outgoing(address, request_id, message))

    async def _send_out(self, outgoing: Outgoing) -> bool:
        """Send something else than a request, and tell as `_send` does."""
        sent: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        outgoing.sent = sent
        self._sending.add(sent)
        try:
            self._put(outgoing)
            return await sent
        finally:
            self._sending.discard(sent)
            self._outbox.discard(outgoing)

    def _check_open(self) -> None:
        if self._state != "open":
            raise CorrelatorClosed(
                f"{self!r} is not open: use it inside `async with connect(...) as transport:`"
            )
