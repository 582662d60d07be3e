"""Making request ids, and checking those that come from outside."""

from __future__ import annotations

import os
import re
from typing import TypeGuard

__all__ = ["is_valid_request_id", "new_request_id"]

_DIGITS = 32  # 128 bits in hexadecimal
_BLOCK = 256  # ids made from one call to the system's random source

# Spelled out, and matched in full: `\w` and `\d` let letters and digits of every script through,
# and `$` lets a trailing line break through.
_VALID = re.compile(r"[A-Za-z0-9._-]{1,128}")

_ready: list[str] = []


def new_request_id() -> str:
    """Return a fresh request id: 128 random bits as 32 hexadecimal digits.

    The bits come from `os.urandom`, which is fit for secrets, in blocks, because a system call
    for each id would cost more than the rest of a registration. Safe to call from any thread
    (`list.pop` is atomic), and a forked child draws a block of its own.
    """
    try:
        return _ready.pop()
    except IndexError:
        digits = os.urandom(_BLOCK * _DIGITS // 2).hex()
        fresh = [digits[at : at + _DIGITS] for at in range(0, len(digits), _DIGITS)]
        request_id = fresh.pop()
        _ready.extend(fresh)
        return request_id


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ready.clear)


def is_valid_request_id(value: object) -> TypeGuard[str]:
    """Tell whether `value`, which came from outside, may be carried as a request id.

    It may if it is a string of 1 to 128 characters out of ``A-Z a-z 0-9 . _ -``. Anything else
    is to be replaced by an id of one's own, never trimmed: half of a hostile value is no better.
    """
    return isinstance(value, str) and _VALID.fullmatch(value) is not None
