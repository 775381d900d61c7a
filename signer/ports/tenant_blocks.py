"""What the core asks of the ledger about blocked tenants."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from signer.model.approval import ApprovalUse
from signer.model.tenant_block import TenantBlock


class TenantBlocks(Protocol):
    """
    The tenants that an operator has blocked; raises as ``Store``.

    A block of which another program changed the row is in force, and not authentic.
    """

    def block_tenant(self, block: TenantBlock) -> bool:
        """
        Block a tenant; return False if it was already blocked.

        A block that is not authentic is replaced.
        When this returns, no reservation of the tenant's refunds is in progress, except
        one that hangs for longer than a lock is waited for.
        """

    def unblock_tenant(
        self,
        tenant: str,
        at: datetime,
        version: int | None = None,
        use: ApprovalUse | None = None,
    ) -> bool:
        """
        End the block of *tenant*, at *at*; return whether it was blocked.

        *use* ends an approval in the same transaction.

        Raises:
            StaleStateError: The block in force does not have the given *version*, or
                the approval has changed.
            RowNotAuthenticError: The block is not authentic: block the tenant first.
        """

    def tenant_block(self, tenant: str) -> TenantBlock | None:
        """Return the block of *tenant* that is in force, or None."""

    def tenant_blocks(self) -> Sequence[TenantBlock]:
        """Return every block that is in force, by name of the tenant."""

    def last_blocks(self) -> Sequence[TenantBlock]:
        """Return the last block of each tenant, also if it was ended."""
