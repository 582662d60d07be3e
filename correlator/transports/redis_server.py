"""Server: where a Redis or Valkey server is, and who asks to be let in."""

from __future__ import annotations

import re
import ssl as tls
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, unquote

from ..checks import check_instance

__all__ = ["Server"]

_DATABASE = re.compile(r"/?|/[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is, and who asks to be let in."""

    host: str
    port: int
    database: int
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    ssl: tls.SSLContext | None = field(repr=False)

    @classmethod
    def at(cls, url: SplitResult, ssl: tls.SSLContext | None) -> Self:
        """Return the server that a URL names.

        Raises:
            ValueError: it names none, or `ssl` is given and it does not ask for TLS.
            TypeError: `ssl` is no context.
        """
        try:
            port = url.port or 6379
        except ValueError:
            port = 0
        # Without what is there: a password with a slash in it ends up in any of these.
        if not url.hostname or not port:
            raise ValueError("url must name a host, and a port or none, for Redis")
        if url.query or url.fragment or _DATABASE.fullmatch(url.path) is None:
            raise ValueError("url must end with a database's number, or with its host, for Redis")
        if ssl is not None:
            check_instance("ssl", ssl, tls.SSLContext)
        if url.scheme in ("rediss", "valkeys"):
            ssl = tls.create_default_context() if ssl is None else ssl
        elif ssl is not None:
            raise ValueError(f"ssl is for rediss: and valkeys:, not for {url.scheme}:")
        return cls(
            host=url.hostname,
            port=port,
            database=int(url.path.strip("/") or 0),
            user=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
            ssl=ssl,
        )

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"
