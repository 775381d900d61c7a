"""Bounds the requests of a tenant that a process answers at the same time."""

from typing import Any

from falcon import Request, Response

from api.http.slots import Slots
from signer.config.tenants import TenantRegistry
from signer.errors import RateLimitedError


class ConcurrencyMiddleware:
    """
    Applies ``max_concurrent_requests``, after the caller's tenant is known.

    Without it, one of several tenants has three quarters of the threads.
    """

    def __init__(self, threads: int, tenants: TenantRegistry) -> None:
        self._tenants = tenants
        self._slots = Slots()
        is_shared = len(tenants.tenants or ()) > 1
        self._default = max(1, threads * 3 // 4) if is_shared else None

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
