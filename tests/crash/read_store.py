"""Reads the store by SELECT through the bare drivers."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Protocol

import psycopg
from psycopg.rows import dict_row

from backends.sql import sqlite_dbapi
from tests.crash.evidence import KeyRow, Recorded, Row, Signed, Step
from tests.crash.read_chain import Envelope


_REFUNDS = (
    "SELECT id, idempotency_key AS key, lower(token_address) AS token,"
    " lower(recipient) AS recipient, amount,"
    " CASE state WHEN 'assigned' THEN status ELSE state END AS status,"
    " refunds.version + coalesce(transactions.version, 0) AS version, chain_id,"
    " lower(sender) AS sender, nonce, tx_hash, block_number, block_hash, calldata"
    " FROM refunds LEFT JOIN transactions USING (chain_id, sender, nonce) ORDER BY id"
)
_SIGNED = (
    "SELECT tx_hash, payment_id AS refund_id, chain_id, sender, nonce, raw"
    " FROM attempts LEFT JOIN transaction_payments USING (chain_id, sender, nonce)"
)
_BATCHES = (
    "SELECT lower(sender) AS sender, nonce FROM transactions WHERE kind = 'batch'"
)
_SKIPPED = (
    "SELECT payment_id AS id, lower(given.sender) AS sender, given.nonce AS nonce"
    " FROM transaction_payments AS given"
    " JOIN transactions USING (chain_id, sender, nonce)"
    " JOIN refunds ON refunds.id = payment_id"
    " WHERE kind = 'batch' AND transactions.status IN ('confirmed', 'failed')"
    " AND (refunds.nonce IS NULL OR refunds.nonce <> given.nonce"
    " OR refunds.sender <> given.sender)"
)
_UNSEALED = 2**63  # Greater than every sequence number.


class Connection(Protocol):
    """What both drivers share; rows are read by column name."""

    def execute(self, query: Any, /) -> Any:
        """Run *query*, and return an iterable of rows."""


class _ByName:
    """A connection to SQLite whose rows are read by column name."""

    def __init__(self, file: sqlite_dbapi.Connection) -> None:
        self._file = file

    def execute(self, query: str) -> list[dict[str, Any]]:
        found = self._file.execute(query)
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """Open the database at *url* read-only."""
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///")
        with closing(sqlite_dbapi.connect(path, timeout=30)) as file:
            file.execute("PRAGMA query_only = 1")
            yield _ByName(file)
    else:
        with psycopg.connect(url, autocommit=True, row_factory=dict_row) as server:
            server.read_only = True
            yield server


def read_rows(store: Connection) -> tuple[Row, ...]:
    return tuple(_row(**row) for row in store.execute(_REFUNDS))


def read_signed(store: Connection) -> tuple[Signed, ...]:
    return tuple(map(_signed, store.execute(_SIGNED)))


def read_batches(store: Connection) -> frozenset[tuple[str | None, int | None]]:
    """Return sender and nonce of each transaction that a vault pays."""
    return frozenset((row["sender"], row["nonce"]) for row in store.execute(_BATCHES))


def read_skipped(store: Connection) -> frozenset[tuple[str, str, int]]:
    """Return refund, sender and nonce of what a final batch has not paid."""
    rows = store.execute(_SKIPPED)
    return frozenset((row["id"], row["sender"], row["nonce"]) for row in rows)


def read_steps(store: Connection) -> tuple[Step, ...]:
    """Return the history of each refund in order."""
    query = (
        "SELECT refund_id, version, status FROM refund_moves"
        " ORDER BY refund_id, version"
    )
    return tuple(Step(**dict(row)) for row in store.execute(query))


def read_audit(store: Connection) -> tuple[Recorded, ...]:
    """Return all audit records in sequence; those that are not sealed come last."""
    found = store.execute("SELECT id, body, sequence, hash FROM audit_records")
    records = [
        Recorded.of(
            row["id"], row["body"], row["sequence"], row["hash"] and bytes(row["hash"])
        )
        for row in found
    ]
    return tuple(sorted(records, key=lambda r: (r.sequence or _UNSEALED, r.id)))


def read_keys(store: Connection) -> tuple[KeyRow, ...]:
    query = "SELECT lower(address) AS address, state, epoch FROM keys"
    return tuple(KeyRow(**dict(row)) for row in store.execute(query))


def _row(amount: str, calldata: bytes | None, **others: Any) -> Row:
    data = None if calldata is None else f"0x{bytes(calldata).hex()}"
    return Row(amount=int(amount), calldata=data, **others)


def _signed(row: Mapping[str, Any]) -> Signed:
    envelope = Envelope.opened(bytes(row["raw"]))
    return Signed(
        tx_hash=row["tx_hash"],
        refund_id=row["refund_id"],
        chain_id=row["chain_id"],
        sender=row["sender"].lower(),
        nonce=row["nonce"],
        raw_hash=envelope.tx_hash,
        raw_chain_id=envelope.chain_id,
        raw_nonce=envelope.nonce,
        digest=envelope.digest,
    )
