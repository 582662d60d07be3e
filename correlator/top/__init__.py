"""top: what an inspector tells, in a terminal. ``python -m correlator top URL`` is its command."""

from .running import run
from .source import Failure

__all__ = ["Failure", "run"]
