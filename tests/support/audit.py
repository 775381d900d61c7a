"""Records, chains and exports for tests."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg

from backends.sql import sqlite_dbapi
from signer.audit.checkpoints import CheckpointKey, Verifier
from signer.audit.export import (
    End,
    checkpoint_line,
    end_line,
    header_line,
    record_lines,
)
from signer.audit.hash_chain import GENESIS, sealed
from signer.model.audit_record import Record, Sealed, made_at
from signer.ports.audit_journal import Checkpoint


ORIGIN = "hotwallet/tests"
START = datetime(2026, 1, 1, tzinfo=UTC)

KEY = CheckpointKey.generate()
"""The key that signs the checkpoints of tests."""

VERIFIER = Verifier(KEY.public_pem())


def record(number: int = 0, *, at: datetime = START, **fields: Any) -> Record:
    return Record.of({"event": "test", "number": number, **fields}, at)


def records(count: int, *, seconds: float = 0.001) -> list[Record]:
    return [record(n, at=START + timedelta(seconds=n * seconds)) for n in range(count)]


def chain(count: int, *, seconds: float = 0.001) -> list[Sealed]:
    """Return a chain of *count* records, *seconds* apart."""
    return sealed(0, GENESIS, records(count, seconds=seconds))


def checkpoint(
    links: Sequence[Sealed],
    size: int,
    *,
    key: CheckpointKey = KEY,
    origin: str = ORIGIN,
    at: datetime | None = None,
) -> Checkpoint:
    """Return a checkpoint of the first *size* records, at the time of the last one."""
    last = links[size - 1]
    return key.sign(origin, size, last.hash, at or made_at(last.record.id) or START)


def exported(
    links: Sequence[Sealed], sizes: Iterable[int], *, key: CheckpointKey = KEY
) -> list[bytes]:
    cuts = [0, *sizes]
    lines = [header_line(ORIGIN)]
    for before, size in pairwise(cuts):
        lines += chain_lines(links[before:size])
        lines.append(checkpoint_line(checkpoint(links, size, key=key).note))
    lines += chain_lines(links[cuts[-1] :])
    return [*lines, end_line(End(len(links), links[-1].hash, len(cuts) - 1))]


def chain_lines(links: Iterable[Sealed]) -> list[bytes]:
    """Return the lines of some records."""
    return [line for each in links for line in record_lines(each)]


def wiped(url: str) -> str:
    """
    Remove audit records and keys from *url*, as the owner of the tables.

    A new SQLite file has none; tests share the tables of PostgreSQL.
    """
    if url.startswith("postgresql"):
        tables = ("audit_records", "audit_checkpoints", "keys")
        overruled(url, *(f"DELETE FROM {table}" for table in tables))
    return url


def overruled(url: str, *statements: str) -> None:
    """Execute *statements* without triggers, as the owner of the tables."""
    if url.startswith("postgresql"):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET session_replication_role = replica")
            for statement in statements:
                connection.execute(statement.encode())
        return
    file = sqlite_dbapi.connect(url.removeprefix("sqlite:///"))
    for (name,) in file.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall():
        file.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        file.execute(statement)
    file.close()


def of_refunds(events: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Return event, actor, request and refund of audit *events*."""
    return [
        (
            event["event"],
            event["actor"],
            event["request_id"],
            event["details"]["refund_id"],
        )
        for event in events
    ]
