"""Bounds how many requests wait at the same time, because each one holds a thread."""

from collections.abc import Iterator
from contextlib import contextmanager

from api.http.slots import Slots
from signer.config.tenants import TenantRegistry


class WaitingRequests:
    """
    The requests of this process that wait for their refund (``Prefer: wait=N``).

    At most half of the process's threads wait, so that other requests are answered.
    One tenant has at most half of those, rounded up, and its ``max_waiting_requests``.
    With one thread none waits.
    """

    def __init__(self, threads: int, tenants: TenantRegistry) -> None:
        """Bound the requests of a process that has *threads*."""
        in_total = threads // 2
        self._tenants = tenants
        self._slots = Slots(in_total)
        self._of_tenant = (in_total + 1) // 2

    @contextmanager
    def admit(self, tenant: str) -> Iterator[bool]:
        """Count a request of *tenant* while it waits; the value is whether it may."""
        limit = self._tenants.limits(tenant).max_waiting_requests or self._of_tenant
        may_wait = self._slots.enter(tenant, min(limit, self._of_tenant))
        try:
            yield may_wait
        finally:
            if may_wait:
                self._slots.leave(tenant)
