"""When requests are due: after an answer (closed loop), or at a rate (open loop)."""

from typing import Protocol


class Arrivals(Protocol):
    """Decides when requests are due."""

    def take(self, now: float) -> float | None:
        """Take one request that is due; return when it was due, or None."""

    def next_due(self) -> float | None:
        """Return when the next request is due; None if there is no other."""


class ClosedLoop:
    """A request is due as soon as a client is free, until *end* or after *count*."""

    def __init__(self, end: float, count: int | None = None) -> None:
        self._end, self._left = end, count

    def take(self, now: float) -> float | None:
        if now >= self._end or self._left == 0:
            return None
        if self._left is not None:
            self._left -= 1
        return now

    def next_due(self) -> float | None:
        return None


class OpenLoop:
    """
    Requests are due at a fixed rate from *start* to *end*, whether or not one is free.

    A request that waits for a client keeps its due time, so its latency shows the
    queue ("coordinated omission" hides it).
    """

    def __init__(self, rate: float, start: float, end: float) -> None:
        self._rate, self._start, self._taken = rate, start, 0
        self._count = round((end - start) * rate)

    def take(self, now: float) -> float | None:
        due = self.next_due()
        if due is None or now < due:
            return None
        self._taken += 1
        return due

    def next_due(self) -> float | None:
        if self._taken >= self._count:
            return None
        return self._start + self._taken / self._rate
