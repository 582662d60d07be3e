"""Reader: splits what NATS sends into messages, and hands ours over as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

__all__ = ["Reader", "Take"]

_TURN = 50  # messages taken in one turn of the loop: a flood holds up nobody else
_CRLF = b"\r\n"
# What a message's first line begins with, and how many words it has: one more with a reply subject.
_WORDS = {b"MSG": 4, b"HMSG": 5}

Take = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Gets a message: its subject, its reply subject or nothing, its body, its headers or None."""


class Reader(Parser):
    """What the client reads with. Messages for takers never get to its own parser.

    That one matches up to seven patterns and awaits a coroutine for each message, which is more
    than all the rest of the work for a reply. It gets everything else, a frame at a time. It also
    takes for the end of a subject what the server allows in one, a vertical tab, and hangs up:
    here only spaces are the end of anything.

    Attributes:
        takers: who takes the messages of a subscription, by its number as it stands on the wire.
            What they raise ends the connection.
    """

    def __init__(self, client: Any) -> None:
        self.takers: dict[bytes, Take] = {}
        self._left = _TURN
        super().__init__(client)

    def reset(self) -> None:
        """Forget what was read so far: there is a new connection."""
        super().reset()
        self._unread = bytearray()
        self._awaited = 0  # bytes of the frame that `_unread` begins with, where it is for a taker

    async def parse(self, data: bytes = b"") -> None:
        """Take what came from the server. Raises ProtocolError where that is no protocol."""
        self._unread += data
        # What is unread is there and nowhere else: `reset` may come whenever something is awaited.
        while self._unread and len(self._unread) >= self._awaited:
            if self.state == AWAITING_CONTROL_LINE:
                taken, self._awaited = self._take(bytes(self._unread))
                del self._unread[:taken]
                if not self._left:
                    self._left = _TURN
                    await asyncio.sleep(0)
                    continue
                if self._awaited:
                    continue
                size = self._unread.find(b"\n") + 1
                if not size:
                    return
            else:
                size = self.needed + len(_CRLF) - len(self.buf)
            frame = bytes(self._unread[:size])
            del self._unread[:size]
            await super().parse(frame)

    def _take(self, data: bytes) -> tuple[int, int]:
        """Hand over the messages that `data` begins with, as many as are left in this turn.

        Returns:
            How many bytes they were, and how many the next has in all if it is for a taker.
        """
        takers = self.takers
        start = 0
        while self._left:
            end = data.find(_CRLF, start)
            if end < 0:
                break
            words = data[start:end].split(b" ")
            least = _WORDS.get(words[0])
            if least is None or not least <= len(words) <= least + 1:
                break
            take = takers.get(words[2])
            if take is None or not words[-1].isdigit():
                break
            body = end + len(_CRLF)
            stop = body + int(words[-1])
            if len(data) < stop + len(_CRLF):
                return start, stop + len(_CRLF) - start
            reply = words[3] if len(words) > least else b""
            headers = None
            if least == _WORDS[b"HMSG"]:
                if not words[-2].isdigit():
                    break
                head, body = body, body + int(words[-2])
                headers = data[head:body]
            self._left -= 1
            start = stop + len(_CRLF)
            take(words[1], reply, data[body:stop], headers)
        return start, 0
