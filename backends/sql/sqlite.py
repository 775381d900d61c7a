"""
SQLite as a ledger: durable, readable by its owner only, shared by processes.

``SQLiteWatches`` wakes those that wait for a change of the file.
"""

import ctypes
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import apsw
import sqlalchemy as sa
from sqlalchemy.engine import ExceptionContext

from backends.sql import sqlite_dbapi
from backends.sql.compiled_statements import CompiledStatements
from signer.errors import StoreError, StoreUnavailableError
from signer.ports.refund_store import Topic, Watch


# Hosts that share such a file share no memory, which SQLite's write-ahead log needs.
_NETWORK = frozenset(
    {
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
    }
)
_MOUNTS = Path("/proc/self/mountinfo")


def network_file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """
    Return the type of *path*'s file system if hosts share it over a network.

    Return None for local and unknown ones, and where *mounts* cannot be read.  Its
    format is that of proc(5), ``/proc/pid/mountinfo``.
    """
    try:
        device = path.stat().st_dev
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        mount, _, kind = line.partition(" - ")
        if mount.split(" ")[2:3] == [number] and kind.split(" ")[0] in _NETWORK:
            return kind.split(" ")[0]
    return None


BUSY_SECONDS = 0.02
"""How long SQLite itself waits for a lock, before ``Database`` tries again."""

WAL_BYTES = 64 * 2**20
"""The size to which SQLite cuts the write-ahead log that grew during a long read."""

DAMAGED = frozenset(
    {
        apsw.SQLITE_CANTOPEN,
        apsw.SQLITE_CORRUPT,
        apsw.SQLITE_IOERR,
        apsw.SQLITE_NOTADB,
        apsw.SQLITE_READONLY,
    }
)
"""Errors after which the open file may be one that was replaced or deleted."""


_BACKPORTS: dict[tuple[int, ...], tuple[int, ...]] = {
    (3, 44): (3, 44, 6),
    (3, 50): (3, 50, 7),
}

_RESTORE = "restore the backup again (docs/how-to/restore.md)"


class SQLiteFile:
    """
    The file that all connections of one process have open.

    It must stay the same file: SQLite would apply the write-ahead log of the old one to
    the new one (sqlite.org/howtocorrupt.html, section 1.4).
    """

    def __init__(self, path: Path) -> None:
        """Remember *path*; open nothing."""
        self.path = path
        self._name = os.fspath(path)
        self._identity: tuple[int, int] | None = None

    def connect(
        self, *, timeout: float, foreign_keys: bool = True
    ) -> sqlite_dbapi.Connection:
        """
        Open the file, with durable commits; wait up to *timeout* seconds for locks.

        Raises:
            StoreError: Its commits would not be durable.
            StoreUnavailableError: It is not the file that was opened first.
            sqlite_dbapi.Error: It cannot be opened.
        """
        self.require_unmoved()
        connection = sqlite_dbapi.connect(self.path, timeout=timeout)
        try:
            _require_durability(connection, self.path)
            connection.execute(f"PRAGMA foreign_keys = {foreign_keys:d}")
            # Else SQLite copies each page that a statement of a transaction changes to
            # a file, for the case that the statement is undone.
            connection.execute("PRAGMA temp_store = MEMORY")
        except (sqlite_dbapi.Error, StoreError):
            connection.close()
            raise
        return connection

    def require_unmoved(self) -> None:
        """
        Require that the path still leads to the file that was opened first.

        Raises:
            StoreUnavailableError: It leads to another file, or to none.
        """
        try:
            found = os.stat(self._name)  # noqa: PTH116  It is called very often.
        except OSError:
            identity = None
        else:
            identity = (found.st_dev, found.st_ino)
        if self._identity is None:
            self._identity = identity  # SQLite reports a file that never was there.
        elif identity is None:
            raise StoreUnavailableError(
                "the SQLite file was deleted or moved while it was open: stop all"
                f" processes of hotwallet, then {_RESTORE}"
            )
        elif identity != self._identity:
            raise StoreUnavailableError(
                "the SQLite file was replaced while it was open, which can damage it:"
                " stop all processes of hotwallet, delete the new file and the -wal"
                f" and -shm files beside it, then {_RESTORE}"
            )


def sqlite_engine(file: SQLiteFile, *, pool_size: int, timeout: float) -> sa.Engine:
    """
    Return an engine for *file*, which must exist.

    SQLite does not create it: a file that ``create_file`` did not create could be read
    by other users.  *timeout* limits the wait for a connection, in seconds.
    """
    engine = sa.create_engine(
        "sqlite://",
        module=sqlite_dbapi,
        creator=lambda: file.connect(timeout=BUSY_SECONDS),
        poolclass=sa.QueuePool,
        pool_use_lifo=True,  # The last one has most of the pages in its cache.
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout,
        execution_options={"compiled_cache": CompiledStatements()},
        hide_parameters=True,
    )

    def require_unmoved(*_: Any) -> None:
        file.require_unmoved()

    sa.event.listen(engine, "checkout", require_unmoved)
    sa.event.listen(engine, "handle_error", _discard_untrusted)
    return engine


def sqlite_migration_engine(path: Path, *, timeout: float) -> sa.Engine:
    """
    Return an engine that may rebuild tables, which is how SQLite alters them.

    Foreign keys must be off while a table is replaced, and cannot be switched inside a
    transaction.
    """
    file = SQLiteFile(path)
    return sa.create_engine(
        "sqlite://",
        module=sqlite_dbapi,
        creator=lambda: file.connect(timeout=timeout, foreign_keys=False),
        poolclass=sa.NullPool,
        hide_parameters=True,
    )


def create_file(path: Path) -> None:
    """
    Create an empty file that only its owner can read, unless the file exists.

    SQLite gives its write-ahead log the same permissions.  An existing file is not even
    opened: closing it would release the locks that this process holds on it (fcntl(2),
    "advisory record locking").

    Raises:
        StoreError: The file or its folder cannot be created.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.touch(mode=0o600, exist_ok=False)
    except OSError as e:
        problem = StoreError(
            "the SQLite file of DATABASE_URL cannot be created"
            f" ({type(e).__name__}): check its folder and the permissions"
        )
    else:
        return
    raise problem


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """
    Return whether this version of SQLite can corrupt a write-ahead log.

    It is fixed in 3.51.3, and in later releases of 3.44 and 3.50 (sqlite.org/wal.html,
    "WAL-reset bug").
    """
    fixed = _BACKPORTS.get(version[:2], (3, 51, 3))
    return version < fixed


def _require_durability(connection: sqlite_dbapi.Connection, path: Path) -> None:
    """
    Switch the connection to durable commits in a write-ahead log.

    ``FULL`` syncs the log at each commit; SQLite's ``NORMAL`` would only at a
    checkpoint.
    """
    if has_wal_reset_bug(sqlite_dbapi.sqlite_version_info):
        raise StoreError(
            f"SQLite {apsw.sqlite_lib_version()} can corrupt its write-ahead log:"
            " install a wheel of apsw from 3.51.3, instead of building it with the"
            " system's SQLite"
        )
    if (kind := network_file_system(path)) is not None:
        raise StoreError(
            f"the SQLite file of DATABASE_URL is on a network file system ({kind}),"
            " where SQLite can corrupt it: move it to a local disk, or use PostgreSQL"
        )
    [(mode,)] = connection.execute("PRAGMA journal_mode = WAL").fetchall()
    if mode != "wal":
        raise StoreError(
            "the SQLite file cannot have a write-ahead log: close the other program"
            " that has it open"
        )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")


def _discard_untrusted(context: ExceptionContext) -> None:
    code = getattr(context.original_exception, "sqlite_errorcode", None)
    if isinstance(code, int) and code & 0xFF in DAMAGED:
        context.is_disconnect = True


_MODIFY, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x80, 0x100, 0x200
_EVENT = struct.Struct("iIII")  # Watch, mask, cookie, length of the name.
_BYTES = 64 * 1024


class FileEvents:
    """
    Reports that a file, or another one whose name begins with its name, was changed.

    SQLite's log is such a file.  Changes through a memory map are not reported.
    """

    def __init__(self, path: Path) -> None:
        """
        Begin to watch the folder of *path*.

        Raises:
            OSError: The system has no inotify, or allows no more watches.
        """
        self._name = os.fsencode(path.name)
        self._file = _open(path.parent)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def wait(self, seconds: float) -> bool:
        """
        Return whether the file was changed since the last call, or is in *seconds*.

        It may return False early, after a change of another file of the folder.
        """
        if not self._poll.poll(seconds * 1000):
            return False
        with suppress(BlockingIOError):
            return self._is_named(os.read(self._file, _BYTES))
        return False

    def _is_named(self, events: bytes) -> bool:
        start = 0
        while start < len(events):
            watch, _, _, length = _EVENT.unpack_from(events, start)
            start += _EVENT.size
            # There is no watch if events were lost.
            if watch < 0 or events[start : start + length].startswith(self._name):
                return True
            start += length
        return False


def _open(folder: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        raise OSError("there is no inotify")
    file: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    changes = _MODIFY | _MOVED_TO | _CREATE | _DELETE
    if file >= 0 and libc.inotify_add_watch(file, os.fsencode(folder), changes) >= 0:
        return file
    error = OSError(ctypes.get_errno(), "inotify")
    if file >= 0:
        os.close(file)
    raise error


UNREADABLE_SECONDS = 0.2
"""The longest wait while the file cannot be read."""

# In seconds.
_PAUSE = 0.0003  # A commit waits longer for the disk.
_LONGEST_PAUSE = 0.005
_GROWTH = 1.4  # So a pause adds at most 40 % to the time that has passed.
_COMMIT_SECONDS = 0.05
"""After this time, a change that was written is visible, or takes unusually long."""

_LONGEST_WAIT = 5.0
"""How often it polls while nothing is written, in seconds."""

_IN_NO_HURRY = (Topic.CHANGED, Topic.RECORDED)

Version = tuple[int, int]
"""A number of the connection, and SQLite's ``data_version`` on that connection."""


class SQLiteWatches:
    """
    The watches of one process: SQLite has no notifications, so they poll.

    With inotify they poll only after the file was written, until the commit is visible.
    SQLite numbers the changes that other connections make (``PRAGMA data_version``).
    One connection that never writes therefore sees those of all others.  The threads
    share it, since a poll takes microseconds.
    """

    def __init__(self, file: SQLiteFile) -> None:
        """Remember *file*; open nothing."""
        self._file = file
        self._lock = threading.Lock()
        self._connection: sqlite_dbapi.Connection | None = None
        self._opened = 0
        self._version: Version | None = None
        self._is_closed = False

    @contextmanager
    def watch(self, topic: Topic) -> Iterator[Watch]:
        """Watch for every change of the file, whatever the topic."""
        with ExitStack() as cleanup:
            events: FileEvents | None = None
            with suppress(OSError):  # Without them, it polls.
                events = cleanup.enter_context(FileEvents(self._file.path))
            pause = _COMMIT_SECONDS if topic in _IN_NO_HURRY else _PAUSE
            yield _SQLiteWatch(self.version, events, pause)

    def version(self) -> Version | None:
        """
        Return a value that is another one after each change; None if unreadable.

        If SQLite is busy, for example while it recovers the log, the previous value is
        returned.
        """
        with self._lock:
            try:
                connection = self._connected()
                [(number,)] = connection.execute("PRAGMA data_version").fetchall()
                self._version = (self._opened, number)
            except (sqlite_dbapi.Error, StoreError) as e:
                if getattr(e, "sqlite_errorcode", None) != apsw.SQLITE_BUSY:
                    self._disconnect()
            return self._version

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._disconnect()

    def _connected(self) -> sqlite_dbapi.Connection:
        if self._is_closed:
            raise StoreError("the store was closed")
        self._file.require_unmoved()  # A file that was replaced never changes again.
        if self._connection is None:
            self._connection = self._file.connect(timeout=BUSY_SECONDS)
            self._opened += 1
            # A poll that waits would delay the polls of other threads.
            self._connection.execute("PRAGMA busy_timeout = 0")
        return self._connection

    def _disconnect(self) -> None:
        self._version = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _SQLiteWatch:
    """Implements ``signer.ports.Watch``."""

    def __init__(
        self,
        version: Callable[[], Version | None],
        events: FileEvents | None,
        pause: float = _PAUSE,
    ) -> None:
        """*pause* is the shortest one between two polls, in seconds."""
        self._read = version
        self._seen = version()
        self._events = events
        self._pause = pause
        # What was written before the events began may be committed now.
        self._polls_until = time.monotonic() + _COMMIT_SECONDS
        self._was_seen = False  # A change, since the last event.

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        pause = self._pause
        self._was_written(0)  # Before the first poll, which may show that commit.
        while True:
            version = self._read()
            if version is None:
                self._seen = None
                time.sleep(max(0.0, min(seconds, UNREADABLE_SECONDS)))
                return True
            if version != self._seen:
                self._seen, self._was_seen = version, True
                return True
            now = time.monotonic()
            left = deadline - now
            if left <= 0:
                return False
            may_appear = self._polls_until - now
            if self._events is None or (may_appear > 0 and not self._was_seen):
                time.sleep(min(pause, left))
                pause = max(self._pause, min(pause * _GROWTH, _LONGEST_PAUSE))
            # Another commit may have begun before the event was read: one more poll.
            elif self._was_written(
                min(left, may_appear if may_appear > 0 else _LONGEST_WAIT)
            ):
                pause = self._pause

    def _was_written(self, seconds: float) -> bool:
        """Return whether the file was written since the last call, or in *seconds*."""
        if self._events is None or not self._events.wait(seconds):
            return False
        self._polls_until = time.monotonic() + _COMMIT_SECONDS
        self._was_seen = False
        return True
