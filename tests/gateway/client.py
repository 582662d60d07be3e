"""Clients of a gateway: a well-behaved one, and one that writes what it likes to a socket."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession
from multidict import CIMultiDict

from .process import Gateway

__all__ = ["Answer", "Client", "chunk", "eventually", "exchange", "job_request"]

SOON = 5.0  # seconds: what has not come by then, on whatever machine, hangs
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)\r\n")


async def eventually(
    condition: Callable[[], Awaitable[object]], what: str, within: float = SOON
) -> None:
    """Ask again and again until it holds, which it must within so many seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while not await condition():
        assert loop.time() < end, f"{what}: not within {within} s"
        await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_constant=_no_constant)

    def is_problem(self, status: int) -> bool:
        """Assert that it is a problem document (RFC 9457) of that status."""
        assert self.status == status, (self.status, self.body[:300])
        assert self.headers["Content-Type"] == "application/problem+json", self
        problem = self.json
        assert problem["status"] == status
        assert problem["type"] == "about:blank"
        assert problem["title"]
        assert problem["detail"]
        return True


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Client:
    """A client that speaks HTTP as it should."""

    def __init__(self, gateway: Gateway, session: ClientSession) -> None:
        self.gateway = gateway
        self._session = session

    async def send(self, method: str, path: str, **options: Any) -> Answer:
        async with (
            asyncio.timeout(30),
            self._session.request(method, self.gateway.url + path, **options) as response,
        ):
            body = await response.read()
            return Answer(response.status, CIMultiDict(response.headers), body)

    async def get(self, path: str) -> Answer:
        return await self.send("GET", path)

    async def job(self, job: object, **headers: str) -> Answer:
        """Post a job; of headers' names the underscores stand for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send("POST", "/v1/jobs", json=job, headers=named)

    async def stats(self) -> dict[str, Any]:
        """Return the counters, which must add up (law 4)."""
        stats = (await self.get("/stats")).json
        ended = ("resolved", "rejected", "timed_out", "cancelled", "closed", "pending")
        assert stats["registered"] == sum(stats[each] for each in ended), stats
        return stats

    async def counters(self) -> dict[str, Any]:
        """Return what changes only if something is registered, settled or matched."""
        stats = await self.stats()
        return {
            name: count for name, count in stats.items() if name not in ("oldest_age", "remembered")
        }

    async def idle(self, within: float = SOON) -> None:
        """Wait until nothing is pending."""

        async def is_idle() -> bool:
            return (await self.stats())["pending"] == 0

        await eventually(is_idle, "nothing pending", within)

    async def pending(self, count: int, within: float = SOON) -> None:
        """Wait until so many are pending."""

        async def are_pending() -> bool:
            return (await self.stats())["pending"] == count

        await eventually(are_pending, f"{count} pending", within)

    @asynccontextmanager
    async def waiting(
        self, count: int, **headers: str
    ) -> AsyncIterator[list[asyncio.Task[Answer]]]:
        """Have so many jobs under way, by clients that leave in the end if they still wait."""
        before = (await self.stats())["pending"]
        tasks = [asyncio.create_task(self.job({"n": n}, **headers)) for n in range(count)]
        try:
            await self.pending(before + count)
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def job_request(
    body: bytes = b"{}",
    *fields: bytes,
    method: bytes = b"POST",
    path: bytes = b"/v1/jobs",
    content_type: bytes = b"application/json",
    sized: bool = True,
) -> bytes:
    """Return the bytes of a request."""
    lines = [
        method + b" " + path + b" HTTP/1.1",
        b"Host: gateway",
        b"Content-Type: " + content_type,
    ]
    if sized:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, *fields, b"", body])


def chunk(data: bytes) -> bytes:
    """Return a chunk of a body (RFC 9112, section 7.1); the empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def exchange(gateway: Gateway, *pieces: bytes, within: float = SOON) -> Answer | None:
    """Write pieces to a connection of their own, with pauses, and return the first response.

    Returns None where the gateway hung up without one. If it does neither in time, it hangs.
    """
    async with asyncio.timeout(within):
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
        try:
            for at, piece in enumerate(pieces):
                if at:
                    await asyncio.sleep(0.05)  # the gateway must have read what was before
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass  # it may answer, and hang up, before it has read everything
        try:
            return await read_answer(reader, has_body=not pieces[0].startswith(b"HEAD "))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        finally:
            writer.transport.abort()


async def read_answer(reader: asyncio.StreamReader, *, has_body: bool = True) -> Answer:
    """Read a response from a connection."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 100 "):
            break
    first, *fields = head.decode().rstrip().split("\r\n")
    length = _LENGTH.search(head)
    body = await reader.readexactly(int(length[1])) if length is not None and has_body else b""
    headers = CIMultiDict(field.split(": ", 1) for field in fields)
    return Answer(int(first.split(" ")[1]), headers, body)
