"""
Operator commands on tenants: list them, block one at once, and end the block.

Each is audited like the commands on nonces: the intent is durable before anything
changes, and the outcome is recorded afterwards, both with the operator's name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from signer.audit.actions import AuditAction
from signer.config.tenants import NO_LIMITS, Tenant, TenantRegistry, is_tenant_name
from signer.errors import NotFoundError
from signer.keys.admin_audit import AdminAudit, Facts
from signer.model.audit_record import Actor
from signer.model.hold import Hold
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger


@dataclass(frozen=True, slots=True)
class TenantStatus:
    """A tenant, and its block; ``block`` is None if it is not blocked."""

    name: str
    tenant: Tenant
    block: Hold | None


class TenantAdmin:
    """Blocks tenants of the registry; every method may raise ``StoreError``."""

    def __init__(
        self,
        store: Ledger,
        registry: TenantRegistry,
        admin_audit: AdminAudit,
        clock: Clock,
    ) -> None:
        self._store = store
        self._registry = registry
        self._admin_audit = admin_audit
        self._clock = clock

    def list(self) -> Sequence[TenantStatus]:
        """Return the tenants of the file and all that are blocked, by name."""
        listed = self._registry.tenants or {}
        blocks = {block.tenant: block for block in self._store.blocks()}
        return [
            TenantStatus(name, listed.get(name, NO_LIMITS), blocks.get(name))
            for name in sorted({*listed, *blocks})
        ]

    def find(self, name: str) -> TenantStatus:
        """
        Return the tenant *name*.

        Raises:
            NotFoundError: The tenants file has no such tenant, and it has no refund.
        """
        # Another program may have inserted a block with any name: `unblock` ends it.
        blocks = self._store.blocks()
        block = next((each for each in blocks if each.tenant == name), None)
        if block is None and not self._exists(name):
            raise NotFoundError("there is no such tenant: see `hotwallet tenants list`")
        return TenantStatus(name, self._registry.limits(name), block)

    def block(self, name: str, actor: Actor) -> bool:
        """
        Refuse changes by the tenant *name*, and assign its refunds no more nonces.

        This takes effect on all hosts before it returns.  Refunds that have a nonce
        already continue.  Return False if the tenant was already blocked.  A block that
        another program changed is replaced.

        Raises:
            NotFoundError: As ``find``.
        """
        action = AuditAction.TENANT_BLOCK
        with self._admin_audit.attempt(action, actor, tenant=name):
            self.find(name)
            block = Hold.of_tenant(name, self._clock(), actor.reason, actor.name)
            changed = self._store.hold(block)
            return self._written(action, actor, name, changed=changed)

    def unblock(self, name: str, actor: Actor) -> bool:
        """
        End the block of *name*; return False if there was none.

        Raises:
            NotFoundError: As ``find``.
            RowNotAuthenticError: Another program changed the block: ``block`` first.
            ApprovalRequiredError: Another administrator must approve it first.
        """
        action = AuditAction.TENANT_UNBLOCK
        with self._admin_audit.attempt(action, actor, tenant=name):
            block = self.find(name).block
            changed = block is not None and self._unblock(block, actor)
            return self._written(action, actor, name, changed=changed)

    def _written(
        self, action: AuditAction, actor: Actor, name: str, *, changed: bool
    ) -> bool:
        """Return *changed*, after the outcome is recorded."""
        changes = self._store.hold_changes()
        self._admin_audit.write(
            action, actor, tenant=name, changed=changed, hold_changes=changes
        )
        return changed

    def _unblock(self, block: Hold, actor: Actor) -> bool:
        if not block.is_authentic:
            raise block.error()
        blocked: Facts = {
            "tenant": block.tenant,
            "blocked_at": block.at.isoformat(),
            "blocked_by": block.requested_by,
            "version": block.version,
        }
        action = AuditAction.TENANT_UNBLOCK
        with self._admin_audit.authorize(action, actor, **blocked) as use:
            at = self._clock()
            return self._store.release(block.name, at, block.version, use)

    def _exists(self, name: str) -> bool:
        if not is_tenant_name(name):
            return False
        if self._registry.tenants is None or name in self._registry.tenants:
            return True
        # One that was removed from the file may still have queued refunds.
        return self._store.list(name, limit=1).refunds != ()
