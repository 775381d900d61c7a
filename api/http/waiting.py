"""Bounds how many requests wait at the same time, because each one holds a thread."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class WaitingRequests:
    """
    The requests of this process that wait for their refund (``Prefer: wait=N``).

    At most half of the process's threads wait, so that other requests are answered.
    One tenant has at most half of those, rounded up.  With one thread none waits.
    """

    def __init__(self, threads: int) -> None:
        """Bound the requests of a process that has *threads*."""
        self._in_total = threads // 2
        self._per_tenant = (self._in_total + 1) // 2
        self._waiting: Counter[str] = Counter()
        self._lock = Lock()

    @contextmanager
    def admit(self, tenant: str) -> Iterator[bool]:
        """Count a request of *tenant* while it waits; the value is whether it may."""
        may_wait = self._enter(tenant)
        try:
            yield may_wait
        finally:
            if may_wait:
                self._leave(tenant)

    def _enter(self, tenant: str) -> bool:
        with self._lock:
            may_wait = (
                self._waiting.total() < self._in_total
                and self._waiting[tenant] < self._per_tenant
            )
            if may_wait:
                self._waiting[tenant] += 1
            return may_wait

    def _leave(self, tenant: str) -> None:
        with self._lock:
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant]  # Tenants come and go.
