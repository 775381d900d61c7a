"""Writes audit records in the transaction of the change that they are about."""

from sqlalchemy import Connection, insert

from backends.sql.tables import audit_records
from signer.model.audit_record import Record
from signer.row_macs import RowMACs


_INSERT_RECORD = insert(audit_records)


def write(connection: Connection, macs: RowMACs, *records: Record) -> None:
    """Insert *records* in the transaction of *connection*."""
    rows = [
        {"id": record.id, "body": record.body, "mac": macs.mac_of(record)}
        for record in records
    ]
    if len(rows) == 1:
        connection.execute(_INSERT_RECORD, rows[0])  # Compiled once, then cached.
    elif rows:
        # A single statement inserts all or none.
        connection.execute(_INSERT_RECORD.values(rows))
