"""
A token bucket that learns how much of a quota others leave to this process.

It gives turns by the virtual scheduling algorithm (ITU-T I.371, GCRA).  Its rate grows
steadily and shrinks by the share of throttled requests, as in DCTCP (RFC 8257).
"""

import time
from collections.abc import Callable
from threading import Lock


_BURST_SECONDS = 0.05
"""How long unused turns are kept; a service may count within any second."""

_WINDOW_SECONDS = 0.1
"""How long answers are counted: longer than one usually takes."""

_STRONGEST_DECREASE = 0.5
_LOWEST_SHARE = 0.2
_RECOVERY = 0.05
"""The share of the highest rate by which the rate grows in a second."""


class TokenBucket:
    """
    Gives turns, at most *highest* in a second; 0 gives them without limit.

    Turns are given in the order in which they were asked for.  After a quiet time, the
    unused turns of 50 ms are available at once.  Every 0.1 s, the share of throttled
    requests lowers the rate, by a half at most, and to a fifth of *highest* at least.
    The rate recovers by 5 % of *highest* in a second.  Threads share an instance.
    """

    def __init__(
        self, highest: float, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._highest = self._rate = highest
        self._timer = timer
        self._updated = self._judged = timer()
        self._answers = self._throttled = 0
        self._next = timer()  # When the turn after the last given one is due.
        self._lock = Lock()

    def reserve(self, patience: float) -> float | None:
        """
        Return in how many seconds the caller's turn is.

        If that is more than *patience*, no turn is reserved, and this returns None.
        """
        if not self._highest:
            return 0.0
        with self._lock:
            now = self._recover()
            due = max(self._next, now - _BURST_SECONDS)
            wait = due - now
            if wait > patience:
                return None
            self._next = due + 1 / self._rate
        return max(0.0, wait)

    def record(self, *, is_throttled: bool) -> None:
        """Record an answer: whether the service refused because of its quota."""
        with self._lock:
            self._answers += 1
            self._throttled += is_throttled
            now = self._recover()
            if now - self._judged < _WINDOW_SECONDS:
                return
            kept = max(_STRONGEST_DECREASE, 1 - self._throttled / self._answers)
            self._rate = max(self._highest * _LOWEST_SHARE, self._rate * kept)
            self._judged = now
            self._answers = self._throttled = 0

    def _recover(self) -> float:
        now = self._timer()
        grown = (now - self._updated) * self._highest * _RECOVERY
        self._rate = min(self._highest, self._rate + grown)
        self._updated = now
        return now
