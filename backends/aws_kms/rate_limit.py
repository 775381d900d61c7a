"""A token bucket, as the virtual scheduling algorithm (ITU-T I.371, GCRA)."""

import time
from collections.abc import Callable
from threading import Lock


_BURST_SECONDS = 0.1
"""How long unused turns are kept; KMS may count within any second."""


class RateLimit:
    """
    Gives turns, at most *per_second* of them; 0 gives them without limit.

    Turns are given in the order in which they were asked for.  After a quiet time, the
    unused turns of 0.1 s are available at once.  Threads share an instance.
    """

    def __init__(
        self, per_second: float, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._timer = timer
        self._next = timer()  # When the turn after the last given one is due.
        self._lock = Lock()

    def reserve(self, patience: float) -> float | None:
        """
        Return in how many seconds the caller's turn is.

        If that is more than *patience*, no turn is reserved, and this returns None.
        """
        with self._lock:
            now = self._timer()
            due = max(self._next, now - _BURST_SECONDS)
            wait = due - now
            if wait > patience:
                return None
            self._next = due + self._interval
        return max(0.0, wait)
