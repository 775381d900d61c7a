"""What the core asks of the ledger about blocked tenants."""

from collections.abc import Sequence
from typing import Protocol

from signer.model.tenant_block import TenantBlock


class TenantBlocks(Protocol):
    """The tenants that an operator has blocked; raises as ``Store``."""

    def block_tenant(self, block: TenantBlock) -> bool:
        """
        Block a tenant; return False if it was already blocked.

        When this returns, no reservation of the tenant's refunds is in progress.
        """

    def unblock_tenant(self, tenant: str) -> bool:
        """End the block of *tenant*; return whether it was blocked."""

    def tenant_block(self, tenant: str) -> TenantBlock | None:
        """Return the block of *tenant*, or None."""

    def tenant_blocks(self) -> Sequence[TenantBlock]:
        """Return every block, by name of the tenant."""
