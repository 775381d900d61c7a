"""A service in one process, and copies of its ledger."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import Connection

from backends.sql import SQLStore
from backends.sql.holds import begin_register
from signer.ports.ledger import Ledger
from tests.fixtures.stores import TABLES
from tests.support.ledgers import ROW_MACS, copy_ledger, open_ledger
from tests.support.other_payments import Left, left_behind
from tests.support.refunds import FakeClock, World


@pytest.fixture
def clock() -> FakeClock:
    """Return the clock of the service and of its ledger."""
    return FakeClock()


@pytest.fixture
def world(empty: Callable[[], Ledger], clock: FakeClock) -> World:
    """A service over SQLite and a scripted chain."""
    return World(empty(), clock=clock)


@pytest.fixture
def left(world: World) -> Left:
    """The balances of a former key's address."""
    return left_behind(world)


@pytest.fixture
def empty(
    _sqlite_template: Path, tmp_path: Path, opened: Callable[[Path], Ledger]
) -> Callable[[], Ledger]:
    """Return a function that creates an empty ledger."""
    numbers = count()

    def make() -> Ledger:
        path = tmp_path / f"{next(numbers)}.db"
        shutil.copy(_sqlite_template, path)
        return opened(path)

    return make


@pytest.fixture
def wiped(empty: Callable[[], Ledger]) -> Callable[[], Ledger]:
    """Return a function that empties a ledger; creating another one takes longer."""
    store = empty()
    database = store._database  # type: ignore[attr-defined]  # No port deletes rows.

    def delete(connection: Connection) -> None:
        kept = ("events", "transaction_payments", "transactions", "wallets")
        for table in (*kept, "unrecorded_transactions", "webhook_deliveries"):
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {table}_stay")
        connection.exec_driver_sql("DROP TRIGGER IF EXISTS audit_records_keep")
        for table in TABLES:
            connection.exec_driver_sql(f"DELETE FROM {table}")
        begin_register(connection, ROW_MACS)  # Without it, everything is stopped.

    def wipe() -> Ledger:
        database.transaction(delete)
        return store

    return wipe


@pytest.fixture
def opened(clock: FakeClock) -> Iterator[Callable[[Path], Ledger]]:
    """Return a function that opens a ledger and closes it after the test."""
    with ExitStack() as stores:

        def open_store(path: Path) -> SQLStore:
            store = open_ledger(f"sqlite:///{path}", clock=clock)
            return stores.enter_context(closing(store))

        yield open_store


@pytest.fixture
def backup(
    world: World, tmp_path: Path, opened: Callable[[Path], Ledger]
) -> Callable[[], Ledger]:
    """Return a function that copies the current ledger, like a nightly job."""
    numbers = count()

    def copy() -> Ledger:
        path = tmp_path / f"backup-{next(numbers)}.db"
        return opened(copy_ledger(tmp_path / "0.db", path))

    return copy
