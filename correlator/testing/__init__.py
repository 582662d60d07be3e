"""correlator.testing: what users need to test their own code with us.

The pytest plugin is `correlator.testing.plugin`, which pytest finds by itself. The rest needs no
pytest.
"""

from .clock import VirtualClock, virtual_time
from .leftovers import assert_nothing_pending
from .responder import Responder, Step, delay, drop, duplicate, error, late, reply

__all__ = [
    "Responder",
    "Step",
    "VirtualClock",
    "assert_nothing_pending",
    "delay",
    "drop",
    "duplicate",
    "error",
    "late",
    "reply",
    "virtual_time",
]
