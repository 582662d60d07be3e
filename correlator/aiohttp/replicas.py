"""Replicas: what the inspectors of one service tell each other, so that all stand side by side."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, fields
from typing import Any, Final, Protocol

from ..checks import check_owner
from ..core import Correlator
from ..errors import CorrelationError
from ..stats import CorrelatorStats

__all__ = ["Connect", "Replicas"]

_log = logging.getLogger("correlator")

_ASK = 0.25  # seconds between two questions to the others, while somebody looks
_FORGET = 30.0  # seconds after which a replica that was not seen is taken for gone
_MAX_REPLICAS = 100
_MAX_ANSWER = 4_096  # bytes
_FIELDS: Final = tuple(field.name for field in fields(CorrelatorStats))


class _Reply(Protocol):
    @property
    def body(self) -> bytes: ...


class _Link(Protocol):
    """What is used of a transport."""

    @property
    def owner(self) -> str: ...

    async def request(self, destination: str, body: bytes, *, timeout: float) -> Any: ...

    def serve(
        self, destination: str, handler: Callable[[Any], Awaitable[bytes]]
    ) -> AbstractAsyncContextManager[None]: ...


Connect = Callable[[Correlator[str, Any]], AbstractAsyncContextManager[Any]]


class Replicas:
    """This replica and the others, found by asking a destination that all of them serve.

    Args:
        correlator: what this replica tells of.
        connect: makes the link to the others, out of a correlator of its own.
    """

    def __init__(self, correlator: Correlator[Any, Any], connect: Connect) -> None:
        self._correlator = correlator
        self._connect = connect
        self._link: _Link | None = None
        # The others, by owner: when each was heard last, on the loop's clock, and what it said.
        self._others: dict[str, tuple[float, dict[str, float]]] = {}
        self._destination = f"correlator.inspector.{_part_for(correlator.name)}"

    @property
    def owner(self) -> str | None:
        """This replica, while there is a link."""
        return None if self._link is None else self._link.owner

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[None]:
        """Answer the others, and be able to ask them, for the length of the block."""
        async with (
            Correlator[str, Any](timeout=1.0, name="inspector") as own,
            self._connect(own) as link,
        ):
            self._link = link
            try:
                async with link.serve(self._destination, self._answer):
                    yield
            finally:
                self._link = None

    async def ask(self) -> None:
        """Ask whichever replica the broker picks, again and again: in a while each has answered.

        So nobody needs to know who there is.
        """
        while self._link is not None:
            await asyncio.sleep(_ASK)
            try:
                reply: _Reply = await self._link.request(self._destination, b"", timeout=1.0)
                self._hear(reply.body)
            except CorrelationError:
                continue  # the next may be there
            except Exception as error:  # nonsense, or a link that is broken: the next may be better
                _log.warning("the inspector got no answer: %s", type(error).__name__)

    def rows(self, stats: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what is known of each replica: of this one, which comes first, `stats`."""
        if self._link is None:
            return []
        now = asyncio.get_running_loop().time()
        self._others = {
            owner: heard for owner, heard in self._others.items() if now - heard[0] <= _FORGET
        }
        others = [
            {"owner": owner, "seen_ago": round(now - when, 1), "stats": told}
            for owner, (when, told) in sorted(self._others.items())
            if owner != self._link.owner
        ]
        return [{"owner": self._link.owner, "seen_ago": 0.0, "stats": stats}, *others]

    async def _answer(self, _message: Any) -> bytes:
        assert self._link is not None, "it serves for as long as there is a link"
        told = {"owner": self._link.owner, "stats": asdict(self._correlator.stats())}
        return json.dumps(told).encode()

    def _hear(self, answer: bytes) -> None:
        """Keep what a replica says: anybody on the broker may have said it."""
        if len(answer) > _MAX_ANSWER:
            raise ValueError("longer than any replica's")
        told = json.loads(answer)
        owner, stats = check_owner(told["owner"]), dict(told["stats"])
        # A replica of another release may have other fields.
        stats = {name: _number(stats[name]) for name in _FIELDS if name in stats}
        if owner in self._others or len(self._others) < _MAX_REPLICAS:
            self._others[owner] = (asyncio.get_running_loop().time(), stats)


def _part_for(name: str) -> str:
    """Return what stands for a correlator's name in a destination, for each name another."""
    part = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]
    if part == name:
        return part
    digest = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()
    return f"{part}.{digest[:12]}"


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("no number")
    return value
