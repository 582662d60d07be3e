"""source: what an inspector tells, asked for over HTTP, and why it tells nothing."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeAlias, TypeGuard
from urllib.parse import urlsplit, urlunsplit

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorSSLError,
    ClientError,
    ClientPayloadError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    ServerDisconnectedError,
)
from multidict import CIMultiDict

from ..problems import PROBLEM_TYPE
from .screen import is_number, plain

__all__ = ["Failure", "Snapshot", "Source", "events_of", "parsed"]

Snapshot: TypeAlias = dict[str, Any]

_MAX_EVENT = 2**20  # bytes
_MAX_PROBLEM = 2**14  # bytes
_MAX_DETAIL = 200  # characters
_MAX_NUMBER = 1e15
_MAX_DIGITS = 15
_MAX_ROWS = 1_000  # of what has several; of an inspector's nothing has more than 101
_MAX_DEPTH = 6  # of what nests in a snapshot; an inspector's has 4
_MAX_TEXT = 10_000  # characters; an id has at most 200, where it was asked for a path
_RECONNECT_DELAY = 1.0  # seconds between two attempts to connect
_SNAPSHOT_TAKES = 1.5  # seconds that a snapshot may take: that of the next second is told

_TOO_LONG = "the inspector tells more than a megabyte at once"
_HINTS = {
    200: "it is no inspector",
    401: "it wants credentials: see CORRELATOR_AUTHORIZATION and --header",
    403: "it does not let you look: see CORRELATOR_AUTHORIZATION and --header, and authorize= of "
    "the inspector",
    404: "there is no inspector; its URL ends with where it is mounted: …/inspector",
    500: "it fails, and its own log says why",
}


class Failure(Exception):
    """Why there is nothing to show, in a line that a terminal can be given."""


class Source:
    """Where an inspector is, and how it is asked.

    Args:
        url: where it is mounted.
        headers: sent along, each of them.
        timeout: seconds that one snapshot may take; of a stream, that connecting may take, and then
            each wait for a snapshot.
    """

    def __init__(self, url: str, headers: Iterable[tuple[str, str]], timeout: float) -> None:
        self._url = url.rstrip("/")
        self._headers = CIMultiDict(headers)
        self._timeout = timeout

    def session(self) -> ClientSession:
        """Return a client session, whose timeouts are those of each attempt."""
        return ClientSession(timeout=ClientTimeout(total=None), headers=self._headers)

    async def snapshot(self, session: ClientSession) -> Snapshot:
        """Return one snapshot.

        Raises:
            Failure: there is none.
        """
        async with (
            self._attempt(),
            await self._answer(session, "/snapshot", "application/json") as response,
        ):
            return parsed(await _body_of(response, _MAX_EVENT))

    async def snapshots(self, session: ClientSession) -> AsyncIterator[Snapshot | Failure]:
        """Yield snapshots as they come, and why there is none when there is none.

        Raises:
            Failure: the first attempt has failed already.
        """
        has_begun = False
        while True:
            try:
                async with self._attempt():
                    response = await self._answer(session, "/events", "text/event-stream")
                async with response:
                    events = events_of(response.content.iter_any())
                    while True:
                        async with self._attempt():  # other events do not count, nor comments
                            seen = parsed(await _next_snapshot(events))
                        has_begun = True
                        yield seen
            except Failure as failure:
                if not has_begun:
                    raise
                why = failure
            yield why
            await asyncio.sleep(_RECONNECT_DELAY)

    @asynccontextmanager
    async def _attempt(self) -> AsyncIterator[None]:
        """Limit how long the block takes, and make a Failure of what goes wrong in it."""
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except Failure as failure:
            raise Failure(f"{self._shown}: {failure}") from None
        except (ClientError, OSError, ValueError) as error:
            raise Failure(f"{self._shown}: {self._reason(error)}") from None

    async def _answer(self, session: ClientSession, path: str, content_type: str) -> ClientResponse:
        """Ask, and return the answer if it is one. No redirects: headers may be secret."""
        response = await session.get(self._url + path, allow_redirects=False)
        if response.status == 200 and response.content_type == content_type:
            return response
        async with response:
            why = f"it answered {response.status} {plain(response.content_type)}"
            if response.status in _HINTS:
                why = f"{_HINTS[response.status]}: {why}"
            elif 300 <= response.status < 400:
                to = _without_secrets(response.headers.get("Location", "nowhere"))
                why = f"{why}, which leads to {to}: redirects are not followed"
            detail = await _detail_of(response)
            raise Failure(f"{why}. It says: {detail}" if detail else why)

    @property
    def _shown(self) -> str:
        return _without_secrets(self._url)

    def _reason(self, error: Exception) -> str:
        # Never their own text, which may quote a password or a header.
        match error:
            case TimeoutError():
                why = f"it does not answer within {self._timeout:g} s"
                return (
                    f"{why}; a snapshot takes up to a second"
                    if self._timeout < _SNAPSHOT_TAKES
                    else why
                )
            case ClientConnectorDNSError():
                return "its host is not found: no address is known for that name"
            case ClientConnectorCertificateError(certificate_error=cause):
                verdict = getattr(cause, "verify_message", "it cannot be checked")
                return f"its certificate is not trusted: {plain(verdict)}"
            case ClientConnectorSSLError():
                return "TLS fails: does it speak http:// and not https://?"
            case ServerDisconnectedError():
                return "it has closed the connection without an answer"
            case ClientPayloadError():
                return "its answer breaks off"
            case ClientResponseError():
                return "what it answers is not HTTP"
            case OSError(errno=errno.ECONNREFUSED):
                return "connection refused: nobody listens there"
            case OSError(errno=int(number)):
                return os.strerror(number)
            case ValueError():
                return "no request can be made of that URL and these headers"
        return type(error).__name__


def _without_secrets(url: str) -> str:
    """Return a URL without credentials and query, as text that can be shown."""
    try:
        parts = urlsplit(url)
    except ValueError:  # a server may say that it leads anywhere
        return "no URL"
    host = parts.netloc.rpartition("@")[2]
    return plain(urlunsplit((parts.scheme, host, parts.path, "", ""))[:_MAX_DETAIL])


async def _body_of(response: ClientResponse, most: int) -> bytes:
    """Return the body, or more than `most` bytes of it."""
    body = b""
    while len(body) <= most and (part := await response.content.readany()):
        body += part
    return body


async def _detail_of(response: ClientResponse) -> str:
    """Return what a problem document says, or a plain text that is more than the status."""
    is_plain = response.content_type == "text/plain"
    if not is_plain and response.content_type != PROBLEM_TYPE:
        return ""
    try:
        body = (await _body_of(response, _MAX_PROBLEM))[:_MAX_PROBLEM]
        detail = body.decode(errors="replace") if is_plain else json.loads(body)["detail"]
    except (ClientError, ValueError, LookupError, TypeError, RecursionError):
        return ""
    if not isinstance(detail, str) or detail.startswith(str(response.status)):
        return ""
    return plain(" ".join(detail[:_MAX_DETAIL].split()))


# -- the stream ------------------------------------------------------------------------------------


async def _next_snapshot(events: AsyncIterator[tuple[str, bytes]]) -> bytes:
    async for name, data in events:
        if name == "snapshot":
            return data
    raise Failure("the stream has ended")


async def events_of(parts: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, bytes]]:
    """Yield name and data of each event of a stream, by the HTML standard, section 9.2.

    Raises:
        Failure: an event, or a line, has more than a megabyte.
    """
    unread, name, data, size = b"", "", list[bytes](), 0
    is_cr_last = False  # a line has ended; a line feed that follows belongs to that end
    async for part in parts:
        new = part.removeprefix(b"\n") if is_cr_last else part
        is_cr_last = part.endswith(b"\r")
        ended = (unread + new).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, unread = ended.split(b"\n")
        for line in lines:
            if size + len(line) > _MAX_EVENT:
                raise Failure(_TOO_LONG)
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"event":
                name = value.decode(errors="replace")
            elif field == b"data":
                data.append(value)
                size += len(value) + 1
            elif not line:
                if data:
                    yield name or "message", b"\n".join(data)
                name, data, size = "", [], 0
        if size + len(unread) > _MAX_EVENT:
            raise Failure(_TOO_LONG)


# -- a snapshot ------------------------------------------------------------------------------------


def parsed(data: bytes) -> Snapshot:
    """Return a snapshot whose shape the screen can rely on.

    Of that shape are the dicts, the lists of dicts, the time and how many are pending. What else is
    of a wrong type is shown as nothing, and so are numbers that nothing real has: they are None.

    Raises:
        Failure: it is none, or has more than a megabyte.
    """
    if len(data) > _MAX_EVENT:
        raise Failure(_TOO_LONG)
    try:
        seen = json.loads(
            data, parse_constant=_no_number, parse_float=_real_float, parse_int=_real_int
        )
    except (ValueError, RecursionError):
        seen = None
    if not _is_snapshot(seen):
        raise Failure("what is there is no inspector: it tells nonsense")
    return seen


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _real_float(text: str) -> float | None:
    value = float(text)
    return value if abs(value) <= _MAX_NUMBER else None


def _real_int(text: str) -> int | None:
    return int(text) if len(text) <= _MAX_DIGITS else None  # of many digits Python makes none


def _is_snapshot(seen: Any) -> TypeGuard[Snapshot]:
    return (
        isinstance(seen, dict)
        and _is_bounded(seen, _MAX_DEPTH)
        and all(isinstance(seen.get(name), dict) for name in ("stats", "rates", "latency"))
        and isinstance(seen.get("refusals") or {}, dict)
        and all(_are_rows(seen.get(name)) for name in ("labels", "oldest", "unmatched", "replicas"))
        and all(isinstance(each.get("stats"), dict) for each in seen["replicas"])
        and is_number(seen["stats"].get("pending"))
        and is_number(seen.get("time"))
    )


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _is_bounded(value: Any, depth: int) -> bool:
    """Tell whether nothing in it nests deeper, or is larger than anything an inspector tells.

    What walks through it later needs stack, and what draws it needs time and room.
    """
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT
    if not isinstance(value, dict | list):
        return True
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    return (
        depth > 0
        and len(value) <= _MAX_ROWS
        and all(_is_bounded(each, depth - 1) for each in parts)
    )
