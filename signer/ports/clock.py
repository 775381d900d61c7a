"""The present, as something that is passed in."""

from collections.abc import Callable
from datetime import UTC, datetime


Clock = Callable[[], datetime]
"""Answers with the present, in UTC."""


def utc_now() -> datetime:
    """Return the present; the one clock that is not a test's."""
    return datetime.now(UTC)
