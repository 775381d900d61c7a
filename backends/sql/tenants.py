"""The tenants that an operator has blocked."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, bindparam, delete, select

from backends.sql.advisory_locks import lock_keys
from backends.sql.database import Tables
from backends.sql.schema import tenant_blocks
from backends.sql.statements import insert_new
from signer.model.tenant_block import TenantBlock


_ALL = select(tenant_blocks).order_by(tenant_blocks.c.tenant)

_OF_TENANT = tenant_blocks.c.tenant == bindparam("of_tenant")

_BLOCK = select(tenant_blocks).where(_OF_TENANT)

_UNBLOCK = delete(tenant_blocks).where(_OF_TENANT)


class TenantTables(Tables):
    """Implements ``signer.ports.TenantBlocks``."""

    def block_tenant(self, block: TenantBlock) -> bool:
        insert = insert_new(self._database.dialect, tenant_blocks)

        def work(connection: Connection) -> bool:
            # Reservations share this lock: each either has its nonce by now, or sees
            # the block.
            lock_keys(connection, shared=False)
            return connection.execute(insert, asdict(block)).all() != []

        return self._database.transaction(work)

    def unblock_tenant(self, tenant: str) -> bool:
        params = {"of_tenant": tenant}
        return self._database.write(lambda c: c.execute(_UNBLOCK, params).rowcount > 0)

    def tenant_block(self, tenant: str) -> TenantBlock | None:
        rows = self._database.rows(_BLOCK, of_tenant=tenant)
        return TenantBlock(*rows[0]) if rows else None

    def tenant_blocks(self) -> Sequence[TenantBlock]:
        return tuple(TenantBlock(*row) for row in self._database.rows(_ALL))
