"""Blocking a tenant, and ending its block."""

from api.console.changes.change import (
    REASON,
    Change,
    Facts,
    Field,
    Outcome,
    Plan,
    Values,
)
from api.console.rendering import format_time
from api.container import Container
from signer.model.audit_record import Actor


_PAGE = "/console/stops"

_TENANT = Field("tenant", "Tenant")


def _plan_block(container: Container, values: Values) -> Plan:
    status = container.tenant_admin.find(values["tenant"])
    notes = [
        "Its requests that change something are refused at once, on all hosts.",
        "Its refunds get no more nonces; those that have one continue.",
        "It can still read.",
    ]
    if status.block is not None:
        notes.insert(0, "It is blocked already.")
    return Plan(notes=notes)


def _plan_unblock(container: Container, values: Values) -> Plan:
    block = container.tenant_admin.find(values["tenant"]).block
    if block is None:
        return Plan(notes=["It is not blocked: nothing will change."])
    if not block.is_authentic:
        again = "Another program changed this block: block the tenant again first."
        return Plan(notes=[again])
    facts: Facts = [
        ("blocked since", format_time(block.at)),
        ("blocked by", block.by),
        ("version of the block", str(block.version)),
    ]
    notes = ["Its refunds that wait are then paid."]
    return Plan(facts, notes, needs_approval=container.approvals.required)


def _block(container: Container, values: Values, actor: Actor) -> Outcome:
    changed = container.tenant_admin.block(values["tenant"], actor)
    return Outcome("The tenant is blocked" if changed else "It was blocked already")


def _unblock(container: Container, values: Values, actor: Actor) -> Outcome:
    changed = container.tenant_admin.unblock(values["tenant"], actor)
    return Outcome("The block is ended" if changed else "It was not blocked")


BLOCK = Change(
    "block-tenant",
    "Block a tenant",
    "tenants:block",
    "POST /v1/admin/tenants/{tenant}/block",
    _PAGE,
    (_TENANT, REASON),
    _plan_block,
    _block,
    is_danger=True,
)

UNBLOCK = Change(
    "unblock-tenant",
    "Unblock a tenant",
    "tenants:block",
    "POST /v1/admin/tenants/{tenant}/unblock",
    _PAGE,
    (_TENANT, REASON),
    _plan_unblock,
    _unblock,
)
