"""SQLite as a ledger: durable, readable by its owner only, shared by processes."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import sqlalchemy as sa
from sqlalchemy.engine import ExceptionContext

from backends.sql import sqlite_dbapi
from backends.sql.compiled_statements import CompiledStatements
from signer.errors import StoreError, StoreUnavailableError


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
