"""The Prefer header (RFC 7240): what a client would like, of what we can do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Preferences", "parse_prefer"]

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_VALUE = rf"(?:{_NAME}|{_QUOTED})"
_PIECE = re.compile(rf'(?:[^,"]|{_QUOTED})+')  # between commas, those in quotes left alone
_PREFERENCE = re.compile(rf"\s*({_NAME})\s*(?:=\s*({_VALUE})?\s*)?(?:;.*)?")  # parameters: unused
_SECONDS = re.compile(r'([0-9]{1,9})|"([0-9]{1,9})"')


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a client prefers.

    Attributes:
        respond_async: rather a 202 than a wait.
        wait: seconds it will wait for the result before it takes a 202, or None.
    """

    respond_async: bool = False
    wait: int | None = None

    @property
    def patience(self) -> float | None:
        """Seconds to wait before a 202, or None to wait for as long as the job may take."""
        if self.wait is not None:
            return float(self.wait)
        return 0.0 if self.respond_async else None

    @property
    def applied(self) -> str:
        """The value of ``Preference-Applied``."""
        wait = [] if self.wait is None else [f"wait={self.wait}"]
        return ", ".join((["respond-async"] if self.respond_async else []) + wait)


def parse_prefer(fields: Iterable[str]) -> Preferences:
    """Parse the ``Prefer`` fields of a request. What is unknown or malformed is ignored.

    That is what RFC 7240, section 2 asks for; and of a preference given twice the first counts.
    """
    respond_async = False
    wait: int | None = None
    for field in fields:
        if '"' in re.sub(_QUOTED, "", field):
            continue  # a quote that never closes: where anything ends is a guess
        for piece in _PIECE.findall(field):
            preference = _PREFERENCE.fullmatch(piece)
            if preference is None:
                continue
            name, value = preference[1].lower(), preference[2] or ""
            if name == "respond-async":
                respond_async = True
            elif name == "wait" and wait is None and (number := _SECONDS.fullmatch(value)):
                wait = int(number[1] or number[2])
    return Preferences(respond_async, wait)
