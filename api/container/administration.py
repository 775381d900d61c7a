"""What operators change: stops, nonces, tenants, deliveries; sweeps and restores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from api.container.keys import KeyParts


if TYPE_CHECKING:
    from signer.keys.admin_audit import AdminAudit
    from signer.refunds.kill_switch import KillSwitch
    from signer.refunds.nonce_admin import NonceAdmin
    from signer.refunds.sweep import Sweeper
    from signer.refunds.tenant_admin import TenantAdmin
    from signer.restore.planner import RestorePlanner
    from signer.restore.restorer import Restorer
    from signer.webhooks.delivery_admin import DeliveryAdmin


@dataclass(kw_only=True, eq=False, repr=False)
class AdministrationParts(KeyParts):
    """Changes by operators, each recorded with who made it."""

    @cached_property
    def _administration(self) -> AdminAudit:
        from signer.keys.admin_audit import AdminAudit
        from signer.model.audit_record import Operation

        return AdminAudit(
            self.audit, Operation.ADMINISTRATION, approvals=self.approvals
        )

    @cached_property
    def kill_switch(self) -> KillSwitch:
        """Stops and resumes signatures; needs no device, node or networks file."""
        from signer.refunds.kill_switch import KillSwitch

        return KillSwitch(
            self.store,
            lambda: self.networks,
            self._administration,
            self.alerts,
            self.ledger_clock,
        )

    @cached_property
    def tenant_admin(self) -> TenantAdmin:
        """Blocks tenants, and records which operator did."""
        from signer.refunds.tenant_admin import TenantAdmin

        return TenantAdmin(self.store, self.tenants, self._administration, self.clock)

    @cached_property
    def nonce_admin(self) -> NonceAdmin:
        """Changes wallets, and records which operator did."""
        from signer.refunds.nonce_admin import NonceAdmin

        return NonceAdmin(self.store, self.chains, self._administration, self.clock)

    @cached_property
    def delivery_admin(self) -> DeliveryAdmin:
        """Lists and repeats deliveries, and records which operator did."""
        from signer.webhooks.delivery_admin import DeliveryAdmin

        return DeliveryAdmin(
            self.store, self.tenants, self._administration, self.ledger_clock
        )

    @cached_property
    def sweeper(self) -> Sweeper:
        """Moves the balances of former keys to the active key."""
        from signer.refunds.sweep import Sweeper

        return Sweeper(
            self.store,
            self.store,
            self.ring,
            self.chains,
            audit=self.audit,
            clock=self.ledger_clock,
        )

    @cached_property
    def restore_planner(self) -> RestorePlanner:
        """Finds what a restored ledger has lost."""
        from signer.restore.planner import RestorePlanner

        return RestorePlanner(self.store, self.chains, self.tenants, self.ledger_clock)

    @cached_property
    def restorer(self) -> Restorer:
        """Repeats what a restored ledger has lost; one approval is for all of it."""
        from signer.deadline import Deadlines
        from signer.keys.balances import BalanceReader
        from signer.keys.revocation import Revocation
        from signer.keys.rotation import Rotation
        from signer.restore.restorer import Restorer

        store, audit, clock = self.store, self.audit, self.clock
        return Restorer(
            store,
            self.networks,
            rotation=Rotation(
                store,
                self.signers,
                read_balances=BalanceReader(self.chains, Deadlines()),
                alerts=self.alerts,
                clock=clock,
            ),
            revocation=Revocation(store, audit=audit, clock=clock),
            failover=self.failover,
            kill_switch=self.kill_switch,
            tenant_admin=self.tenant_admin,
            admin_audit=self._administration,
            clock=self.ledger_clock,
        )
