"""Reading a body, of a request or a response, no further than to a bound."""

from __future__ import annotations

from aiohttp import StreamReader

__all__ = ["BodyTooLarge", "read_bounded"]


class BodyTooLarge(ValueError):
    """A body has more bytes than it may have, after decompression."""


async def read_bounded(content: StreamReader, limit: int) -> bytes:
    """Return a body of at most `limit` bytes, as it is after decompression.

    aiohttp decompresses piece by piece as one reads, so a body that unpacks to a thousand times
    its size is given up a piece past the bound.

    Raises:
        BodyTooLarge: there are more bytes. The rest is not read.
    """
    body = bytearray()
    while piece := await content.readany():
        body += piece
        if len(body) > limit:
            raise BodyTooLarge(f"more than {limit} bytes")
    return bytes(body)
