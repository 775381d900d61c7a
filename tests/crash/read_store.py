"""What the store says, asked by SELECT through the bare drivers."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Protocol

import psycopg
from psycopg.rows import dict_row

from tests.crash.evidence import Row, Signed, Step
from tests.crash.read_chain import Envelope


class Connection(Protocol):
    """The part of DB-API that both drivers share; rows are read by column name."""

    def execute(self, query: Any, /) -> Any:
        """Run *query*; the answer is iterable."""


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """Open the database at *url*, for reading alone."""
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///")
        file = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
        file.row_factory = sqlite3.Row
        with closing(file):
            yield file
    else:
        with psycopg.connect(url, autocommit=True, row_factory=dict_row) as server:
            server.read_only = True
            yield server


def read_rows(store: Connection) -> tuple[Row, ...]:
    """Return all refunds."""
    return tuple(map(_row, store.execute("SELECT * FROM refunds ORDER BY id")))


def read_signed(store: Connection) -> tuple[Signed, ...]:
    """Return all signed bytes, read for themselves."""
    return tuple(map(_signed, store.execute("SELECT * FROM transactions")))


def read_steps(store: Connection) -> tuple[Step, ...]:
    """Return the history of all refunds, each in its order."""
    query = "SELECT * FROM refund_moves ORDER BY refund_id, version"
    return tuple(
        Step(row["refund_id"], row["version"], row["status"])
        for row in store.execute(query)
    )


def _row(row: Mapping[str, Any]) -> Row:
    return Row(
        id=row["id"],
        key=row["idempotency_key"],
        token=row["token_address"].lower(),
        recipient=row["recipient"].lower(),
        amount=int(row["amount"]),
        status=row["status"],
        version=row["version"],
        chain_id=row["chain_id"],
        sender=row["sender"] and row["sender"].lower(),
        nonce=row["nonce"],
        tx_hash=row["tx_hash"],
        block_number=row["block_number"],
        block_hash=row["block_hash"],
    )


def _signed(row: Mapping[str, Any]) -> Signed:
    envelope = Envelope.opened(bytes(row["raw"]))
    return Signed(
        tx_hash=row["tx_hash"],
        refund_id=row["refund_id"],
        kind=row["kind"],
        chain_id=row["chain_id"],
        sender=row["sender"].lower(),
        nonce=row["nonce"],
        raw_hash=envelope.tx_hash,
        raw_chain_id=envelope.chain_id,
        raw_nonce=envelope.nonce,
        digest=envelope.digest,
    )
