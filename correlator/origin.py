"""Origin: the line of user code from which a call came."""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import TypeAlias

__all__ = ["Origin", "caller", "shown_origin"]

Origin: TypeAlias = tuple[CodeType, int]
"""A piece of code, and a line in its file. Made into words only when somebody looks."""

# Whose frames stand between a user's line and ours, and tell nobody anything.
_BETWEEN = {"correlator", "asyncio", "anyio", "aiohttp", "contextlib", "httpx", "httpcore"}


def caller() -> Origin | None:
    """Return the innermost line that is neither ours nor a library's that we are hooked into."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _BETWEEN:
            return frame.f_code, frame.f_lineno
        frame = frame.f_back
    return None


def shown_origin(origin: Origin) -> str:
    """Return it as ``file:line in function``."""
    code, line = origin
    return f"{code.co_filename}:{line} in {code.co_qualname}"
