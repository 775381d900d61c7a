"""
Limits how many threads call a device at once, by its latency.

More calls at once sign more, until they only wait: in the device, in a proxy, or for
this process's CPU.  Latency shows it, so no setting has to know it.  The rule is that
of TCP (additive increase, multiplicative decrease) with latency as the signal, as in
TCP Vegas and in Netflix's concurrency-limits.
"""

import math
from collections import deque
from statistics import median
from threading import Event, Lock


_LOWEST = 8
_WINDOW = 16
"""The fewest calls that are judged together."""

_TOLERANCE = 2.0
"""How many times the latency without queueing is still no congestion."""

_DECREASE = 0.8
_FAILED_SHARE = 0.1
"""The share of failed calls in a window from which on KMS asks for fewer."""


class AdaptiveLimit:
    """
    A limit between 8 (or *highest*, if that is less) and *highest*.

    Calls are judged in windows of at least 16, and of as many as the limit.  The median
    of a window at the lowest limit is the latency without queueing, and so is a lower
    one later.  A median above twice that, or failures of a tenth, lower the limit by a
    fifth.  Otherwise, a window that used half of the limit raises it by its root.

    A device that becomes slower for other reasons lowers the limit until the next
    window at the lowest limit measures it anew.
    """

    def __init__(self, highest: int) -> None:
        self._highest = float(highest)
        self._lowest = min(float(_LOWEST), self._highest)
        self._limit = self._lowest
        self._baseline = math.inf
        self._latencies: list[float] = []
        self._failures = 0
        self._most = 0

    @property
    def value(self) -> int:
        """How many calls may be in flight."""
        return int(self._limit)

    def record(self, seconds: float | None, in_flight: int) -> None:
        """
        Record a call that signed within *seconds*, or failed (None).

        *in_flight* counts the calls at its end, including this one.
        """
        self._most = max(self._most, in_flight)
        if seconds is None:
            self._failures += 1
        else:
            self._latencies.append(seconds)
        if self._failures + len(self._latencies) >= max(_WINDOW, self.value):
            self._judge()
            self._latencies.clear()
            self._failures = self._most = 0

    def _judge(self) -> None:
        count = self._failures + len(self._latencies)
        latency = median(self._latencies) if self._latencies else math.inf
        if self._limit == self._lowest and self._latencies:
            self._baseline = latency
        self._baseline = min(self._baseline, latency)
        has_failed = self._failures >= count * _FAILED_SHARE
        if has_failed or latency > self._baseline * _TOLERANCE:
            self._limit = max(self._lowest, self._limit * _DECREASE)
        elif self._most * 2 >= self._limit:
            self._limit = min(self._highest, self._limit + math.sqrt(self._limit))


class AdaptiveSemaphore:
    """
    Admits as many calls at once as an ``AdaptiveLimit``, in the order of their arrival.

    Threads share an instance.
    """

    def __init__(self, highest: int) -> None:
        self._limit = AdaptiveLimit(highest)
        self._lock = Lock()
        self._in_flight = 0
        self._waiting: deque[Event] = deque()

    @property
    def limit(self) -> int:
        """How many calls are admitted at once, at the moment."""
        return self._limit.value

    def acquire(self, patience: float) -> bool:
        """Wait up to *patience* seconds for a slot, and return whether there is one."""
        turn = Event()
        with self._lock:
            self._waiting.append(turn)
            self._admit()
        if turn.wait(max(0.0, patience)):
            return True
        with self._lock:
            if turn.is_set():
                return True
            self._waiting.remove(turn)
        return False

    def release(self, seconds: float | None) -> None:
        """Return a slot after a call that signed in *seconds*, or failed (None)."""
        with self._lock:
            self._limit.record(seconds, self._in_flight)
            self._in_flight -= 1
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._in_flight < self._limit.value:
            self._waiting.popleft().set()
            self._in_flight += 1
