"""Fills a ledger with a long audit log: its hashes, MACs and checkpoints are valid."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection, insert

from backends.sql.database import Database
from backends.sql.tables import audit_checkpoints, audit_records
from signer.audit.actions import SUCCESS
from signer.audit.checkpointer import RECORDS
from signer.audit.checkpoints import CheckpointKey
from signer.audit.hash_chain import GENESIS, sealed
from signer.audit.log import AuditLog
from signer.model.audit_record import Operation, Purpose, Record, Subject
from signer.ports.audit_journal import Checkpoint
from tests.support.ledgers import ROW_MACS


ORIGIN = "hotwallet/hotwallet"

_START = datetime(2020, 1, 1, tzinfo=UTC)
_INTERVAL = timedelta(milliseconds=1)

_SUBJECT = Subject("pkcs11", "01234567", "0x70997970C51812dc3A010C7d01b50e0d17dc79C8")


def fill_audit(url: str, size: int, key: CheckpointKey) -> None:
    """Store *size* sealed records of signatures, with a checkpoint after each 1,000."""
    database = Database(url, pool_size=1, timeout=60)
    drafts, head = _drafts(), GENESIS
    with _without_triggers(database):
        for first in range(0, size, RECORDS):
            part = [next(drafts) for _ in range(min(RECORDS, size - first))]
            links = sealed(first, head, part)
            head = links[-1].hash
            rows = [
                {
                    "id": each.record.id,
                    "body": each.record.body,
                    "sequence": each.sequence,
                    "hash": each.hash,
                    "mac": ROW_MACS.compute(each.record),
                }
                for each in links
            ]
            at = _START + first * _INTERVAL + RECORDS * _INTERVAL
            note = key.sign(ORIGIN, links[-1].sequence, head, at)

            database.transaction(partial(_insert, rows, note))
    database.close()


def _insert(rows: list[Any], checkpoint: Checkpoint, connection: Connection) -> None:
    connection.execute(insert(audit_records), rows)
    connection.execute(insert(audit_checkpoints), asdict(checkpoint))


def _drafts() -> Iterator[Record]:
    """Yield the two records of one signature after another."""
    made = 0

    def clock() -> datetime:
        nonlocal made
        made += 1
        return _START + made * _INTERVAL

    audit = AuditLog(structlog.get_logger("audit"), clock)
    number = 0
    while True:
        number += 1
        digest = number.to_bytes(32, "big")
        purpose = Purpose(
            Operation.TRANSACTION_SIGNING,
            network="local",
            actor="worker",
            refund_id=f"rf_{number:032x}",
        )
        yield audit.intent(purpose, _SUBJECT, digest)
        yield audit.outcome(
            purpose, _SUBJECT, digest=digest, outcome=SUCCESS, seconds=0.0004
        )


@contextmanager
def _without_triggers(database: Database) -> Iterator[None]:
    """Let sealed records be inserted; the service seals them later."""
    if database.dialect == "sqlite":
        query = "SELECT sql FROM sqlite_master WHERE name = 'audit_records_new'"
        (trigger,) = database.run(lambda c: c.exec_driver_sql(query).scalars().all())
        before, after = "DROP TRIGGER audit_records_new", trigger
    else:
        change = "ALTER TABLE audit_records {} TRIGGER USER"
        before, after = change.format("DISABLE"), change.format("ENABLE")
    database.run(lambda c: c.exec_driver_sql(before))
    yield
    database.run(lambda c: c.exec_driver_sql(after))
