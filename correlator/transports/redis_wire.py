"""What goes into the streams of Redis: requests and replies as entries.

A request is an entry of the stream whose key is the destination, and workers are consumers of a
group there. A reply is an entry of the stream that the request names; each replica has one, which
it reads from the last id it has seen: a reply that is sent while it reconnects is waiting there.

To answer, a worker in any language reads with ``XREADGROUP``, adds one entry with ``XADD
<reply_to> NOMKSTREAM``, which answers with nil if the replica has gone, and then takes the request
out with ``XACK`` and ``XDEL``. The fields of a request, all of them text but the body:

- ``id``: the request's; goes into the reply.
- ``reply_to``: the key of the stream for the reply.
- ``timeout_ms``: milliseconds that were left when it was sent. May be missing.
- ``body``: bytes.
- ``content_type``, and ``h:<name>`` for each header: may be missing.

The fields of a reply are ``id``, ``body``, and as above ``content_type`` and ``h:<name>``. With
``h:Correlator-Error`` or ``h:Correlator-Error-Code`` it is an error. Other fields are ignored.
"""

from __future__ import annotations

import re
from typing import Any, Final

from .message import TIMEOUT_HEADER, Message, check_headers, plain_message

__all__ = ["KEY", "entries_of", "fields_of", "message_of", "values_of"]

KEY: Final = re.compile(r"[A-Za-z0-9._:/{}-]{1,255}")
"""Matches what may be the key of a stream."""


def entries_of(answer: Any) -> list[Any]:
    """Return the entries of one stream, out of what XREAD or XREADGROUP answered."""
    return [] if answer is None else list(answer[0][1])


def values_of(fields: list[bytes]) -> dict[bytes, bytes]:
    """Return the fields of an entry by name. Raises ValueError or TypeError where it has none."""
    return dict(zip(fields[::2], fields[1::2], strict=True))


def fields_of(request_id: str, message: Message) -> list[str | bytes]:
    """Return the fields in which a message goes."""
    fields: list[str | bytes] = ["id", request_id, "body", message.body]
    if message.content_type:
        fields += ("content_type", message.content_type)
    for name, value in message.headers.items():
        fields += (f"h:{name}", value)
    return fields


def message_of(values: dict[bytes, bytes]) -> Message:
    """Return the message that came in fields. Raises KeyError or ValueError where there is none."""
    body = values[b"body"]
    if len(values) == 2:  # with the id: most replies
        return plain_message(body)
    headers = {
        name[2:].decode(): value.decode()
        for name, value in values.items()
        if name.startswith(b"h:")
    }
    content_type = values.get(b"content_type", b"").decode()
    if headers or content_type:
        check_headers({**headers, "Content-Type": content_type})
    left = values.get(b"timeout_ms")
    if left is not None:
        headers[TIMEOUT_HEADER] = left.decode()
        if not left.isdigit():  # as it is in all that we send
            check_headers({TIMEOUT_HEADER: headers[TIMEOUT_HEADER]})
    return Message(body, headers, content_type)
