"""Bounds how many requests of a tenant a process answers, and how many wait."""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any

from falcon import Request, Response

from api.principal import tenant_of_thread
from signer.config.tenants import TenantRegistry
from signer.errors import RateLimitedError


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


class ConcurrencyMiddleware:
    """
    Applies ``max_concurrent_requests``, after the caller's tenant is known.

    Without it, one of several tenants has three quarters of the threads.  It also
    sets ``tenant_of_thread``, for the shares of database connections.
    """

    def __init__(self, threads: int, tenants: TenantRegistry) -> None:
        self._tenants = tenants
        self._slots = Slots()
        self._is_shared = len(tenants.tenants or ()) > 1
        self._default = max(1, threads * 3 // 4) if self._is_shared else None

    def process_request(self, req: Request, resp: Response) -> None:
        """Forget the last request of this thread."""
        tenant_of_thread.set(None)

    def process_resource(
        self, req: Request, resp: Response, resource: object, params: dict[str, Any]
    ) -> None:
        """
        Count *req*, before its body is read.

        Raises:
            RateLimitedError: The tenant has too many requests in progress.
        """
        tenant: str | None = req.context.get("tenant")
        if tenant is None:
            return
        if self._is_shared:
            tenant_of_thread.set(tenant)
        limits = self._tenants.limits(tenant)
        at_most = limits.max_concurrent_requests or self._default
        if at_most is None:
            return
        if not self._slots.enter(tenant, at_most):
            raise RateLimitedError(
                "The tenant has too many requests at the same time; wait for some.",
                retry_after=1,
            )
        req.context.has_slot = True

    def process_response(
        self, req: Request, resp: Response, resource: object, req_succeeded: bool
    ) -> None:
        """Count *req* no longer."""
        if req.context.get("has_slot"):
            self._slots.leave(req.context.tenant)


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
