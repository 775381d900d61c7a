"""Gives MACs to rows that have none, and renews those of an earlier MAC key."""

from typing import Any

from sqlalchemy import Connection, Table, Update, bindparam, select, text, update

from backends.sql.key_rows import KeyRows
from backends.sql.schema import (
    IS_OPEN,
    approvals,
    audit_records,
    keys,
    refunds,
    stops,
    tenant_blocks,
)
from backends.sql.sealed_rows import SealedRows
from signer.errors import ConfigurationError, Refusal
from signer.model.approval import Approval
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
    open refunds and unsealed audit records get one as well.  Otherwise a stop or block
    without a valid MAC stays as it is: it counts as in force until a command ends it.

    Raises:
        ConfigurationError: ``mac-key-missing``: trusted rows need *macs*.
        RowNotAuthenticError: A key of the ring has no valid MAC.
    """
    if macs is None:
        if trusted and connection.execute(select(keys)).first():
            raise ConfigurationError(Refusal("mac-key-missing", "set MAC_KEY_FILE"))
        return
    key_rows = KeyRows(connection, macs)
    if not trusted:
        key_rows.select(select(keys))  # Requires valid MACs.
    _renew(key_rows, keys, macs, trusted=trusted)
    _renew(SealedRows(connection, macs, stops, Stop), stops, macs, trusted=trusted)
    blocks = SealedRows(connection, macs, tenant_blocks, TenantBlock)
    _renew(blocks, tenant_blocks, macs, trusted=trusted)
    approval_rows = SealedRows(connection, macs, approvals, Approval)
    _renew(approval_rows, approvals, macs, trusted=trusted)
    if trusted:
        _trust(connection, macs)


def _renew(
    rows: SealedRows[Any], table: Table, macs: RowMACs, *, trusted: bool
) -> None:
    for row in rows.select_unverified(select(table)):
        if not macs.is_current(row.mac) and (trusted or rows.is_authentic(row)):
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
