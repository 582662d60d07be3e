"""Access: who may look at the inspector."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Final

from aiohttp import HttpVersion11, web

__all__ = ["Access", "Authorize"]

Authorize = Callable[[web.Request], bool | Awaitable[bool]]

# What is in the names of headers that proxies put on the requests that they pass on.
_PROXIES_SAY: Final = re.compile(
    r"forwarded|client-ip|connecting-ip|real-ip|external-address|^via$|^x-proxy", re.IGNORECASE
)

_NOT_LOCAL: Final = (
    "Without authorize= the inspector answers only to clients on this machine, which ask for an "
    "address of this machine, and not by way of a proxy."
)


class Access:
    """Decides for each request.

    Args:
        authorize: decides alone, where it is given. Without it whoever is on this machine may look.
    """

    def __init__(self, authorize: Authorize | None) -> None:
        self._authorize = authorize

    async def why_not(self, request: web.Request) -> str | None:
        """Return why that request may not be answered, or None if it may.

        Raises:
            TypeError: `authorize` has returned no bool: what it meant is nothing to guess at.
            Exception: whatever `authorize` raises.
        """
        site = request.headers.get("Sec-Fetch-Site", "none")
        is_visit = request.headers.get("Sec-Fetch-Dest", "document") == "document"
        if site not in ("none", "same-origin") and not is_visit:
            return "Pages of other sites cannot read this."
        if self._authorize is None:
            return None if _is_local(request) else _NOT_LOCAL
        may = self._authorize(request)
        if isawaitable(may):
            may = await may
        if not isinstance(may, bool):
            raise TypeError(f"authorize must return a bool, not one of {type(may).__name__}")
        return None if may else "You may not see this."


def _is_local(request: web.Request) -> bool:
    """Tell whether both ends are on this machine, and the client means to talk to it.

    The last is what keeps out a page of somewhere else whose name was made to lead here (DNS
    rebinding). Behind a proxy everybody comes from this machine, so then nobody may: most proxies
    say that they are one, and of the others many speak HTTP/1.0 (nginx long did, if it was not
    told otherwise), which no browser does.
    """
    transport = request.transport
    if (
        transport is None
        or request.version < HttpVersion11
        or any(map(_PROXIES_SAY.search, request.headers))
    ):
        return False
    ends = [transport.get_extra_info(end) for end in ("sockname", "peername")]
    return _is_loopback_name(request.host) and all(
        isinstance(end, tuple) and _is_loopback(end[0]) for end in ends
    )


def _is_loopback_name(host: str) -> bool:
    name = re.sub(r":[0-9]+\Z", "", host).removeprefix("[").removesuffix("]")
    return name.lower() == "localhost" or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
