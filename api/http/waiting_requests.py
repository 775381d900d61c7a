"""Bounds how many requests wait at the same time, because each one holds a thread."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from api.http.slots import Slots
from signer.config.tenants import TenantRegistry
from signer.errors import RateLimitedError


class WaitingRequests:
    """
    The requests of this process that wait for their refund, or for nodes.

    One thread never waits, so that other requests are answered.  At most half of the
    threads wait long (``Prefer: wait=N``); one tenant has at most half of those,
    rounded up, and its ``max_waiting_requests``.  At most three quarters of the threads
    wait for nodes, and half of them for one tenant.
    """

    def __init__(self, threads: int, tenants: TenantRegistry) -> None:
        """Bound the requests of a process that has *threads*."""
        in_total = threads // 2
        self._tenants = tenants
        self._threads = threads
        self._waiting = Slots(threads - 1)
        self._waiting_long = Slots(in_total)
        self._of_tenant = (in_total + 1) // 2
        self._asking = Slots(max(1, threads * 3 // 4))

    def admit(self, tenant: str) -> AbstractContextManager[bool]:
        """
        Count a request of *tenant* while it waits for a worker, for up to 3 seconds.

        The value is whether it may wait.
        """
        return self._waiting.taken(tenant)

    @contextmanager
    def admit_long(self, tenant: str) -> Iterator[bool]:
        """Count a request of *tenant* while it waits for the end of its refund."""
        limit = self._tenants.limits(tenant).max_waiting_requests or self._of_tenant
        limit = min(limit, self._of_tenant)
        with (
            self._waiting_long.taken(tenant, limit) as may_wait_long,
            self._waiting.taken(tenant, None if may_wait_long else 0) as may_wait,
        ):
            yield may_wait

    @contextmanager
    def asking_nodes(self, tenant: str) -> Iterator[None]:
        """
        Count a request of *tenant* while it may wait for nodes.

        Raises:
            RateLimitedError: Too many requests wait, of this tenant or of all.
        """
        with (
            self._asking.taken(tenant, max(1, self._threads // 2)) as may_ask,
            self._waiting.taken(tenant, None if may_ask else 0) as may_wait,
        ):
            # A single thread answers one request at a time in any case.
            if not may_ask or not (may_wait or self._threads == 1):
                raise RateLimitedError(
                    "too many requests wait for the nodes at the same time; repeat it",
                    retry_after=1,
                )
            yield
