"""SQLite as an embedded ledger: durable, private, shared by processes."""

import os
import shutil
import sqlite3
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from backends.sql import SQLStore
from signer.errors import StoreError, StoreUnavailableError
from tests.fixtures.ledger import accepted, queued
from tests.support.ledgers import open_ledger


def _path(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_can_read_the_file(empty_sqlite_url: str) -> None:
    """Folder, file and journal are private."""
    old = os.umask(0)
    try:
        store = open_ledger(empty_sqlite_url)
        store.migrate()
        accepted(store)
        store.close()
    finally:
        os.umask(old)
    path = _path(empty_sqlite_url)

    assert _mode(path.parent) == 0o700
    assert {_mode(file) for file in path.parent.iterdir()} == {0o600}


def test_an_existing_folder_keeps_its_permissions(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    store = open_ledger(f"sqlite:///{tmp_path}/hotwallet.db")
    store.migrate()
    store.close()

    assert _mode(tmp_path) == 0o750


def test_only_migrate_creates_a_file(empty_sqlite_url: str) -> None:
    """A wrong path is an error."""
    store = open_ledger(empty_sqlite_url)

    with pytest.raises(StoreError, match="hotwallet db upgrade"):
        store.check()
    with pytest.raises(StoreUnavailableError, match="SQLITE_CANTOPEN"):
        store.get("rf_0")
    path = _path(empty_sqlite_url)
    with pytest.raises(StoreError, match=f"no ledger at {path}"):
        store.migrate(create=False)
    assert not path.parent.exists()


def test_an_empty_file_is_not_a_ledger(tmp_path: Path) -> None:
    """An upgrade without *create* refuses a file without tables."""
    path = tmp_path / "hotwallet.db"
    path.touch()

    with pytest.raises(StoreError, match=f"no ledger at {path}"):
        open_ledger(f"sqlite:///{path}").migrate(create=False)
    assert path.read_bytes() == b""


def test_an_impossible_folder_is_an_error(tmp_path: Path) -> None:
    """The error omits the path."""
    (tmp_path / "file").touch()
    store = open_ledger(f"sqlite:///{tmp_path}/file/hotwallet.db")

    with pytest.raises(StoreError, match="cannot be created") as caught:
        store.migrate()
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "persist"), ("synchronous", 2), ("foreign_keys", 1)],
)
def test_each_connection_is_durable(
    sqlite_store: SQLStore, pragma: str, value: object
) -> None:
    """Each connection syncs journal and data, and checks foreign keys."""
    answer = sqlite_store._database.run(
        lambda c: c.exec_driver_sql(f"PRAGMA {pragma}").scalar_one()
    )

    assert answer == value


def test_a_write_ahead_log_is_switched_off(sqlite_url: str) -> None:
    """A file that another program switched to one is switched back."""
    with closing(sqlite3.connect(_path(sqlite_url))) as other:
        assert other.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    store = open_ledger(sqlite_url)
    accepted(store)
    store.close()

    with closing(sqlite3.connect(_path(sqlite_url))) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_write_ahead_log_in_use_is_an_error(sqlite_url: str) -> None:
    """The ledger is not usable while another program holds one."""
    store = open_ledger(sqlite_url, timeout=0.2)
    with closing(sqlite3.connect(_path(sqlite_url))) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("SELECT * FROM refunds").fetchall()

        with pytest.raises(StoreUnavailableError):
            store.accept(queued())
    store.close()


def test_a_write_waits_for_a_lock(sqlite_url: str, sqlite_store: SQLStore) -> None:
    with closing(sqlite3.connect(_path(sqlite_url), check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(1) as thread:
            writing = thread.submit(accepted, sqlite_store)
            with pytest.raises(TimeoutError):
                writing.result(0.1)
            other.rollback()
            refund = writing.result()

        assert refund == sqlite_store.get(refund.id)


def test_a_file_lock_has_a_timeout(sqlite_url: str) -> None:
    """Writes and reads end in an error if a lock is not released."""
    store = open_ledger(sqlite_url, timeout=0.2)
    store.check()
    with closing(sqlite3.connect(_path(sqlite_url), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="SQLITE_BUSY"):
            store.accept(queued())
        with pytest.raises(StoreUnavailableError, match="SQLITE_BUSY"):
            store.get("rf_0")

        assert time.monotonic() - start < 5
    accepted(store)
    store.close()


def test_the_writer_queue_has_a_timeout(sqlite_url: str) -> None:
    """A thread that waits too long gets an error; others continue."""
    store = open_ledger(sqlite_url, timeout=0.2)
    writing, done = threading.Event(), threading.Event()

    def write(_: Connection) -> None:
        writing.set()
        done.wait(10)

    writer = threading.Thread(target=store._database.transaction, args=(write,))
    writer.start()
    assert writing.wait(10)
    with pytest.raises(StoreUnavailableError, match="busy"):
        store.accept(queued())
    done.set()
    writer.join()
    refund = accepted(store)

    assert refund == store.get(refund.id)
    store.close()


def test_a_replaced_file_is_not_written(
    sqlite_url: str, sqlite_store: SQLStore
) -> None:
    """A write to a file that was replaced during the connection fails once."""
    path = _path(sqlite_url)
    backup = path.with_suffix(".backup")
    shutil.copy(path, backup)
    lost = accepted(sqlite_store)
    backup.replace(path)
    with pytest.raises(StoreUnavailableError, match="SQLITE_READONLY_DBMOVED"):
        sqlite_store.accept(queued())
    kept = accepted(sqlite_store)

    assert sqlite_store.list("gateway").refunds == (kept,)
    assert sqlite_store.get(lost.id) is None


def test_a_file_of_another_kind_is_refused(sqlite_url: str) -> None:
    """A file that is not a database stays unchanged."""
    path = _path(sqlite_url)
    path.write_bytes(b"not a database" * 1000)
    store = open_ledger(sqlite_url)

    with pytest.raises(StoreUnavailableError, match="SQLITE_NOTADB"):
        store.check()
    assert path.read_bytes() == b"not a database" * 1000
