"""A service in one process, and copies of its ledger."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from backends.sql import SQLStore
from signer.ports import Ledger
from tests.fixtures.stores import TABLES
from tests.support.refunds import World
from tests.support.sweeps import Left, left_behind


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder, in memory where the system has such files."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.fixture
def world(empty: Callable[[], Ledger]) -> World:
    """A service over SQLite and a scripted chain."""
    return World(empty())


@pytest.fixture
def left(world: World) -> Left:
    """A wallet that was rotated away from, and what it left behind."""
    return left_behind(world)


@pytest.fixture
def empty(
    _sqlite_template: Path, folder: Path, opened: Callable[[Path], Ledger]
) -> Callable[[], Ledger]:
    """Return a maker of ledgers that never saw a refund."""
    made = iter(range(10_000))

    def make() -> Ledger:
        path = folder / f"{next(made)}.db"
        shutil.copy(_sqlite_template, path)
        return opened(path)

    return make


@pytest.fixture
def wiped(empty: Callable[[], Ledger]) -> Callable[[], Ledger]:
    """Return what empties the one ledger, which is faster than to open another."""
    store = empty()
    database = store._database  # type: ignore[attr-defined]  # No port forgets.

    def wipe() -> Ledger:
        for table in TABLES:
            database.run(
                lambda c, table=table: c.exec_driver_sql(f"DELETE FROM {table}")
            )
        return store

    return wipe


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Ledger]]:
    """Return what opens a ledger, and closes it behind the test."""
    with ExitStack() as stores:
        yield lambda path: stores.enter_context(closing(SQLStore(f"sqlite:///{path}")))


@pytest.fixture
def backup(
    world: World, folder: Path, opened: Callable[[Path], Ledger]
) -> Callable[[], Ledger]:
    """Return what copies the ledger as it stands now, as a nightly job does."""
    made = iter(range(10_000))

    def copy() -> Ledger:
        path = folder / f"backup-{next(made)}.db"
        shutil.copy(folder / "0.db", path)
        return opened(path)

    return copy
