"""Reading a body, of a request or a response, no further than to a bound."""

from __future__ import annotations

import asyncio

from aiohttp import HttpVersion11, StreamReader, web

from .problems import problem_response

__all__ = ["BodyTooLarge", "answer_expect", "read_bounded"]


class BodyTooLarge(ValueError):
    """A body has more bytes than it may have, after decompression."""


async def read_bounded(content: StreamReader, limit: int, timeout: float | None = None) -> bytes:
    """Return a body of at most `limit` bytes, as it is after decompression.

    aiohttp decompresses piece by piece as one reads, so a body that unpacks to a thousand times
    its size is given up a piece past the bound.

    Args:
        content: where to read it.
        limit: bytes it may have.
        timeout: seconds it may take to arrive; None for ever.

    Raises:
        BodyTooLarge: there are more bytes. The rest is not read.
        TimeoutError: it did not arrive in time.
        aiohttp.ClientPayloadError, aiohttp.web.RequestPayloadError: it is broken or cut off.
    """
    if timeout is None or content.is_eof():  # mostly it is there: a timer would cost more than it
        return await _read(content, limit)
    async with asyncio.timeout(timeout):
        return await _read(content, limit)


async def _read(content: StreamReader, limit: int) -> bytes:
    body = bytearray()
    while piece := await content.readany():
        body += piece
        if len(body) > limit:
            raise BodyTooLarge(f"more than {limit} bytes")
    return bytes(body)


async def answer_expect(request: web.Request) -> web.StreamResponse | None:
    """Answer ``Expect: 100-continue``, and refuse any other expectation with a 417.

    For ``expect_handler`` of a route (RFC 9110, section 10.1.1). aiohttp's own puts what came into
    its answer, and fails where that cannot be put there.
    """
    if request.version < HttpVersion11:
        return None
    if request.headers.get("Expect", "").lower() != "100-continue":
        return problem_response(417, "The only expectation that is met here is 100-continue.")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0
    return None
