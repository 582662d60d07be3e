"""Tally: what every observer of metrics counts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ..errors import (
    CapacityExceeded,
    CorrelationError,
    CorrelatorClosed,
    DuplicateRequest,
    RequestTimeout,
)
from ..pending import Disposition, Outcome, Pending
from .watched import Watched

if TYPE_CHECKING:
    from ..core import Correlator

__all__ = ["Tally"]

_REFUSALS = (CapacityExceeded, CorrelatorClosed, DuplicateRequest, RequestTimeout)


class Tally:
    """The part of an observer that counts."""

    def __init__(self) -> None:
        self._watched = Watched()
        self._ended = dict.fromkeys(Outcome, 0)
        self._unmatched = dict.fromkeys(Disposition, 0)
        # Each is there from the start: the rate of what was not there before is not seen.
        self._refused = Counter({error.__name__: 0 for error in _REFUSALS})

    def attached(self, correlator: Correlator[Any, Any]) -> None:
        """Take note of what it was added to: there may be much pending, and nothing new to come."""
        self._watched.see(correlator)

    def detached(self, correlator: Correlator[Any, Any]) -> None:
        """Look at that one no more. What was counted stays."""
        self._watched.forget(correlator)

    def registered(self, pending: Pending[Any, Any]) -> None:
        """Take note of whose request it is: who wraps this may hand on no more than requests."""
        correlator = pending.correlator
        if self._watched.last() is not correlator:
            self._watched.see(correlator)

    def unmatched(self, request_id: Any, disposition: Disposition) -> None:  # noqa: ARG002  # no ids
        """Count a reply that found no pending."""
        self._unmatched[disposition] += 1

    def refused(self, error: CorrelationError) -> None:
        """Count a refusal, by the class of the error."""
        self._refused[type(error).__name__] += 1

    def _replies(self) -> dict[Disposition, int]:
        """Return how many replies came, by what became of them."""
        matched = self._ended[Outcome.RESOLVED] + self._ended[Outcome.REJECTED]
        return self._unmatched | {Disposition.MATCHED: matched}
