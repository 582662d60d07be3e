"""correlator: the request/response correlation layer for asyncio."""

from .context import (
    PendingRef,
    current_deadline,
    current_pending,
    current_request_id,
    remaining_time,
    request_scope,
)
from .core import Correlator
from .errors import (
    CapacityExceeded,
    CorrelationError,
    CorrelatorClosed,
    DuplicateRequest,
    NoResponder,
    RequestRejected,
    RequestTimeout,
)
from .group import Group
from .ids import is_valid_request_id, new_request_id
from .labels import LabelStats
from .observers import Observer
from .pending import Disposition, Outcome, Pending, PendingInfo
from .stats import CorrelatorStats
from .store import ExpiringStore, StoreFull

__all__ = [
    "CapacityExceeded",
    "CorrelationError",
    "Correlator",
    "CorrelatorClosed",
    "CorrelatorStats",
    "Disposition",
    "DuplicateRequest",
    "ExpiringStore",
    "Group",
    "LabelStats",
    "NoResponder",
    "Observer",
    "Outcome",
    "Pending",
    "PendingInfo",
    "PendingRef",
    "RequestRejected",
    "RequestTimeout",
    "StoreFull",
    "current_deadline",
    "current_pending",
    "current_request_id",
    "is_valid_request_id",
    "new_request_id",
    "remaining_time",
    "request_scope",
]
