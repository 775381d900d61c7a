"""Gives MACs to rows that have none, and renews those of an earlier MAC key."""

from sqlalchemy import Connection, Update, bindparam, select, text, update

from backends.sql.key_rows import KeyRows
from backends.sql.schema import IS_OPEN, audit_records, keys, refunds
from signer.errors import ConfigurationError, Refusal
from signer.model.audit_record import Record
from signer.model.key import Key
from signer.model.refund import Refund
from signer.row_macs import RowMACs


_KEYS = select(keys)

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
    Give every row of the key ring a MAC under the current MAC key.

    With *trusted*, the rows are of a ledger from before MACs: no MAC is verified, and
    open refunds and unsealed audit records get one as well.

    Raises:
        ConfigurationError: ``mac-key-missing``: trusted rows need *macs*.
        RowNotAuthenticError: A row of the ring has no valid MAC.
    """
    ring = [Key(*row) for row in connection.execute(_KEYS)]
    if macs is None:
        if trusted and ring:
            raise ConfigurationError(Refusal("mac-key-missing", "set MAC_KEY_FILE"))
        return
    rows = KeyRows(connection, macs)
    for key in ring:
        if not trusted:
            macs.require_key(key)
        if not macs.is_current(key.mac):
            rows.update(key, key.updated_at)
    if trusted:
        _trust(connection, macs)


def _trust(connection: Connection, macs: RowMACs) -> None:
    """Give open refunds and unsealed audit records their first MAC."""
    for row in connection.execute(_OPEN_REFUNDS).all():
        refund = Refund(*row)
        _set_mac(connection, _SET_REFUND_MAC, refund.id, macs.of_refund(refund))
    for row in connection.execute(_UNSEALED).all():
        record = Record(*row)
        _set_mac(connection, _SET_RECORD_MAC, record.id, macs.of_record(record))


def _set_mac(connection: Connection, statement: Update, id_: str, mac: str) -> None:
    connection.execute(statement, {"of_id": id_, "new_mac": mac})
