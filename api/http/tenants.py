"""The administrative routes that block a tenant and end the block."""

from typing import Any

from falcon import Request, Response

from api.http import query
from api.http.body import read_object
from api.http.keys import AdministrativeResource
from api.request_context import actor
from api.views.refunds import timestamp
from signer.approvals import require_reason
from signer.errors import InvalidInputError
from signer.model.audit_record import Actor
from signer.refunds.tenant_admin import TenantAdmin, TenantStatus


class _TenantResource(AdministrativeResource):
    required_scope = "tenants:block"

    def __init__(self, admin: TenantAdmin) -> None:
        self._admin = admin


class TenantBlocking(_TenantResource):
    """``/v1/admin/tenants/{tenant}/block``: blocks a tenant at once, on all hosts."""

    def on_post(self, req: Request, resp: Response, tenant: str) -> None:
        """Block the tenant; safe to repeat."""
        query.parameters(req)

        resp.media = block_tenant(self._admin, tenant, actor(req))


class TenantUnblocking(_TenantResource):
    """``/v1/admin/tenants/{tenant}/unblock``: ends the block of a tenant."""

    def on_post(self, req: Request, resp: Response, tenant: str) -> None:
        """End the block; safe to repeat.  The body, with a reason, is optional."""
        query.parameters(req)
        body = read_object(req) if req.content_length else {}
        reason = body.pop("reason", "")
        if body or not isinstance(reason, str):
            raise InvalidInputError("may have only reason, a string", field="body")
        if reason:
            require_reason(reason)  # Also if no approval is needed.

        resp.media = unblock_tenant(self._admin, tenant, actor(req, reason))


def block_tenant(admin: TenantAdmin, tenant: str, by: Actor) -> dict[str, str]:
    """Block *tenant*, and return the result as JSON."""
    changed = admin.block(tenant, by)
    return {"tenant": tenant, "status": "blocked" if changed else "already-blocked"}


def unblock_tenant(admin: TenantAdmin, tenant: str, by: Actor) -> dict[str, str]:
    """End the block of *tenant*, and return the result as JSON."""
    changed = admin.unblock(tenant, by)
    return {"tenant": tenant, "status": "unblocked" if changed else "not-blocked"}


def tenant_document(status: TenantStatus) -> dict[str, Any]:
    """Return a tenant and its block as JSON."""
    block = status.block
    return {
        "tenant": status.name,
        "subjects": list(status.tenant.subjects),
        "clientIds": list(status.tenant.client_ids),
        "blockedAt": None if block is None else timestamp(block.at),
        "blockedBy": None if block is None else block.by,
        "authentic": block is None or block.is_authentic,
    }
