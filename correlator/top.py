"""top: what an inspector tells, in a terminal."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    InvalidURL,
    NonHttpUrlClientError,
)
from rich.console import Console, Group
from rich.live import Live

from .topscreen import line_of, screen_of

__all__ = ["Failure", "events_of", "run"]

Snapshot: TypeAlias = dict[str, Any]

_MAX_EVENT = 2**20  # bytes
_HISTORY = 120  # snapshots
_AGAIN = 1.0  # seconds between two attempts to connect


class Failure(Exception):
    """Why there is nothing to show, in a line."""


def run(url: str, *, headers: Mapping[str, str], once: bool, as_json: bool, timeout: float) -> None:
    """Show what the inspector at `url` tells, until Ctrl-C, or once.

    Raises:
        Failure: it tells nothing.
    """
    source = _Source(url, headers, timeout)
    console = Console(highlight=False)
    if once or as_json or not console.is_terminal:
        asyncio.run(_print(source, console, once=once, as_json=as_json))
    else:
        asyncio.run(_watch(source, console))


async def _print(source: _Source, console: Console, *, once: bool, as_json: bool) -> None:
    async with source.session() as session:
        if once:
            seen = await source.snapshot(session)
            if as_json:
                print(json.dumps(seen))
            else:
                width = console.width if console.is_terminal else None
                console.print(Group(*screen_of(seen, width=width)), soft_wrap=True)
            return
        async for told in source.snapshots(session):
            if isinstance(told, str):
                print(f"correlator top: {told}", file=sys.stderr, flush=True)
            else:
                print(json.dumps(told) if as_json else line_of(told), flush=True)


async def _watch(source: _Source, console: Console) -> None:
    history: deque[Snapshot] = deque(maxlen=_HISTORY)
    told: str | None = "connecting …"
    last_at = time.monotonic()

    def screen() -> Any:
        said = told
        if said is not None and history:
            said = f"stale, last heard {time.monotonic() - last_at:.0f} s ago: {said}"
        seen = history[-1] if history else None
        width, height = console.size
        return Group(*screen_of(seen, list(history), said, width=width, height=height))

    async with source.session() as session:
        with Live(
            get_renderable=screen,
            console=console,
            screen=True,
            refresh_per_second=2,
            transient=True,
        ):
            async for each in source.snapshots(session):
                if isinstance(each, str):
                    told = each
                else:
                    told, last_at = None, time.monotonic()
                    history.append(each)


class _Source:
    """Where the inspector is, and how it is asked."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        self._url = url.rstrip("/")
        self._headers = headers
        self._timeout = timeout

    def session(self) -> ClientSession:
        """Return a client session. Redirects are not followed: headers may be secret."""
        timeout = ClientTimeout(total=None, connect=self._timeout, sock_read=self._timeout)
        return ClientSession(timeout=timeout, headers=self._headers)

    async def snapshot(self, session: ClientSession) -> Snapshot:
        """Return one snapshot."""
        async with self._answer(session, "/snapshot", "application/json") as response:
            body = await response.content.read(_MAX_EVENT + 1)
            while not response.content.at_eof() and len(body) <= _MAX_EVENT:
                body += await response.content.read(_MAX_EVENT)
        return _parsed(body)

    async def snapshots(self, session: ClientSession) -> AsyncIterator[Snapshot | str]:
        """Yield snapshots as they come, and why there is none when there is none.

        Raises:
            Failure: the first attempt has failed already.
        """
        has_begun = False
        while True:
            try:
                async with self._answer(session, "/events", "text/event-stream") as response:
                    async for name, data in events_of(response.content.iter_any()):
                        if name == "snapshot":
                            has_begun = True
                            yield _parsed(data)
                why = "the stream has ended"
            except Failure as failure:
                if not has_begun:
                    raise
                why = str(failure)
            yield why
            await asyncio.sleep(_AGAIN)

    @asynccontextmanager
    async def _answer(
        self, session: ClientSession, path: str, content_type: str
    ) -> AsyncIterator[ClientResponse]:
        """Ask, and give what is answered, for the length of the block. Raises Failure."""
        try:
            async with session.get(self._url + path, allow_redirects=False) as response:
                self._check(response, content_type)
                yield response
        except (ClientError, OSError, ValueError) as error:
            raise Failure(f"{self._shown}: {_reason(error)}") from None

    def _check(self, response: ClientResponse, content_type: str) -> None:
        if response.status == 200 and response.content_type == content_type:
            return
        why = {
            401: "it wants credentials: see --header",
            403: "it does not let you look: see --header, and authorize= of the inspector",
            404: "there is no inspector; its URL ends with where it is mounted: …/inspector",
            503: "too many look already, or it is shutting down",
        }.get(response.status, f"it answered {response.status} {response.content_type}")
        raise Failure(f"{self._shown}: {why}")

    @property
    def _shown(self) -> str:
        """The URL without what may be secret."""
        scheme, _, rest = self._url.partition("://")
        where = rest.rpartition("@")[2].partition("?")[0]
        return f"{scheme}://{where}" if rest else "the URL"


def _parsed(data: bytes) -> Snapshot:
    if len(data) > _MAX_EVENT:
        raise Failure("the inspector tells more than a megabyte at once")
    try:
        seen = json.loads(data)
        for number in (seen["stats"]["pending"], seen["time"]):
            float(number)
        for name in ("rates", "latency"):
            dict(seen[name])
        for name in ("labels", "oldest", "unmatched", "replicas"):
            list(seen[name])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Failure("what is there is no inspector: it tells nonsense") from None
    return dict(seen)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    # Their own text may quote a password.
    if isinstance(error, InvalidURL | NonHttpUrlClientError | ValueError):
        return "it must begin with http:// or https://, and name a host"
    if isinstance(error, ClientConnectorError):
        return str(error).partition(" [")[0]
    return type(error).__name__


async def events_of(parts: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, bytes]]:
    """Yield name and data of each event of a stream, by the HTML standard, section 9.2.

    Raises:
        Failure: an event has more than a megabyte.
    """
    unread, name, data = b"", "message", list[bytes]()
    async for part in parts:
        *lines, unread = (unread + part).replace(b"\r\n", b"\n").split(b"\n")
        if len(unread) + sum(map(len, data)) > _MAX_EVENT:
            raise Failure("the inspector tells more than a megabyte at once")
        for line in lines:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"event":
                name = value.decode(errors="replace")
            elif field == b"data":
                data.append(value)
            elif not line:
                if data:
                    yield name, b"\n".join(data)
                name, data = "message", []
