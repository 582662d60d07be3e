"""Broker: where a RabbitMQ broker is, and who asks to be let in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, unquote

__all__ = ["Broker"]


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker is, and who asks to be let in."""

    host: str
    port: int
    user: str = field(repr=False)
    password: str = field(repr=False)
    vhost: str = "/"

    @classmethod
    def at(cls, url: SplitResult) -> Self:
        """Return the broker that a URL names.

        Raises:
            ValueError: it names none. It does not quote the URL: there may be a password in it.
        """
        try:
            port = url.port
        except ValueError:
            raise ValueError(
                "url must have a number for a port, and what is special in its password as %.."
            ) from None
        if url.query or url.fragment:
            raise ValueError("url must have no query and no fragment: options are arguments here")
        return cls(
            host=url.hostname or "localhost",
            port=port or (5671 if url.scheme == "amqps" else 5672),
            user=unquote(url.username or "guest"),
            password=unquote(url.password or "guest"),
            vhost=unquote(url.path[1:]) or "/",
        )

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"
