"""CorrelatorStats: a correlator's counters at one moment."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CorrelatorStats"]


@dataclass(frozen=True, slots=True)
class CorrelatorStats:
    """A correlator's counters at one moment.

    ``registered == resolved + rejected + timed_out + cancelled + closed + pending``, always.

    Attributes:
        registered: requests registered since the start.
        resolved: of these, ended by a response.
        rejected: ended by an error in place of a response.
        timed_out: ended by their deadline.
        cancelled: ended because the caller left.
        closed: ended because the correlator or their group was closed.
        pending: not ended yet.
        pending_bytes: the sizes of those together, as they were declared.
        waiting: callers that wait for a place (``when_full="wait"``).
        refused: requests that were not registered: full, duplicate, draining, too late, or sent
            away while they waited for a place.
        late: replies to requests that had ended without one.
        duplicate: replies to requests that had been answered.
        unknown: replies to ids neither pending nor remembered.
        remembered: ids that settled a short while ago.
        oldest_age: seconds since the oldest pending was registered, 0.0 if there is none.
        reaper_restarts: how often the reaper died and was started again.
    """

    registered: int
    resolved: int
    rejected: int
    timed_out: int
    cancelled: int
    closed: int
    pending: int
    pending_bytes: int
    waiting: int
    refused: int
    late: int
    duplicate: int
    unknown: int
    remembered: int
    oldest_age: float
    reaper_restarts: int
