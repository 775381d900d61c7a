"""How connections are made, with the durability and the patience of a ledger."""

import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Engine, NullPool, QueuePool, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from signer.errors import StoreError


RESTED_SECONDS = 1.0
"""A connection that rested for longer is tried before it is used."""

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

    SQLite gives its journal the permissions of the file.

    Raises:
        StoreError: The file system does not let us.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
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
    (mode,) = connection.execute("PRAGMA journal_mode = PERSIST").fetchone()
    if mode != "persist":
        connection.close()
        raise StoreError("the database does not use a rollback journal")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA foreign_keys = {foreign_keys:d}")
    return connection


def postgresql_engine(url: URL, *, pool_size: int, timeout: float) -> Engine:
    """
    Return an engine for the server at *url*; *timeout* is in seconds.

    The server stops statements after *timeout*, and waits for locks a little
    less, so that the reason can be told.  The network gives up by itself.
    """
    engine = create_engine(
        url,
        connect_args=_patience(url, timeout),
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout,
        use_native_hstore=False,  # Saves a look-up on every connection.
        hide_parameters=True,
    )
    event.listen(engine, "checkin", _rest)
    event.listen(engine, "checkout", _try_rested(engine))
    return engine


def postgresql_migration_engine(url: URL, *, timeout: float) -> Engine:
    """Return an engine that opens one connection, and waits *timeout* for locks."""
    return create_engine(
        url,
        connect_args=_patience(url, timeout),
        poolclass=NullPool,
        use_native_hstore=False,
        hide_parameters=True,
    )


def _patience(url: URL, timeout: float) -> dict[str, Any]:
    """Return libpq's parameters; what the URL says itself wins."""
    milliseconds = int(timeout * 1000)
    settings = {
        "default_transaction_isolation": r"read\ committed",
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds * 4 // 5,
        "idle_in_transaction_session_timeout": milliseconds * 2,
        "timezone": "UTC",
    }
    ours = [f"-c {name}={value}" for name, value in settings.items()]
    theirs = url.query.get("options", ())
    given = (theirs,) if isinstance(theirs, str) else theirs
    defaults = {
        "application_name": "hotwallet",
        "connect_timeout": max(2, int(timeout)),  # libpq takes no less than 2.
        "tcp_user_timeout": milliseconds,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    chosen = {name: value for name, value in defaults.items() if name not in url.query}
    return {**chosen, "options": " ".join([*ours, *given])}


def _rest(connection: Any, entry: ConnectionPoolEntry) -> None:
    entry.info["rests_since"] = time.monotonic()


def _try_rested(engine: Engine) -> Any:
    """
    Return the listener that finds out whether a rested connection still lives.

    SQLAlchemy's own ``pool_pre_ping`` costs a round trip each time, which is as
    much as a whole method of the store costs.
    """

    def try_rested(
        connection: Any, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        now = time.monotonic()
        if now - entry.info.get("rests_since", now) < RESTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            lost = DisconnectionError()
        else:
            return
        raise lost  # The pool opens another one.

    return try_rested


def _discard_untrusted(context: ExceptionContext) -> None:
    code = getattr(context.original_exception, "sqlite_errorcode", None)
    if isinstance(code, int) and code & 0xFF in _UNTRUSTED:
        context.is_disconnect = True
