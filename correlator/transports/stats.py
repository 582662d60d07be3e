"""TransportStats: a transport's counters at one moment."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TransportStats"]


@dataclass(frozen=True, slots=True)
class TransportStats:
    """The counters of a transport at one moment.

    Attributes:
        connected: whether it is connected to its broker, and listens at its reply address.
        sent: requests that went out.
        received: replies that came in, whatever became of them.
        malformed: messages that came in and were none; each cost itself and nothing else.
        forwarded: replies that were forwarded to other replicas.
        reconnects: how often the connection was lost and made again.
        expired: requests that came here to be served, and were dropped when their turn came: they
            had no time left.
        overflowed: requests that came here to be served, and were dropped at once: 10,000 waited
            already. Not where the broker holds back what cannot be served yet.
    """

    connected: bool
    sent: int
    received: int
    malformed: int
    forwarded: int
    reconnects: int
    expired: int
    overflowed: int
