"""Which share of the calls of a device was rejected lately because of their rate."""

import time
from collections import deque
from collections.abc import Callable
from threading import Lock


WINDOW_SECONDS = 60.0
"""For how long a call counts: longer than the pause before refunds are retried."""

THROTTLED_SHARE = 0.1
"""From which share on operators are alerted."""

_FEWEST = 5  # A single rejected call is no trend.


class ThrottleWindow:
    """Counts the calls of the last ``WINDOW_SECONDS``; thread-safe."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        """Measure time with *timer*, in seconds."""
        self._timer = timer
        self._lock = Lock()
        self._calls: deque[tuple[float, int, int]] = deque()
        self._attempts = 0
        self._throttled = 0

    def add(self, attempts: int, throttled: int) -> None:
        """Count *attempts* calls, *throttled* of which the device rejected."""
        with self._lock:
            self._forget()
            self._calls.append((self._timer(), attempts, throttled))
            self._attempts += attempts
            self._throttled += throttled

    @property
    def share(self) -> float:
        with self._lock:
            self._forget()
            if self._throttled < _FEWEST:
                return 0.0
            return self._throttled / self._attempts

    @property
    def is_fine(self) -> bool:
        """Whether there were calls, and none was rejected; no calls say nothing."""
        with self._lock:
            self._forget()
            return bool(self._calls) and self._throttled == 0

    def _forget(self) -> None:
        oldest = self._timer() - WINDOW_SECONDS
        while self._calls and self._calls[0][0] < oldest:
            _, attempts, throttled = self._calls.popleft()
            self._attempts -= attempts
            self._throttled -= throttled
