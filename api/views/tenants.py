"""Tenants and their blocks, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from signer.refunds.tenant_admin import TenantStatus


def tenant_document(status: TenantStatus) -> dict[str, Any]:
    """Return a tenant and its block as JSON."""
    from api.views.document import timestamp

    block = status.block
    return {
        "tenant": status.name,
        "subjects": list(status.tenant.subjects),
        "clientIds": list(status.tenant.client_ids),
        "blockedAt": None if block is None else timestamp(block.at),
        "blockedBy": None if block is None else block.requested_by,
        "authentic": block is None or block.is_authentic,
    }


def block_document(tenant: str, *, is_changed: bool) -> dict[str, str]:
    """Return the result of blocking *tenant* as JSON."""
    return {"tenant": tenant, "status": "blocked" if is_changed else "already-blocked"}


def unblock_document(tenant: str, *, is_changed: bool) -> dict[str, str]:
    """Return the result of ending the block of *tenant* as JSON."""
    return {"tenant": tenant, "status": "unblocked" if is_changed else "not-blocked"}
