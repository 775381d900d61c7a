"""The clock, which callers pass in."""

from collections.abc import Callable
from datetime import UTC, datetime


Clock = Callable[[], datetime]
"""Returns the current time, in UTC."""


def utc_now() -> datetime:
    """Return the current time; the clock of production."""
    return datetime.now(UTC)
