"""Gives MACs to rows that have none, and renews those of an earlier MAC key."""

from typing import Any

from sqlalchemy import Connection, Table, Update, bindparam, select, text, update

from backends.sql.key_rows import KeyRows
from backends.sql.schema import (
    IS_OPEN,
    audit_records,
    keys,
    refunds,
    stops,
    tenant_blocks,
)
from backends.sql.sealed_rows import SealedRows
from signer.errors import ConfigurationError, Refusal
from signer.model.audit_record import Record
from signer.model.refund import Refund
from signer.model.stop import Stop
from signer.model.tenant_block import TenantBlock
from signer.row_macs import RowMACs


_OPEN_REFUNDS = select(refunds).where(text(IS_OPEN))

_UNSEALED = select(audit_records.c.id, audit_records.c.body).where(
    audit_records.c.sequence.is_(None)
)

_SET_REFUND_MAC, _SET_RECORD_MAC = (
    update(table)
    .where(table.c.id == bindparam("of_id"))
    .values(mac=bindparam("new_mac"))
    for table in (refunds, audit_records)
)


def update_macs(connection: Connection, macs: RowMACs | None, *, trusted: bool) -> None:
    """
    Give every key of the ring, stop and blocked tenant a MAC under the current MAC key.

    With *trusted*, the rows are of a ledger from before MACs: no MAC is verified, and
    open refunds and unsealed audit records get one as well.

    Raises:
        ConfigurationError: ``mac-key-missing``: trusted rows need *macs*.
        RowNotAuthenticError: A row has no valid MAC.
    """
    if macs is None:
        if trusted and connection.execute(select(keys)).first():
            raise ConfigurationError(Refusal("mac-key-missing", "set MAC_KEY_FILE"))
        return
    _renew(KeyRows(connection, macs), keys, macs, trusted=trusted)
    _renew(SealedRows(connection, macs, stops, Stop), stops, macs, trusted=trusted)
    blocks = SealedRows(connection, macs, tenant_blocks, TenantBlock)
    _renew(blocks, tenant_blocks, macs, trusted=trusted)
    if trusted:
        _trust(connection, macs)


def _renew(
    rows: SealedRows[Any], table: Table, macs: RowMACs, *, trusted: bool
) -> None:
    select_ = rows.select_unverified if trusted else rows.select
    for row in select_(select(table)):
        if not macs.is_current(row.mac):
            rows.update(row)


def _trust(connection: Connection, macs: RowMACs) -> None:
    """Give open refunds and unsealed audit records their first MAC."""
    for row in connection.execute(_OPEN_REFUNDS).all():
        refund = Refund(*row)
        _set_mac(connection, _SET_REFUND_MAC, refund.id, macs.compute(refund))
    for row in connection.execute(_UNSEALED).all():
        record = Record(*row)
        _set_mac(connection, _SET_RECORD_MAC, record.id, macs.compute(record))


def _set_mac(connection: Connection, statement: Update, id_: str, mac: str) -> None:
    connection.execute(statement, {"of_id": id_, "new_mac": mac})
