"""Message: what goes over a broker, and the headers that mean something to us."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from ..checks import TOKEN
from ..errors import shown

__all__ = [
    "ERROR_CODE_HEADER",
    "ERROR_HEADER",
    "REQUEST_ID_HEADER",
    "TIMEOUT_HEADER",
    "Message",
    "check_destination",
    "check_headers",
    "check_message",
    "check_request_id",
    "message_from",
    "plain_message",
    "received_message",
]

TIMEOUT_HEADER: Final = "Correlator-Timeout-Ms"
"""How many milliseconds are left of a request, when it is sent. Relative: clocks differ."""
REQUEST_ID_HEADER: Final = "X-Request-ID"
"""The ambient id, for logs: `current_request_id` of whoever asks."""
ERROR_HEADER: Final = "Correlator-Error"
"""Says that a reply is an error, and which."""
ERROR_CODE_HEADER: Final = "Correlator-Error-Code"
"""An error reply's status, as HTTP counts (RFC 9110, section 15)."""

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_DESTINATION = re.compile(r"[A-Za-z0-9._:/-]{1,255}")
_MAX_HEADER_NAME = 255
# No line break, no NUL, no other control, and no half of a pair, which cannot be encoded.
_HEADER_VALUE = re.compile(r"[\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]*")


@dataclass(frozen=True, slots=True)
class Message:
    """What one side sends to the other.

    Attributes:
        body: the bytes. Kept out of the `repr`.
        headers: names and values, as they were sent; names that differ in case are different.
        content_type: what the body is, for whoever reads it; it never selects a codec here. Empty
            where the sender did not say.
    """

    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS, repr=False)
    content_type: str = ""


_blank = object.__new__
_set_body = vars(Message)["body"].__set__
_set_headers = vars(Message)["headers"].__set__
_set_content_type = vars(Message)["content_type"].__set__


def plain_message(body: bytes) -> Message:
    """Return ``Message(body)``, in half the time: there are two for each request.

    What a frozen dataclass has for `__init__` calls `object.__setattr__`, which looks up the slot.
    """
    message = _blank(Message)
    _set_body(message, body)
    _set_headers(message, _NO_HEADERS)
    _set_content_type(message, "")
    return message


def check_destination(destination: Any, name: str = "destination") -> str:
    """Return `destination`, which is 1 to 255 characters out of ``A-Z a-z 0-9 . _ : / -``.

    Args:
        destination: what is checked.
        name: what an error calls it.

    Raises:
        TypeError: it is no string.
        ValueError: there is something else in it: a wildcard or a line break would reach others.
    """
    if not isinstance(destination, str):
        raise TypeError(f"{name} must be a string, not {shown(destination)}")
    if _DESTINATION.fullmatch(destination) is None:
        raise ValueError(
            f"{name} must be 1 to 255 characters out of A-Z a-z 0-9 . _ : / -, "
            f"not {destination!r:.300}"
        )
    return destination


def check_headers(headers: Any) -> Mapping[str, str]:
    """Return `headers`, of which none can be taken for another or break a line.

    Raises:
        TypeError: they are no mapping of strings.
        ValueError: a name is no token of RFC 9110, or a value holds a control character.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping, not {type(headers).__name__}")
    name: Any
    value: Any
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"headers must map strings to strings; {shown(name)} does not")
        if len(name) > _MAX_HEADER_NAME or TOKEN.fullmatch(name) is None:
            raise ValueError(f"headers must have names out of RFC 9110's tokens, not {name!r:.300}")
        if _HEADER_VALUE.fullmatch(value) is None:  # not the value: it may be secret
            raise ValueError(f"headers must have no control characters; the value of {name!r} does")
    return headers


def _check_given(headers: Mapping[str, str], content_type: str) -> None:
    """Check what somebody gives to go out. Raises as `check_headers`."""
    check_headers(headers)
    check_headers({"Content-Type": content_type})
    # Some brokers have a place of their own for it, and others a header: there would be two.
    if any(map(_is_content_type, headers)):
        raise ValueError("headers must not hold the content type: give it as content_type=")


def _is_content_type(name: str) -> bool:
    return name.lower() == "content-type"


def check_message(name: str, message: Any) -> Message:
    """Return `message`, which can go over a broker.

    Raises:
        TypeError: it is no `Message`, or holds something of the wrong type.
        ValueError: a header of its could break a line, or is the content type.
    """
    if not isinstance(message, Message):
        raise TypeError(f"{name} must be a Message, not {type(message).__name__}")
    if not isinstance(message.body, bytes):
        raise TypeError(f"{name} must have bytes for a body, not {type(message.body).__name__}")
    if message.headers or message.content_type:
        _check_given(message.headers, message.content_type)
    return message


def check_request_id(request_id: Any) -> None:
    """Raise ValueError if that is no id that can be part of an address at a broker."""
    if not isinstance(request_id, str) or _REQUEST_ID.fullmatch(request_id) is None:
        raise ValueError(
            f"request_id must be 1 to 200 characters out of A-Z a-z 0-9 _ - to go over a "
            f"broker, not {shown(request_id)}"
        )


def received_message(body: bytes, headers: dict[str, str], content_type: str) -> Message:
    """Return what came in as a message, the content type in its one place.

    Args:
        body: the bytes.
        headers: may hold the content type, where the sender has put it there.
        content_type: where the broker has a place of its own for it. It counts for more.
    """
    for name in [name for name in headers if _is_content_type(name)]:
        content_type = content_type or headers[name]
        del headers[name]
    return Message(body, headers, content_type)


def message_from(body: Any, headers: Any, content_type: Any, correlation_id: str | None) -> Message:
    """Return a message of what a caller gave. Raises TypeError or ValueError."""
    if not isinstance(body, bytes):
        raise TypeError(f"body must be bytes, not {type(body).__name__}")
    if not isinstance(content_type, str):
        raise TypeError(f"content_type must be a string, not {shown(content_type)}")
    given = {} if headers is None else headers
    _check_given(given, content_type)
    given = dict(given)
    if correlation_id is not None:
        given.setdefault(REQUEST_ID_HEADER, correlation_id)
    return Message(body, given, content_type)
