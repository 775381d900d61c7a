"""SQLite as a ledger: durable, readable by its owner only, shared by processes."""

import sqlite3
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine, NullPool, QueuePool, create_engine, event
from sqlalchemy.engine import ExceptionContext

from signer.errors import StoreError


BUSY_SECONDS = 0.02
"""How long SQLite itself waits for a lock, before ``Database`` tries again."""

DAMAGED = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
    }
)
"""Errors after which the open file may be one that was replaced or deleted."""


def sqlite_engine(path: Path, *, pool_size: int, timeout: float) -> Engine:
    """
    Return an engine for the existing file at *path*.

    ``mode=rw`` does not create a file: one that ``create_file`` did not create could be
    read by other users.  *timeout* limits the wait for a connection, in seconds.
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
    Return an engine that may rebuild tables, which is how SQLite alters them.

    Foreign keys must be off while a table is replaced, and cannot be switched inside a
    transaction.
    """
    return create_engine(
        "sqlite://",
        creator=lambda: connect_sqlite(path, timeout=timeout, foreign_keys=False),
        poolclass=NullPool,
        hide_parameters=True,
    )


def create_file(path: Path) -> None:
    """
    Create an empty file that only its owner can read, unless the file exists.

    SQLite gives its journal the same permissions.  An existing file is not even opened:
    closing it would release the locks that this process holds on it (fcntl(2),
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


def connect_sqlite(
    path: Path, *, timeout: float, foreign_keys: bool = True
) -> sqlite3.Connection:
    """
    Open *path* in autocommit mode, with durable commits.

    It uses a rollback journal, since SQLite up to 3.51.2 can corrupt write-ahead logs
    (sqlite.org/wal.html, "WAL-reset bug").  In mode ``PERSIST``, a commit ends by
    zeroing the journal's header, which ``synchronous = FULL`` syncs.  The default mode
    ``DELETE`` is slower, and only ``EXTRA`` syncs the deletion: after a power cut the
    journal could reappear, and SQLite would roll back an acknowledged commit.
    """
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,  # The pool gives it to one thread at a time.
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
        raise StoreError(
            "the SQLite file is not in rollback journal mode: close the other program"
            " that has it open"
        )
    connection.execute("PRAGMA synchronous = FULL")


def _discard_untrusted(context: ExceptionContext) -> None:
    code = getattr(context.original_exception, "sqlite_errorcode", None)
    if isinstance(code, int) and code & 0xFF in DAMAGED:
        context.is_disconnect = True
