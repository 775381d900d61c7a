"""``hotwallet tenants``: list, block and unblock tenants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from api.cli.confirmation import confirmed
from api.cli.operator import REASON, current_operator, identified_operator
from api.cli.output import Result, reports


if TYPE_CHECKING:
    from signer.refunds.tenant_admin import TenantStatus


@click.group()
def tenants() -> None:
    """List, block and unblock tenants."""


@tenants.command("list")
@reports
def list_tenants() -> Result:
    """List the tenants of TENANTS_FILE, and all that are blocked."""
    from api.bootstrap import build_container
    from api.views.tenants import tenant_document

    found = build_container().tenant_admin.list()
    documents = [tenant_document(each) for each in found]
    return Result(documents, _format_tenants(found))


@tenants.command()
@click.argument("tenant")
@confirmed("Its refunds without a nonce then wait. Block the tenant {tenant}?")
@reports
def block(tenant: str, *, dry_run: bool) -> Result:
    """
    Block TENANT at once, on all hosts.

    Its requests that change something get 403, and its queued refunds get no nonce.  It
    can still read.  Refunds that have a nonce already continue.
    """
    from api.bootstrap import build_container
    from api.views.tenants import block_document

    admin = build_container().tenant_admin
    if dry_run:
        found = admin.find(tenant).block
        is_blocked = found is not None and found.is_authentic
        status = "already-blocked" if is_blocked else "would-block"
        return _status({"tenant": tenant, "status": status})
    changed = admin.block(tenant, current_operator())
    return _status(block_document(tenant, is_changed=changed))


@tenants.command()
@click.argument("tenant")
@REASON
@confirmed("Its waiting refunds are then paid. Unblock the tenant {tenant}?")
@reports
def unblock(tenant: str, reason: str, *, dry_run: bool) -> Result:
    """End the block of TENANT: its queued refunds are paid."""
    from api.bootstrap import build_container
    from api.views.tenants import unblock_document

    container = build_container()
    admin = container.tenant_admin
    if dry_run:
        found = admin.find(tenant).block
        if found is not None and not found.is_authentic:
            raise found.error()
        status = "not-blocked" if found is None else "would-unblock"
        return _status({"tenant": tenant, "status": status})
    operator = identified_operator(container, "tenants:block", reason)
    changed = admin.unblock(tenant, operator)
    return _status(unblock_document(tenant, is_changed=changed))


def _status(document: dict[str, str]) -> Result:
    return Result(document, [f"{document['tenant']}: {document['status']}"])


def _format_tenants(found: Sequence[TenantStatus]) -> Iterator[str]:
    from api.views.refunds import timestamp

    if not found:
        yield "TENANTS_FILE is not set: each token subject is a tenant of its own"
    for each in found:
        callers = ", ".join((*each.tenant.subjects, *each.tenant.client_ids))
        # Another program may have inserted a block with any name.
        name = each.name if each.name.isprintable() else ascii(each.name)
        yield f"{name}: {callers or 'not in TENANTS_FILE'}"
        if each.block is not None and not each.block.is_authentic:
            yield (
                "  not authentic: another program changed this row; block again and"
                " unblock"
            )
        elif each.block is not None:
            yield f"  blocked since {timestamp(each.block.at)} by {each.block.by}"
