"""SQLite as an embedded ledger: durable, private, shared by processes."""

import os
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection

from backends.sql import SQLStore, sqlite_dbapi
from backends.sql.sqlite import WAL_BYTES, has_wal_reset_bug
from signer.errors import StoreError, StoreUnavailableError
from tests.fixtures.ledger import (
    accept,
    accepted,
    queued,
)
from tests.support.ledgers import copy_ledger, open_ledger


def _path(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_can_read_the_file(empty_sqlite_url: str) -> None:
    """Folder, file, write-ahead log and its index are private."""
    old = os.umask(0)
    try:
        store = open_ledger(empty_sqlite_url)
        store.migrate()
        accepted(store)
    finally:
        os.umask(old)
    path = _path(empty_sqlite_url)
    modes = {file.name: _mode(file) for file in path.parent.iterdir()}
    store.close()

    names = ("hotwallet.db", "hotwallet.db-wal", "hotwallet.db-shm")
    assert modes == dict.fromkeys(names, 0o600)
    assert _mode(path.parent) == 0o700


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


def test_each_connection_is_durable(sqlite_store: SQLStore) -> None:
    """Each syncs journal and data, checks foreign keys, and writes no other files."""

    def read(connection: Connection, pragma: str) -> object:
        return connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one()

    names = ("journal_mode", "synchronous", "foreign_keys", "temp_store")
    run = sqlite_store._database.run
    assert [run(partial(read, pragma=each)) for each in names] == ["wal", 2, 1, 2]


def test_a_rollback_journal_is_replaced(sqlite_url: str) -> None:
    """A ledger of an older release is switched to a write-ahead log, with its rows."""
    with closing(sqlite_dbapi.connect(_path(sqlite_url))) as other:
        assert other.execute("PRAGMA journal_mode = PERSIST").fetchone() == ("persist",)
    store = open_ledger(sqlite_url)
    refund = accepted(store)
    assert store.get(refund.id) == refund
    store.close()

    with closing(sqlite_dbapi.connect(_path(sqlite_url))) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_rollback_journal_in_use_is_an_error(sqlite_url: str) -> None:
    """The ledger is not usable while another program reads it without the log."""
    with closing(sqlite_dbapi.connect(_path(sqlite_url))) as other:
        other.execute("PRAGMA journal_mode = PERSIST")
        other.execute("BEGIN")
        other.execute("SELECT * FROM refunds").fetchall()
        store = open_ledger(sqlite_url, timeout=0.2)

        with pytest.raises(StoreUnavailableError, match="SQLITE_BUSY"):
            accept(store, queued())
        other.execute("ROLLBACK")
        accepted(store)
    store.close()


def test_a_write_waits_for_a_lock(sqlite_url: str, sqlite_store: SQLStore) -> None:
    with closing(sqlite_dbapi.connect(_path(sqlite_url))) as other:
        other.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(1) as thread:
            writing = thread.submit(accepted, sqlite_store)
            with pytest.raises(TimeoutError):
                writing.result(0.1)
            other.rollback()
            refund = writing.result()

        assert refund == sqlite_store.get(refund.id)


def test_a_file_lock_has_a_timeout(sqlite_url: str) -> None:
    """A write ends in an error if a lock is not released; a read does not wait."""
    store = open_ledger(sqlite_url, timeout=0.2)
    store.check()
    with closing(sqlite_dbapi.connect(_path(sqlite_url))) as other:
        other.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="SQLITE_BUSY"):
            accept(store, queued())
        assert store.get("rf_0") is None

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
        accept(store, queued())
    done.set()
    writer.join()
    refund = accepted(store)

    assert refund == store.get(refund.id)
    store.close()


def test_a_replaced_file_is_not_used(sqlite_url: str, sqlite_store: SQLStore) -> None:
    """SQLite would apply the old file's log to it: the process must be restarted."""
    path = _path(sqlite_url)
    backup = copy_ledger(path, path.with_suffix(".backup"))
    accepted(sqlite_store)
    expected = backup.read_bytes()
    backup.replace(path)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="replaced while it was open"):
            accept(sqlite_store, queued())
        with pytest.raises(StoreUnavailableError, match="replaced while it was open"):
            sqlite_store.list("gateway")
    sqlite_store.close()

    assert path.read_bytes() == expected


def test_a_file_that_was_moved_away_is_not_written(
    sqlite_url: str, sqlite_store: SQLStore
) -> None:
    """The process uses it again when it is back."""
    path = _path(sqlite_url)
    kept = accepted(sqlite_store)
    aside = path.rename(path.with_suffix(".aside"))
    with pytest.raises(StoreUnavailableError, match="deleted or moved"):
        accept(sqlite_store, queued())
    aside.rename(path)

    assert sqlite_store.list("gateway").refunds == (kept,)


def test_a_long_read_blocks_no_write_and_the_log_is_cut_back(
    sqlite_url: str, sqlite_store: SQLStore
) -> None:
    """The log grows while an old state is read, and is cut to its limit afterwards."""
    path = _path(sqlite_url)
    log = path.with_name(f"{path.name}-wal")
    filler = "UPDATE alembic_version SET version_num = version_num"

    def grow(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE filler (x BLOB)")
        connection.exec_driver_sql(
            "INSERT INTO filler VALUES (zeroblob(?))", (WAL_BYTES + 2**20,)
        )

    with closing(sqlite_dbapi.connect(path)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM refunds").fetchone() == (0,)
        accepted(sqlite_store)
        sqlite_store._database.transaction(grow)
        assert log.stat().st_size > WAL_BYTES
        assert reader.execute("SELECT count(*) FROM refunds").fetchone() == (0,)
        reader.execute("COMMIT")
    for _ in range(2):  # The first commit copies the log; the second starts it anew.
        sqlite_store._database.write(lambda c: c.exec_driver_sql(filler))

    assert log.stat().st_size <= WAL_BYTES


def test_committed_rows_survive_a_kill(sqlite_url: str) -> None:
    """A process that ends without closing leaves its commits in the log (R28)."""
    script = (
        "import os, sys; from tests.fixtures.ledger import accepted;"
        " from tests.support.ledgers import open_ledger;"
        " accepted(open_ledger(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", script, sqlite_url], check=False)
    assert ended.returncode == -9
    assert _path(sqlite_url).with_name("hotwallet.db-wal").stat().st_size > 0

    with closing(open_ledger(sqlite_url)) as store:
        assert len(store.list("gateway").refunds) == 1


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 54, 1), False),
    ],
)
def test_the_wal_reset_bug_is_known(version: tuple[int, ...], expected: bool) -> None:
    """Versions of SQLite that can corrupt a write-ahead log (sqlite.org/wal.html)."""
    assert has_wal_reset_bug(version) is expected


def test_a_library_with_the_wal_reset_bug_is_refused(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was built with the system's SQLite."""
    monkeypatch.setattr(sqlite_dbapi, "sqlite_version_info", (3, 40, 1))

    with (
        closing(open_ledger(sqlite_url)) as store,
        pytest.raises(StoreError, match="install a wheel of apsw"),
    ):
        store.check()


def test_a_file_of_another_kind_is_refused(sqlite_url: str) -> None:
    """A file that is not a database stays unchanged."""
    path = _path(sqlite_url)
    path.write_bytes(b"not a database" * 1000)
    store = open_ledger(sqlite_url)

    with pytest.raises(StoreUnavailableError, match="SQLITE_NOTADB"):
        store.check()
    assert path.read_bytes() == b"not a database" * 1000


@pytest.mark.parametrize("pragma", ["journal_mode = DELETE", "synchronous = NORMAL"])
def test_a_connection_that_may_lose_commits_is_not_healthy(
    sqlite_url: str, pragma: str
) -> None:
    """The settings are read again by each health check."""
    with closing(open_ledger(sqlite_url, pool_size=1)) as store:
        store.check()
        store._database.run(lambda c: c.exec_driver_sql(f"PRAGMA {pragma}").close())
        with pytest.raises(StoreError, match="may lose acknowledged commits"):
            store.check()
