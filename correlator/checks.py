"""Checking arguments: what is wrong, in which argument, with which value."""

from __future__ import annotations

import re
from typing import Any

from .errors import shown

__all__ = [
    "MAX_SECONDS",
    "TOKEN",
    "check_bound",
    "check_callable",
    "check_error",
    "check_instance",
    "check_owner",
    "check_seconds",
    "check_share",
]

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What may be the name of a header field: RFC 9110, sections 5.1 and 5.6.2."""
_OWNER = re.compile(r"[A-Za-z0-9_-]{1,64}")

MAX_SECONDS = 1e9  # about 31 years: nobody means a deadline beyond it, and clocks lose their grain


def check_seconds(name: str, value: Any) -> float:
    """Return `value` as seconds: a number above 0, at most 1e9.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range, infinite or not a number (NaN).
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {shown(value)}")
    if not 0 < value <= MAX_SECONDS:
        raise ValueError(f"{name} must be above 0 and at most 1e9 seconds, not {shown(value)}")
    return float(value)


def check_share(name: str, value: Any) -> float:
    """Return `value` as a share of a whole: a bool, or a number from 0.0 to 1.0.

    Raises:
        TypeError: it is neither.
        ValueError: it is out of range.
    """
    if not isinstance(value, bool | int | float):
        raise TypeError(f"{name} must be a bool or a number from 0 to 1, not {shown(value)}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, not {shown(value)}")
    return float(value)


def check_bound(name: str, value: Any, *, least: int = 1) -> int:
    """Return `value`, a whole number of at least `least`.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {shown(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {shown(value)}")
    return value


def check_callable(name: str, value: Any) -> None:
    """Raise TypeError if `value` cannot be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {shown(value)}")


def check_instance(name: str, value: Any, kind: type) -> None:
    """Raise TypeError if `value` is not an instance of `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be an instance of {kind.__name__}, not {shown(value)}")


def check_error(name: str, value: Any) -> Exception:
    """Return `value`, an exception that may be raised to a caller.

    Raises:
        TypeError: it is no instance of `Exception`. So `asyncio.CancelledError` is refused, since
            a caller sees that only if it was itself cancelled, and `StopIteration`, which means
            something else to a coroutine.
    """
    if not isinstance(value, Exception) or isinstance(value, StopIteration | StopAsyncIteration):
        # Not the value: whoever mixes up `resolve` and `reject` gives a payload here.
        raise TypeError(
            f"{name} must be an instance of Exception (and not of StopIteration), "
            f"not {type(value).__name__}"
        )
    return value


def check_owner(owner: Any) -> str:
    """Return `owner`, which is 1 to 64 characters out of ``A-Z a-z 0-9 _ -``.

    Raises:
        TypeError: it is no string.
        ValueError: there is something else in it.
    """
    if not isinstance(owner, str):
        raise TypeError(f"owner must be a string, not {shown(owner)}")
    if _OWNER.fullmatch(owner) is None:
        raise ValueError(
            f"owner must be 1 to 64 characters out of A-Z a-z 0-9 _ -, not {owner!r:.300}"
        )
    return owner
