"""The ledger: one SQLite file, emptied for each schedule."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import apsw
from sqlalchemy import Connection, Engine

from backends.sql import SQLStore
from backends.sql.database import Database
from signer.model.acceptance import Acceptance
from signer.model.audit_record import Record
from signer.ports.clock import Clock, utc_now
from signer.ports.ledger import Ledger as LedgerPort
from tests.support.ledgers import ROW_MACS
from tests.support.refunds import altered


_CACHED_STATEMENTS = 300
"""More than a schedule has."""


class _OneConnection:
    """
    Lends one connection again and again, as a pool does, in a tenth of the time.

    The simulated processes run in one thread, and none is interrupted while it has it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self) -> "_OneConnection":
        return self

    def __enter__(self) -> Connection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.rollback()


class _Changes:
    """Counts the transactions of a connection that have changed something."""

    def __init__(self, native: apsw.Connection) -> None:
        self.version = 0
        self._count = native.total_changes
        self._known = self._count()
        native.set_commit_hook(self._note_commit)
        native.set_rollback_hook(self._note_rollback)

    def _note_commit(self) -> bool:
        count = self._count()
        self.version += count != self._known
        self._known = count
        return False  # SQLite goes on with the commit.

    def _note_rollback(self) -> None:
        self._known = self._count()


class Ledger:
    """
    A migrated database, and the real store on it.

    All simulated processes share the store, since connections and compiled statements
    are its only state, and slow to make.
    """

    def __init__(self, path: Path) -> None:
        self.clock: Clock = utc_now  # A schedule replaces it with its own.
        with _without_locks():
            self.store = SQLStore(f"sqlite:///{path}", ROW_MACS, clock=self._now)
            self.store.migrate()
            engine = self.store.tables(
                lambda database, _: database.run(lambda c: c.engine)
            )
            self._connection = engine.connect()
            vars(engine)["connect"] = _OneConnection(self._connection)
            driver: Any = self._connection.connection.dbapi_connection
            self._changes = _Changes(driver.native)
            self._file = apsw.Connection(
                str(path),
                flags=apsw.SQLITE_OPEN_READWRITE,
                statementcachesize=_CACHED_STATEMENTS,
            )
        # ``clear`` and ``requeue`` do what triggers forbid.
        self._file.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        self._tables = [
            name
            for (name,) in self.select(
                "SELECT name FROM sqlite_master"
                " WHERE type = 'table' AND name <> 'alembic_version'"
            )
        ]
        # A ledger in which a row that limits is absent is not an empty one.
        self._first = self.copy()

    def _now(self) -> datetime:
        return self.clock()

    def clear(self) -> None:
        """
        Delete all rows but those that a new ledger has.

        A copy of an empty file would take longer: all connections would read the schema
        again, and compile each statement again.
        """
        self.restore(self._first)

    def copy(self) -> Mapping[str, Sequence[tuple[Any, ...]]]:
        """Return a backup: the rows of each table."""
        return {name: self.select(f"SELECT * FROM {name}") for name in self._tables}

    def restore(self, backup: Mapping[str, Sequence[tuple[Any, ...]]]) -> None:
        """Restore *backup*."""
        with self._file:  # One transaction.
            for table, rows in backup.items():
                self._file.execute(f"DELETE FROM {table}")
                for row in rows:
                    marks = ", ".join("?" * len(row))
                    self._file.execute(f"INSERT INTO {table} VALUES ({marks})", row)

    def has_recorded(self, tx_hash: str) -> bool:
        """Whether the transaction with this hash is recorded."""
        found = self.select("SELECT 1 FROM attempts WHERE tx_hash = ?", tx_hash)
        return bool(found)

    def has_nonce(self, slot: tuple[str, int]) -> bool:
        """Whether a refund or a batch has this nonce of this sender."""
        found = self.select(
            "SELECT 1 FROM refunds WHERE sender = ?1 AND nonce = ?2 UNION ALL"
            " SELECT 1 FROM transactions"
            " WHERE sender = ?1 AND nonce = ?2 AND kind = 'batch'",
            *slot,
        )
        return bool(found)

    def select(self, query: str, *given: object) -> list[tuple[Any, ...]]:
        """Return rows, without the store's code."""
        return self._file.execute(query, given).fetchall()

    def version(self) -> int:
        """Return a number that differs after each change by the store."""
        return self._changes.version

    def requeue(self, refund_id: str) -> None:
        """
        Take a refund's nonce and its signed bytes away.

        No method of the store does that, and a trigger of the database refuses it.
        """
        nonces = "SELECT nonce FROM transaction_payments WHERE payment_id = ?"
        for table in ("attempts", "transactions", "transaction_payments"):
            self._file.execute(
                f"DELETE FROM {table} WHERE nonce IN ({nonces})", (refund_id,)
            )
        self._file.execute(
            "UPDATE refunds SET state = 'queued', version = version + 9, nonce = NULL,"
            " sender = NULL, position = NULL WHERE id = ?",
            (refund_id,),
        )

    def close(self) -> None:
        """Close all connections."""
        self._connection.close()
        self.store.close()
        self._file.close()


def _find_engine(database: Database, _: object) -> Engine:
    return database.run(lambda connection: connection.engine)


@contextmanager
def _without_locks() -> Iterator[None]:
    """Open files that no other process uses, for which SQLite takes no locks."""
    usual, *others = apsw.vfs_names()
    if "unix-excl" in others:
        apsw.set_default_vfs("unix-excl")
    try:
        yield
    finally:
        apsw.set_default_vfs(usual)


@contextmanager
def open_ledger() -> Iterator[Ledger]:
    """Open a new ledger, in memory if the system has such files."""
    memory = Path("/dev/shm")
    with (
        TemporaryDirectory(
            prefix="hotwallet-simulation-", dir=memory if memory.is_dir() else None
        ) as folder,
        closing(Ledger(Path(folder) / "ledger.db")) as opened,
    ):
        yield opened


def seed_ids(
    store: LedgerPort, random: Random, renamed: dict[str, Record]
) -> LedgerPort:
    """
    Return *store* with the ids of new refunds drawn from *random*.

    *renamed* gets the records with these ids.  A refund whose record is there keeps its
    id: a restore creates it again.
    """

    def rename(each: Acceptance) -> Acceptance:
        if each.record is not None and each.record.id in renamed:
            return each
        before = each.refund.id
        after = f"{before[: -len('00' * 10)]}{random.getrandbits(80):020x}"
        record = each.record
        if record is not None:
            body = record.body.replace(before, after)
            renamed[record.id] = record = replace(record, body=body, mac=None)
        return replace(each, refund=replace(each.refund, id=after), record=record)

    def accept_all(new: Sequence[Acceptance]) -> Sequence[Any]:
        return store.accept_all([rename(each) for each in new])

    return altered(store, accept_all=accept_all)
