"""Waiting until a condition is true, and measuring time."""

import time
from collections.abc import Callable
from typing import TypeVar


T = TypeVar("T")

_LONGEST_PAUSE = 0.1


def eventually(
    condition: Callable[[], T], patience: float = 30.0, *, pause: float = 0.01
) -> T:
    """
    Return the first true value of *condition*, or its value after *patience* s.

    It is asked every *pause* seconds, and less often later, since each question takes
    processor time; ask rarely what starts a process.
    """
    start = time.monotonic()
    while (
        not (value := condition()) and (waited := time.monotonic() - start) < patience
    ):
        time.sleep(max(pause, min(waited / 10, _LONGEST_PAUSE)))
    return value


class Timer:
    """A monotonic timer that a test advances by setting ``now``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return ``now``, in seconds."""
        return self.now
