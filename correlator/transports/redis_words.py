"""Says in words what went wrong with a server, and nothing that was sent or that it repeats."""

from __future__ import annotations

import re
from typing import Final

from redis.exceptions import RedisError, ResponseError

from .system_words import system_reason

__all__ = ["reason"]

_CODE = re.compile(r"[A-Z][A-Z_]{1,30}(?= )")

# What an error of the server's begins with, which is its code, or the whole of it.
_ANSWERS: Final = (
    ("WRONGPASS", "the user or the password is wrong"),
    ("ERR invalid password", "the password is wrong"),
    ("ERR AUTH <password> called without any password", "it takes no password"),
    ("ERR Client sent AUTH, but no password is set", "it takes no password"),
    ("NOAUTH", "it asks for a password, and the URL has none"),
    ("NOPERM", "the user may not do that"),
    ("ERR DB index is out of range", "it has no database of that number"),
    ("ERR max number of clients reached", "it has as many clients as it takes"),
    ("OOM", "its memory is full"),
    ("WRONGTYPE", "the key holds something that is no stream"),
    ("READONLY", "it is a replica, which takes no writes"),
    ("LOADING", "it is starting, and loads its data"),
    ("ERR unknown command", "it does not know a command: it is older than 6.2"),
)


def reason(error: Exception) -> str:
    """Return what went wrong: never an error's own text, which may hold what was sent."""
    if type(error) is ConnectionError:
        return str(error)  # one of ours
    if isinstance(error, RedisError) and isinstance(error.__context__, OSError):
        error = error.__context__  # redis-py puts its own error over the system's
    if type(error) is ValueError:
        return str(error)  # ours too: of what is not sent
    if not isinstance(error, ResponseError):
        return system_reason(error)
    text = str(error)
    code = _CODE.match(text)
    name = type(error).__name__ if code is None else code[0]
    words = next((words for begin, words in _ANSWERS if text.startswith(begin)), "")
    return f"{words} ({name})" if words else name
