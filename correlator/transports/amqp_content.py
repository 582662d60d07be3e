"""What of a message is where in AMQP: its properties and its table of headers."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from pamqp.commands import Basic
from pamqp.common import FieldTable

from .message import Message, received_message

__all__ = ["headers_of", "message_of"]


def headers_of(message: Message) -> FieldTable:
    """Return the headers that go out.

    RabbitMQ takes CC and BCC for more queues to send to, and closes the channel of who gives them
    as text: so they never go out.
    """
    return {name: value for name, value in message.headers.items() if name not in ("CC", "BCC")}


def message_of(properties: Basic.Properties, body: bytes) -> Message:
    """Return what came in as a message. Of its headers, those that can be text."""
    content_type = properties.content_type or ""
    if not properties.headers:
        return Message(body, content_type=content_type)
    texts = {name: _text(value) for name, value in properties.headers.items()}
    headers = {name: text for name, text in texts.items() if text is not None}
    return received_message(body, headers, content_type)


def _text(value: object) -> str | None:
    """Return the value of a header as text, or None if it is a table, an array or nothing."""
    match value:
        case str():
            return value
        case bool():
            return str(value).lower()
        case int() | float() | Decimal():
            return str(value)
        case bytes() | bytearray():
            return value.decode(errors="replace")
        case datetime():
            return value.isoformat()
    return None
