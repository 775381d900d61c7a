"""SQLite as an embedded ledger: durable, private, shared by processes, watched."""

import ctypes
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import NoReturn

import pytest
from sqlalchemy import Connection

from backends.sql import SQLStore, sqlite, sqlite_dbapi
from backends.sql.sqlite import (
    UNREADABLE_SECONDS,
    WAL_BYTES,
    FileEvents,
    SQLiteFile,
    SQLiteWatches,
    Version,
    has_wal_reset_bug,
    network_file_system,
)
from signer.errors import StoreError, StoreUnavailableError
from signer.ports.refund_store import Topic
from tests.fixtures.ledger import (
    accept,
    accepted,
    queued,
    refund_page,
)
from tests.support.ledgers import copy_ledger, open_ledger
from tests.support.waiting import eventually


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
            refund_page(sqlite_store, "gateway")
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

    assert refund_page(sqlite_store, "gateway").refunds == (kept,)


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
        assert len(refund_page(store, "gateway").refunds) == 1


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


def _mounts(folder: Path, device: int, kind: str) -> Path:
    """Write a file as proc(5) describes, with a mount of *device*."""
    number = f"{os.major(device)}:{os.minor(device)}"
    path = folder / "mountinfo"
    path.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"36 22 {number} / /my\\040ledger rw shared:9 master:2 - {kind} host:/x rw\n"
    )
    return path


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_found(tmp_path: Path, kind: str) -> None:
    mounts = _mounts(tmp_path, tmp_path.stat().st_dev, kind)

    assert network_file_system(tmp_path, mounts) == kind


@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "unheard-of"])
def test_other_file_systems_are_allowed(tmp_path: Path, kind: str) -> None:
    mounts = _mounts(tmp_path, tmp_path.stat().st_dev, kind)

    assert network_file_system(tmp_path, mounts) is None


def test_a_network_mount_of_other_files_is_allowed(tmp_path: Path) -> None:
    mounts = _mounts(tmp_path, tmp_path.stat().st_dev + 1, "nfs")

    assert network_file_system(tmp_path, mounts) is None


def test_an_unreadable_table_of_mounts_allows_all(tmp_path: Path) -> None:
    """As on macOS, which has none."""
    assert network_file_system(tmp_path, tmp_path / "none") is None
    assert network_file_system(tmp_path / "none") is None


def test_the_file_system_of_this_test_is_local(tmp_path: Path) -> None:
    """The kernel's own table is read."""
    assert network_file_system(tmp_path) is None


_tenant = ContextVar[str | None]("tenant", default=None)


@pytest.fixture
def store(sqlite_url: str) -> Iterator[SQLStore]:
    """A ledger with four connections, for which nothing waits long."""
    store = open_ledger(sqlite_url, pool_size=4, timeout=0.2, tenant=_tenant.get)
    yield store
    store.close()


def test_another_tenant_has_a_connection_when_one_has_its_share(
    store: SQLStore,
) -> None:
    """So does a thread that works for none."""
    released = Event()

    def hold(tenant: str) -> None:
        _tenant.set(tenant)
        store._database.run(lambda _: released.wait())

    def read(tenant: str | None) -> None:
        _tenant.set(tenant)
        store.check()

    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        stack.callback(released.set)
        held = [pool.submit(hold, "mallory") for _ in range(2)]
        assert eventually(lambda: store.connections() == (2, 4), 10)
        refused = pool.submit(read, "mallory")
        assert isinstance(refused.exception(), StoreUnavailableError)
        for other in ("alice", None):
            pool.submit(read, other).result()
        released.set()
        for each in held:
            each.result()
        pool.submit(read, "mallory").result()


def test_a_lone_thread_uses_one_connection_again(database_url: str) -> None:
    """The others have neither the pages nor the statements that it has just used."""
    with closing(open_ledger(database_url, pool_size=3)) as store:

        def used() -> int:
            return store._database.run(lambda c: id(c.connection.dbapi_connection))

        store._database.run(lambda _: used())  # Two are open now.

        assert len({used() for _ in range(3)}) == 1


LONG = 20.0
SOON = 5.0


def test_an_unreadable_file_ends_the_wait(sqlite_url: str) -> None:
    """The caller reads the row, and gets the error; later changes are seen."""
    path = _path(sqlite_url)
    kept = path.rename(path.with_suffix(".away"))
    with closing(open_ledger(sqlite_url)) as store, store.watch(Topic.MOVED) as watch:
        start = time.monotonic()
        assert watch.wait(LONG)
        assert watch.wait(LONG)
        passed = time.monotonic() - start
        assert watch.wait(0)

        kept.rename(path)
        assert watch.wait(LONG)
        assert not watch.wait(0.1)
        accepted(store)
        assert watch.wait(LONG)

    assert UNREADABLE_SECONDS < passed < SOON


def test_a_file_that_is_not_a_database_ends_the_wait(sqlite_url: str) -> None:
    """It is read again each time, for it may be replaced."""
    with closing(open_ledger(sqlite_url)) as store, store.watch(Topic.MOVED) as watch:
        _path(sqlite_url).write_bytes(b"not a database" * 1000)
        start = time.monotonic()
        assert watch.wait(LONG)
        assert watch.wait(LONG)

    assert time.monotonic() - start < SOON


def test_a_replaced_file_ends_the_wait(sqlite_url: str, sqlite_store: SQLStore) -> None:
    """The caller reads, and gets the error, for as long as the file is another one."""
    path = _path(sqlite_url)
    backup = copy_ledger(path, path.with_suffix(".backup"))
    with sqlite_store.watch(Topic.MOVED) as watch:
        assert not watch.wait(0)
        backup.replace(path)
        assert watch.wait(LONG)
        assert watch.wait(LONG)


def test_a_writer_that_commits_is_no_change_yet(
    sqlite_url: str, sqlite_store: SQLStore
) -> None:
    """While another connection locks the file, the wait goes on; then it ends."""
    with (
        closing(sqlite_dbapi.connect(_path(sqlite_url))) as writer,
        sqlite_store.watch(Topic.MOVED) as watch,
        ThreadPoolExecutor(1) as threads,
    ):
        assert not watch.wait(0)
        writer.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        assert not watch.wait(0.5)
        assert time.monotonic() - start > 0.4
        waiting = threads.submit(watch.wait, LONG)
        writer.execute("UPDATE alembic_version SET version_num = version_num")
        writer.execute("COMMIT")
        assert waiting.result()

    assert time.monotonic() - start < SOON


def test_a_poll_delays_no_writer(sqlite_url: str, sqlite_store: SQLStore) -> None:
    """A watch holds no lock between two polls."""
    with (
        closing(sqlite_dbapi.connect(_path(sqlite_url), timeout=0)) as writer,
        sqlite_store.watch(Topic.MOVED) as watch,
    ):
        assert not watch.wait(0)
        writer.execute("UPDATE alembic_version SET version_num = version_num")
        writer.commit()
        assert watch.wait(0)


def test_watches_share_one_connection(sqlite_store: SQLStore) -> None:
    """To begin a watch opens no file after the first one."""
    watches = sqlite_store._database._process().watches
    with sqlite_store.watch(Topic.MOVED), sqlite_store.watch(Topic.ACCEPTED):
        pass
    with sqlite_store.watch(Topic.MOVED):
        pass

    assert vars(watches)["_opened"] == 1


class CountingWatches(SQLiteWatches):
    """Counts its polls."""

    polls = 0

    def version(self) -> Version | None:
        self.polls += 1
        return super().version()


def test_a_quiet_file_is_polled_rarely(sqlite_url: str) -> None:
    """Nor is it for files beside it, such as logs."""
    watches = CountingWatches(SQLiteFile(_path(sqlite_url)))
    log = _path(sqlite_url).parent / "service.log"
    with closing(watches), watches.watch(Topic.ACCEPTED) as watch:
        assert not watch.wait(0.1)  # A commit could have been in progress.
        before = watches.polls
        with log.open("a") as lines:
            for _ in range(50):
                lines.write("line\n")
                lines.flush()
                assert not watch.wait(0.01)
        # At the beginning of each call, after each line, and at its end.
        assert watches.polls - before < 5 * 50


def test_without_events_of_the_system_it_polls(
    sqlite_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another system than Linux has no inotify, and a user only so many watches."""
    monkeypatch.setattr(sqlite, "FileEvents", _no_events)
    with sqlite_store.watch(Topic.ACCEPTED) as watch:
        assert not watch.wait(0.2)
        accepted(sqlite_store)
        assert watch.wait(LONG)


def _no_events(_path: Path) -> NoReturn:
    raise OSError("no inotify")


def test_writes_are_reported_once(tmp_path: Path) -> None:
    """Also those of a file whose name begins with the name, such as SQLite's log."""
    path = tmp_path / "ledger.db"
    with FileEvents(path) as events:
        assert not events.wait(0)
        path.touch()
        assert events.wait(0)
        assert not events.wait(0)
        path.with_name("ledger.db-wal").write_bytes(b"frame")
        assert events.wait(0)


def test_other_files_are_not_reported(tmp_path: Path) -> None:
    """A change between theirs is."""
    path = tmp_path / "ledger.db"
    other = tmp_path / "service.log"
    with FileEvents(path) as events:
        other.write_text("line\n")
        assert not events.wait(1)
        other.write_text("line\n")
        path.touch()
        other.write_text("line\n")
        assert events.wait(0)


def test_a_replaced_and_a_deleted_file_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.touch()
    with FileEvents(path) as events:
        (tmp_path / "new").touch()
        (tmp_path / "new").replace(path)
        assert events.wait(0)
        path.unlink()
        assert events.wait(0)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="inotify"):
        FileEvents(tmp_path / "missing" / "ledger.db")


def test_a_system_without_inotify_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace())
    with pytest.raises(OSError, match="no inotify"):
        FileEvents(tmp_path / "ledger.db")
