"""SQLite as a ledger: durable, private, and shared by processes."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine, NullPool, QueuePool, create_engine, event
from sqlalchemy.engine import ExceptionContext

from signer.errors import StoreError, StoreUnavailableError


BUSY_SECONDS = 0.02
"""How long SQLite itself waits for a lock; ``Database`` waits on."""

# After these, a connection may be looking at a file that is not there any more.
_UNTRUSTED = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
    }
)


def sqlite_engine(path: Path, *, pool_size: int, timeout: float) -> Engine:
    """
    Return an engine for the existing file at *path*.

    ``mode=rw`` makes no file: one that ``create_file`` did not make would be
    readable by everybody.  *timeout* is in seconds, the wait for a connection.
    """
    engine = create_engine(
        "sqlite://",
        creator=lambda: connect_sqlite(path, timeout=BUSY_SECONDS),
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout,
        hide_parameters=True,
    )
    event.listen(engine, "handle_error", _discard_untrusted)
    return engine


def sqlite_migration_engine(path: Path, *, timeout: float) -> Engine:
    """
    Return an engine that may rebuild tables, SQLite's way to alter them.

    Foreign keys must be off while a table is being replaced, and cannot be
    switched inside a transaction.
    """
    return create_engine(
        "sqlite://",
        creator=lambda: connect_sqlite(path, timeout=timeout, foreign_keys=False),
        poolclass=NullPool,
        hide_parameters=True,
    )


def create_file(path: Path) -> None:
    """
    Make an empty database that only its owner may read, unless there is one.

    SQLite gives its journal the permissions of the file.  One that exists is not
    even opened: to close it would drop the locks that this process holds on it
    (fcntl(2), "advisory record locking").

    Raises:
        StoreError: The file system does not let us.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.touch(mode=0o600, exist_ok=False)
    except OSError as e:
        problem = StoreError(f"the database file cannot be made ({type(e).__name__})")
    else:
        return
    raise problem


def connect_sqlite(
    path: Path, *, timeout: float, foreign_keys: bool = True
) -> sqlite3.Connection:
    """
    Open *path* in autocommit, durable and strict.

    The journal is a rollback journal: write-ahead logs could be corrupted by
    SQLite up to 3.51.2 (sqlite.org/wal.html, "WAL-reset bug").  It persists: a
    commit ends by a zero in its header, which ``FULL`` syncs.  To unlink it, which
    is SQLite's default, takes longer, and is synced by ``EXTRA`` alone: a power cut
    could bring the journal back, and roll back what was acknowledged.
    """
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,  # The pool lends it to one thread at a time.
    )
    try:
        _require_durability(connection)
        connection.execute(f"PRAGMA foreign_keys = {foreign_keys:d}")
    except (sqlite3.Error, StoreError):
        connection.close()
        raise
    return connection


def _require_durability(connection: sqlite3.Connection) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = PERSIST").fetchone()
    if mode != "persist":
        raise StoreError("the database does not use a rollback journal")
    connection.execute("PRAGMA synchronous = FULL")


def turns(timeout: float) -> Callable[[], AbstractContextManager[None]]:
    """
    Return a queue for the writers of one process.

    SQLite lets one write at a time; the others sleep and try again, for longer
    and longer.  Threads that wait for each other here are woken at once.
    """
    lock = threading.Lock()

    @contextmanager
    def turn() -> Iterator[None]:
        if not lock.acquire(timeout=timeout):
            raise StoreUnavailableError("the database is busy")
        try:
            yield
        finally:
            lock.release()

    return turn


def _discard_untrusted(context: ExceptionContext) -> None:
    code = getattr(context.original_exception, "sqlite_errorcode", None)
    if isinstance(code, int) and code & 0xFF in _UNTRUSTED:
        context.is_disconnect = True
