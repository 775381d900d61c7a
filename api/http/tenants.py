"""The administrative routes that block a tenant and end the block."""

from falcon import Request, Response

from api.http import query
from api.http.body import read_optional_object
from api.http.keys import AdministrativeResource
from api.request_context import actor
from api.views.tenants import block_document, unblock_document
from signer.approvals import require_reason
from signer.errors import InvalidInputError
from signer.refunds.tenant_admin import TenantAdmin


class _TenantResource(AdministrativeResource):
    required_scope = "tenants:block"

    def __init__(self, admin: TenantAdmin) -> None:
        self._admin = admin


class TenantBlocking(_TenantResource):
    """``/v1/admin/tenants/{tenant}/block``: blocks a tenant at once, on all hosts."""

    def on_post(self, req: Request, resp: Response, tenant: str) -> None:
        """Block the tenant; safe to repeat.  The body, with a reason, is optional."""
        query.parameters(req)

        changed = self._admin.block(tenant, actor(req, _read_reason(req)))

        resp.media = block_document(tenant, is_changed=changed)


class TenantUnblocking(_TenantResource):
    """``/v1/admin/tenants/{tenant}/unblock``: ends the block of a tenant."""

    def on_post(self, req: Request, resp: Response, tenant: str) -> None:
        """End the block; safe to repeat.  The body, with a reason, is optional."""
        query.parameters(req)

        changed = self._admin.unblock(tenant, actor(req, _read_reason(req)))

        resp.media = unblock_document(tenant, is_changed=changed)


def _read_reason(req: Request) -> str:
    body = read_optional_object(req)
    reason = body.pop("reason", "")
    if body or not isinstance(reason, str):
        raise InvalidInputError("may have only reason, a string", field="body")
    if reason:
        require_reason(reason)  # Also if no approval is needed.
    return reason
