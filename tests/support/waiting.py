"""Waiting until a condition is true, and measuring time."""

import time
from collections.abc import Callable
from typing import TypeVar


T = TypeVar("T")


def eventually(
    condition: Callable[[], T], patience: float = 30.0, *, pause: float = 0.01
) -> T:
    """
    Return the first true value of *condition*, or its value after *patience* s.

    It is asked every *pause* seconds; ask rarely what costs requests.
    """
    deadline = time.monotonic() + patience
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(pause)
    return value


class Timer:
    """A monotonic timer that a test advances by setting ``now``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return ``now``, in seconds."""
        return self.now
