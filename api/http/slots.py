"""Counts the requests of this process that are in progress, by tenant."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class Slots:
    """A place for each request in progress; a request that enters must leave."""

    def __init__(self, in_total: int | None = None) -> None:
        """Let at most *in_total* requests enter; None means any number."""
        self._in_total = in_total
        self._taken: Counter[str] = Counter()
        self._lock = Lock()

    @contextmanager
    def taken(self, tenant: str, at_most: int | None = None) -> Iterator[bool]:
        """Count a request of *tenant* in the context; the value is whether it may."""
        may_enter = self.enter(tenant, at_most)
        try:
            yield may_enter
        finally:
            if may_enter:
                self.leave(tenant)

    def enter(self, tenant: str, at_most: int | None) -> bool:
        """Count a request of *tenant*, unless it already has *at_most*."""
        with self._lock:
            in_total = self._in_total
            if in_total is not None and self._taken.total() >= in_total:
                return False
            if at_most is not None and self._taken[tenant] >= at_most:
                return False
            self._taken[tenant] += 1
            return True

    def leave(self, tenant: str) -> None:
        """Count a request of *tenant* no longer."""
        with self._lock:
            self._taken[tenant] -= 1
            if not self._taken[tenant]:
                del self._taken[tenant]  # Tenants come and go.
