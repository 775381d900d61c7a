"""Writes audit records in the transaction of the change that they are about."""

import sqlalchemy as sa

from backends.sql.prepared import RowInsert, execute, parameters
from backends.sql.tables import audit_records
from signer.model.audit_record import Record
from signer.row_macs import RowMACs


INSERT = RowInsert(audit_records, parameters(audit_records, ("id", "body", "mac")))
"""Inserts audit records."""


def write(connection: sa.Connection, macs: RowMACs, *records: Record) -> None:
    """Insert *records* in the transaction of *connection*; a statement inserts all."""
    rows = [
        {
            "audit_records_id": record.id,
            "audit_records_body": record.body,
            "audit_records_mac": macs.mac_of(record),
        }
        for record in records
    ]
    if rows:
        execute(connection, INSERT, rows)
