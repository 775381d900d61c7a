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
    """Return a folder, on a memory file system if there is one."""
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
    """The balances of a former key's address."""
    return left_behind(world)


@pytest.fixture
def empty(
    _sqlite_template: Path, folder: Path, opened: Callable[[Path], Ledger]
) -> Callable[[], Ledger]:
    """Return a function that creates an empty ledger."""
    made = iter(range(10_000))

    def make() -> Ledger:
        path = folder / f"{next(made)}.db"
        shutil.copy(_sqlite_template, path)
        return opened(path)

    return make


@pytest.fixture
def wiped(empty: Callable[[], Ledger]) -> Callable[[], Ledger]:
    """
    Return a function that empties one ledger, which is faster than creating another.
    """
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
    """Return a function that opens a ledger and closes it after the test."""
    with ExitStack() as stores:
        yield lambda path: stores.enter_context(closing(SQLStore(f"sqlite:///{path}")))


@pytest.fixture
def backup(
    world: World, folder: Path, opened: Callable[[Path], Ledger]
) -> Callable[[], Ledger]:
    """Return a function that copies the current ledger, like a nightly job."""
    made = iter(range(10_000))

    def copy() -> Ledger:
        path = folder / f"backup-{next(made)}.db"
        shutil.copy(folder / "0.db", path)
        return opened(path)

    return copy
