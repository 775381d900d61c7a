"""Bounds how many requests wait at the same time, because each one holds a thread."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class WaitingRequests:
    """
    The requests of this process that wait for their refund (``Prefer: wait=N``).

    At most half of the process's threads wait, so that other requests are answered.
    One client has at most half of those, rounded up.  With one thread none waits.
    """

    def __init__(self, threads: int) -> None:
        """Bound the requests of a process that has *threads*."""
        self._in_total = threads // 2
        self._per_client = (self._in_total + 1) // 2
        self._waiting: Counter[str] = Counter()
        self._lock = Lock()

    @contextmanager
    def admit(self, client: str) -> Iterator[bool]:
        """Count a request of *client* while it waits; the value is whether it may."""
        may_wait = self._enter(client)
        try:
            yield may_wait
        finally:
            if may_wait:
                self._leave(client)

    def _enter(self, client: str) -> bool:
        with self._lock:
            may_wait = (
                self._waiting.total() < self._in_total
                and self._waiting[client] < self._per_client
            )
            if may_wait:
                self._waiting[client] += 1
            return may_wait

    def _leave(self, client: str) -> None:
        with self._lock:
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]  # Clients come and go.
