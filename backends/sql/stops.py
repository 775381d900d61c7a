"""The kill switch and the blocked tenants: their rows, and what depends on them."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Exists, Select, bindparam, exists, select

from backends.sql.advisory_locks import lock_keys
from backends.sql.approvals import use_approval
from backends.sql.database import Tables
from backends.sql.schema import stops, tenant_blocks
from backends.sql.sealed_rows import SealedRows, select_flagged
from signer.errors import StaleStateError, StoreUnavailableError
from signer.model.approval import ApprovalUse
from signer.model.stop import EVERYTHING, Stop
from signer.model.tenant_block import TenantBlock
from signer.row_macs import RowMACs


Row = TypeVar("Row", Stop, TenantBlock)

_STOPS = select(stops).order_by(stops.c.chain_id)

_OF_CHAINS = _STOPS.where(stops.c.chain_id.in_(bindparam("chains", expanding=True)))

_BLOCKS = select(tenant_blocks).order_by(tenant_blocks.c.tenant)

_OF_TENANTS = _BLOCKS.where(
    tenant_blocks.c.tenant.in_(bindparam("of_tenants", expanding=True))
)


def is_stopped(chain_id: Any) -> Exists:
    """Return the condition that a stop forbids signatures on *chain_id*."""
    return exists().where(
        stops.c.chain_id.in_([EVERYTHING, chain_id]), stops.c.resumed_at.is_(None)
    )


def is_blocked(tenant: Any) -> Exists:
    """Return the condition that *tenant* is blocked."""
    return exists().where(
        tenant_blocks.c.tenant == tenant, tenant_blocks.c.ended_at.is_(None)
    )


def require_running(connection: Connection, macs: RowMACs, chain_id: int) -> None:
    """
    Require that no stop forbids signatures on *chain_id*.

    Raises:
        SigningStoppedError: One is.
        RowNotAuthenticError: Another program changed a stop, perhaps to end it.
    """
    stop = _find_stop(connection, macs, chain_id)
    if stop is not None:
        raise stop.error()


def find_blocks(
    connection: Connection, macs: RowMACs, tenants: Collection[str]
) -> Mapping[str, TenantBlock]:
    """Return the blocks in force of *tenants*, by tenant."""
    rows = select_flagged(
        _block_rows(connection, macs), _OF_TENANTS, of_tenants=sorted(tenants)
    )
    return {block.tenant: block for block in rows if block.in_force}


def require_unblocked(connection: Connection, macs: RowMACs, tenant: str) -> None:
    """
    Require that *tenant* is not blocked.

    Raises:
        TenantBlockedError: It is.
        RowNotAuthenticError: Another program changed the block, perhaps to end it.
    """
    for block in find_blocks(connection, macs, {tenant}).values():
        raise block.error()


def _find_stop(connection: Connection, macs: RowMACs, chain_id: int) -> Stop | None:
    rows = _stop_rows(connection, macs)
    return _first_in_force(
        select_flagged(rows, _OF_CHAINS, chains=[EVERYTHING, chain_id])
    )


def _first_in_force(found: Sequence[Row]) -> Row | None:
    return next((row for row in found if row.in_force), None)


def _end(
    rows: SealedRows[Row],
    query: Select[Any],
    key: dict[str, Any],
    version: int | None,
    **end: datetime,
) -> bool:
    """Change the row with *key* by *end* if it is in force; return whether it was."""
    stored = _first_in_force(select_flagged(rows, query, **key))
    if stored is None:
        return False
    if not stored.is_authentic:
        raise stored.error()
    if version is not None and stored.version != version:
        raise StaleStateError("the row was changed meanwhile: try again")
    rows.update(stored, **end)
    return True


def _stop_rows(connection: Connection, macs: RowMACs) -> SealedRows[Stop]:
    return SealedRows(connection, macs, stops, Stop)


def _block_rows(connection: Connection, macs: RowMACs) -> SealedRows[TenantBlock]:
    return SealedRows(connection, macs, tenant_blocks, TenantBlock)


class StopTables(Tables):
    """Implements ``signer.ports.StopStore`` and ``signer.ports.TenantBlocks``."""

    def stop(self, stop: Stop) -> bool:
        def work(connection: Connection) -> bool:
            rows = _stop_rows(connection, self._macs)
            return _begin(rows, stop, _OF_CHAINS, chains=[stop.chain_id])

        try:
            changed = self._database.transaction(work)
        except StaleStateError:  # Another process wrote the row meanwhile.
            changed = self._database.transaction(work)
        # The stop is in force.  Wait for reservations and intents that may have begun
        # before: they share this lock.  One that hangs must not fail the stop, and what
        # it signs is not recorded.
        with suppress(StoreUnavailableError):
            self._database.transaction(lambda c: lock_keys(c, shared=False))
        return changed

    def resume_signing(
        self,
        chain_id: int,
        at: datetime,
        version: int | None = None,
        use: ApprovalUse | None = None,
    ) -> bool:
        def work(connection: Connection) -> bool:
            rows = _stop_rows(connection, self._macs)
            key = {"chains": [chain_id]}
            is_changed = _end(rows, _OF_CHAINS, key, version, resumed_at=at)
            use_approval(connection, self._macs, use if is_changed else None)
            return is_changed

        return self._database.transaction(work)

    def stops(self) -> Sequence[Stop]:
        return self._database.run(
            lambda c: select_flagged(_stop_rows(c, self._macs), _STOPS)
        )

    def find_stop(self, chain_id: int) -> Stop | None:
        return self._database.run(lambda c: _find_stop(c, self._macs, chain_id))

    def block_tenant(self, block: TenantBlock) -> bool:
        def work(connection: Connection) -> bool:
            # Reservations share this lock: each either has its nonce by now, or sees
            # the block.
            lock_keys(connection, shared=False)
            rows = _block_rows(connection, self._macs)
            return _begin(rows, block, _OF_TENANTS, of_tenants=[block.tenant])

        return self._database.transaction(work)

    def unblock_tenant(
        self,
        tenant: str,
        at: datetime,
        version: int | None = None,
        use: ApprovalUse | None = None,
    ) -> bool:
        def work(connection: Connection) -> bool:
            rows = _block_rows(connection, self._macs)
            key = {"of_tenants": [tenant]}
            is_changed = _end(rows, _OF_TENANTS, key, version, ended_at=at)
            use_approval(connection, self._macs, use if is_changed else None)
            return is_changed

        return self._database.transaction(work)

    def tenant_block(self, tenant: str) -> TenantBlock | None:
        blocks = self._database.run(lambda c: find_blocks(c, self._macs, {tenant}))
        return blocks.get(tenant)

    def tenant_blocks(self) -> Sequence[TenantBlock]:
        found = self._database.run(
            lambda c: select_flagged(_block_rows(c, self._macs), _BLOCKS)
        )
        return tuple(block for block in found if block.in_force)


def _begin(rows: SealedRows[Row], new: Row, query: Select[Any], **key: Any) -> bool:
    """
    Make *new* the stored row, unless one with its key is in force; return whether so.

    A stored row that another program changed is replaced: it must not prevent a stop.
    """
    stored = select_flagged(rows, query, **key)
    if not stored:
        rows.insert(new)
        return True
    if stored[0].is_authentic and stored[0].in_force:
        return False
    rows.replace(stored[0], new)
    return True
