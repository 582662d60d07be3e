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
# Where a loop runs a task, or is run (one that is not in Python has no frames). What stands above
# asked for nothing.
_LOOPS = {"asyncio.events", "asyncio.runners", "uvloop"}


def caller() -> Origin | None:
    """Return the innermost line that is neither ours nor a library's that we are hooked into.

    None if there is no such line in the task at hand, as where `Correlator.correlate` is the task.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module in _LOOPS:
            break
        if module.partition(".")[0] not in _BETWEEN:
            return frame.f_code, frame.f_lineno
        frame = frame.f_back
    return None


def shown_origin(origin: Origin) -> str:
    """Return it as ``file:line in function``."""
    code, line = origin
    return f"{code.co_filename}:{line} in {code.co_qualname}"
