"""The kill switch and the blocked tenants, and what depends on them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Exists, exists

from backends.sql.advisory_locks import lock_keys
from backends.sql.approvals import use_approval
from backends.sql.database import Tables
from backends.sql.holds import (
    BLOCKS,
    STOPS,
    HoldRows,
    Row,
    raise_changes,
    remember,
)
from backends.sql.schema import stops, tenant_blocks
from signer.errors import StaleStateError, StoreUnavailableError
from signer.model.approval import ApprovalUse
from signer.model.stop import EVERY_CHAIN, EVERYTHING, Stop
from signer.model.tenant_block import TenantBlock
from signer.row_macs import RowMACs


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
    Require that no stop forbids signatures on *chain_id*, or on ``EVERY_CHAIN``.

    Raises:
        SigningStoppedError: One does.
        RowNotAuthenticError: Another program changed or deleted a stop, perhaps to end
            it.
    """
    wanted = () if chain_id == EVERY_CHAIN else (EVERYTHING, chain_id)
    _, found = STOPS.select(connection, macs, *wanted)
    stop = _first_in_force(found)
    if stop is not None:
        raise stop.error()


def find_blocks(
    connection: Connection, macs: RowMACs, tenants: Collection[str]
) -> Mapping[str, TenantBlock]:
    """Return the blocks in force of *tenants*, by tenant."""
    _, found = BLOCKS.select(connection, macs, *sorted(tenants))
    return {block.tenant: block for block in found if block.in_force}


def require_unblocked(connection: Connection, macs: RowMACs, tenant: str) -> None:
    """
    Require that *tenant* is not blocked.

    Raises:
        TenantBlockedError: It is.
        RowNotAuthenticError: Another program changed or deleted the block, perhaps to
            end it.
    """
    for block in find_blocks(connection, macs, {tenant}).values():
        raise block.error()


def _first_in_force(found: Sequence[Row]) -> Row | None:
    return next((row for row in found if row.in_force), None)


class StopTables(Tables):
    """Implements ``signer.ports.ControlStore`` and ``signer.ports.ControlStore``."""

    def stop(self, stop: Stop) -> bool:
        return self._begin(STOPS, stop)

    def resume_signing(
        self,
        chain_id: int,
        at: datetime,
        version: int | None = None,
        use: ApprovalUse | None = None,
    ) -> bool:
        def end(stop: Stop) -> Stop:
            return replace(stop, resumed_at=at)

        return self._end(STOPS, chain_id, end, version, use)

    def stops(self) -> Sequence[Stop]:
        return self._read(STOPS)

    def find_stop(self, chain_id: int) -> Stop | None:
        return _first_in_force(self._read(STOPS, EVERYTHING, chain_id))

    def block_tenant(self, block: TenantBlock) -> bool:
        return self._begin(BLOCKS, block)

    def unblock_tenant(
        self,
        tenant: str,
        at: datetime,
        version: int | None = None,
        use: ApprovalUse | None = None,
    ) -> bool:
        def end(block: TenantBlock) -> TenantBlock:
            return replace(block, ended_at=at)

        return self._end(BLOCKS, tenant, end, version, use)

    def tenant_block(self, tenant: str) -> TenantBlock | None:
        return _first_in_force(self._read(BLOCKS, tenant))

    def tenant_blocks(self) -> Sequence[TenantBlock]:
        return tuple(block for block in self.last_blocks() if block.in_force)

    def last_blocks(self) -> Sequence[TenantBlock]:
        return self._read(BLOCKS)

    def hold_changes(self) -> int:
        def work(connection: Connection) -> int:
            register, _ = STOPS.select(connection, self._macs, EVERYTHING)
            return 0 if register is None else register.changes

        return self._database.run(work)

    def raise_hold_changes(self, changes: int) -> None:
        self._database.transaction(lambda c: raise_changes(c, self._macs, changes))

    def _read(self, kind: HoldRows[Row], *keys: object) -> Sequence[Row]:
        def work(connection: Connection) -> Sequence[Row]:
            register, found = kind.select(connection, self._macs, *keys)
            remember(connection, register)
            return tuple(found)

        return self._database.run(work)

    def _begin(self, kind: HoldRows[Row], new: Row) -> bool:
        """
        Make *new* the stored row, unless one with its key is in force.

        A stored row that another program changed is replaced: it must not prevent a
        stop.  Return whether anything changed.
        """

        def work(connection: Connection) -> bool:
            _, found = kind.select(connection, self._macs, kind.key_of(new))
            stored = found[0] if found else None
            if stored is not None and stored.is_authentic and stored.in_force:
                return False
            kind.put(connection, self._macs, stored, new)
            return True

        try:
            changed = self._database.transaction(work)
        except StaleStateError:  # Another process wrote the row meanwhile.
            changed = self._database.transaction(work)
        # It is in force.  Wait for reservations and intents that may have begun before:
        # they share this lock.  One that hangs must not fail the command, and what it
        # signs under a stop is not recorded.
        with suppress(StoreUnavailableError):
            self._database.transaction(lambda c: lock_keys(c, shared=False))
        return changed

    def _end(
        self,
        kind: HoldRows[Row],
        key: object,
        end: Callable[[Row], Row],
        version: int | None,
        use: ApprovalUse | None,
    ) -> bool:
        """Store what *end* returns for the row with *key*, if it is in force."""

        def work(connection: Connection) -> bool:
            _, found = kind.select(connection, self._macs, key)
            stored = _first_in_force(found)
            if stored is None:
                return False
            if not stored.is_authentic:
                raise stored.error()
            if version is not None and stored.version != version:
                raise StaleStateError("the row was changed meanwhile: try again")
            kind.put(connection, self._macs, stored, end(stored))
            use_approval(connection, self._macs, use)
            return True

        return self._database.transaction(work)
