"""Says in words why a server could not be reached, by the system's error."""

from __future__ import annotations

import errno
import socket
import ssl as tls
from typing import Any, Final

__all__ = ["system_reason"]

# In this order: some are kinds of others.
_ERRORS: Final[tuple[tuple[Any, str], ...]] = (
    (socket.gaierror, "there is no host of that name"),
    (ConnectionRefusedError, "nobody listens there"),
    (tls.SSLCertVerificationError, "its certificate is not valid here"),
    (tls.SSLError, "it does not speak TLS as we do"),
    (TimeoutError, "no answer in time"),
    ((ConnectionResetError, BrokenPipeError), "the connection was closed"),
)


def system_reason(error: Exception) -> str:
    """Return what went wrong: never an error's own text, which may hold what was sent."""
    if f"[Errno {errno.ECONNREFUSED}]" in str(error):  # asyncio's, of several addresses
        error = ConnectionRefusedError()
    name = type(error).__name__
    words = next((words for kind, words in _ERRORS if isinstance(error, kind)), "")
    return f"{words} ({name})" if words else name
