"""
Implements the part of PEP 249 that SQLAlchemy's SQLite dialect uses, over APSW.

APSW's wheels contain a current SQLite for each platform, where Python's ``sqlite3`` has
the library of the system.  A process must use only one of the two for a file: closing a
file through one library releases the locks of the other (sqlite.org/howtocorrupt.html,
section 2.2).

Connections are in autocommit mode: a transaction begins with an explicit ``BEGIN``.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw


apilevel = "2.0"
threadsafety = 1  # Threads may share the module, but not connections.
paramstyle = "qmark"
sqlite_version_info = tuple(map(int, apsw.sqlite_lib_version().split(".")))

Binary = memoryview

_T = TypeVar("_T")
_Row = tuple[Any, ...]
_Description = tuple[_Row, ...]

# The ledger has about 200 statements: with APSW's default of 100, one in ten would be
# compiled again.
_CACHED_STATEMENTS = 500

_WRITING = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE"})


class Error(Exception):
    """
    An error of SQLite or of APSW.

    As in Python's ``sqlite3``, ``sqlite_errorcode`` is the extended result code, and
    ``sqlite_errorname`` its name; both are None for errors of APSW.
    """

    sqlite_errorcode: int | None = None
    sqlite_errorname: str | None = None


class InterfaceError(Error):
    """The library was used wrongly."""


class DatabaseError(Error):
    """An error of the database."""


class DataError(DatabaseError):
    """A value is too large."""


class OperationalError(DatabaseError):
    """The file or a statement cannot be used now: locks, disk, permissions, SQL."""


class IntegrityError(DatabaseError):
    """A constraint is violated."""


class InternalError(DatabaseError):
    """An error inside SQLite."""


class ProgrammingError(DatabaseError):
    """The connection is closed, or the parameters do not fit the statement."""


class NotSupportedError(DatabaseError):
    """Required by PEP 249, and never raised."""


# As Python's ``sqlite3`` does; all other codes are a ``DatabaseError``.
_CLASSES: dict[int, type[Error]] = {
    apsw.SQLITE_CONSTRAINT: IntegrityError,
    apsw.SQLITE_MISMATCH: IntegrityError,
    apsw.SQLITE_INTERNAL: InternalError,
    apsw.SQLITE_NOTFOUND: InternalError,
    apsw.SQLITE_MISUSE: InterfaceError,
    apsw.SQLITE_RANGE: InterfaceError,
    apsw.SQLITE_TOOBIG: DataError,
    **dict.fromkeys(
        (
            apsw.SQLITE_ABORT,
            apsw.SQLITE_BUSY,
            apsw.SQLITE_CANTOPEN,
            apsw.SQLITE_EMPTY,
            apsw.SQLITE_ERROR,
            apsw.SQLITE_FULL,
            apsw.SQLITE_INTERRUPT,
            apsw.SQLITE_IOERR,
            apsw.SQLITE_LOCKED,
            apsw.SQLITE_PERM,
            apsw.SQLITE_PROTOCOL,
            apsw.SQLITE_READONLY,
            apsw.SQLITE_SCHEMA,
        ),
        OperationalError,
    ),
}


def _convert(error: apsw.Error) -> Error:
    """Return the error of this module for one of APSW, with the same message."""
    code = getattr(error, "extendedresult", None)
    if code is None:
        return ProgrammingError(str(error))
    primary = code & 0xFF
    converted = _CLASSES.get(primary, DatabaseError)(str(error))
    converted.sqlite_errorcode = code
    converted.sqlite_errorname = str(
        apsw.mapping_extended_result_codes.get(code)
        or apsw.mapping_result_codes.get(primary)
    )
    return converted


def _run(work: Callable[..., _T], *args: Any) -> _T:
    """Return what *work* returns; raise the error of this module for one of APSW."""
    try:
        return work(*args)
    except apsw.ExecTraceAbort:
        error: Error = ProgrammingError("execute one statement at a time")
    except apsw.ConnectionClosedError:
        # The text by which SQLAlchemy's dialect recognises it.
        error = ProgrammingError("Cannot operate on a closed database.")
    except apsw.Error as e:
        error = _convert(e)
    raise error


class _Statement:
    """
    What APSW reports of a statement before its first step.

    Afterwards a statement that returned no rows has no description any more.
    """

    def __init__(self, sql: str) -> None:
        self.description: _Description | None = None
        self.is_writing = _first_word(sql) in _WRITING
        self._is_begun = False

    def trace(self, cursor: apsw.Cursor, _sql: str, _parameters: Any) -> bool:
        """Return whether APSW may execute it: a second one in a text is refused."""
        is_first = not self._is_begun
        self._is_begun = True
        self.description = cursor.description or None
        return is_first


class Cursor:
    """Implements the cursor of PEP 249; it has read all rows after ``execute``."""

    arraysize = 1

    def __init__(self, connection: "Connection") -> None:
        self.description: _Description | None = None
        self.rowcount = -1
        self._connection = connection
        self._rows: list[_Row] = []
        self._next = 0

    @property
    def lastrowid(self) -> int:
        return self._connection.native.last_insert_rowid()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> "Cursor":
        """
        Execute one statement, and read its rows.

        Raises:
            Error: It failed.
        """
        self._rows, self._next = [], 0
        self._rows, statement, changes = _run(self._connection.step, sql, parameters)
        self.description = statement.description
        self.rowcount = changes if statement.is_writing else -1
        return self

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> "Cursor":
        """
        Execute one statement with each of *rows*, and read what all of them return.

        ``rowcount`` is their sum.
        """
        first, *others = rows
        self.execute(sql, first)
        native = self._connection.native
        before = native.total_changes()
        self._rows += _run(lambda: native.executemany(sql, others).fetchall())
        # No trigger changes rows.
        self.rowcount = max(0, self.rowcount) + native.total_changes() - before
        return self

    def fetchone(self) -> _Row | None:
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> list[_Row]:
        end = self._next + (self.arraysize if size is None else size)
        rows, self._next = self._rows[self._next : end], end
        return rows

    def fetchall(self) -> list[_Row]:
        rows = self._rows[self._next :] if self._next else self._rows
        self._rows, self._next = [], 0
        return rows

    def close(self) -> None:
        self._rows, self._next = [], 0


class Connection:
    """Implements the connection of PEP 249, in autocommit mode."""

    isolation_level = None  # Autocommit, as in Python's ``sqlite3``.

    def __init__(self, native: apsw.Connection) -> None:
        """Use *native*, which this object closes."""
        self.native = native
        self._statements: dict[str, _Statement] = {}

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun; SQLite ends it after some errors."""
        return self.native.in_transaction

    def step(
        self, sql: str, parameters: Sequence[Any]
    ) -> tuple[list[_Row], _Statement, int]:
        """Execute a statement; return its rows and how many rows it changed."""
        native, statement = self.native, self._statements.get(sql)
        if statement is not None:
            rows = native.execute(sql, parameters).fetchall()
            return rows, statement, native.changes()
        statement = _Statement(sql)
        native.exec_trace = statement.trace
        try:
            rows = native.execute(sql, parameters).fetchall()
        finally:
            native.exec_trace = None
        if len(self._statements) >= _CACHED_STATEMENTS:
            self._statements.clear()
        self._statements[sql] = statement
        return rows, statement, native.changes()

    def cursor(self) -> Cursor:
        return Cursor(self)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Execute one statement on a new cursor, and return it."""
        return Cursor(self).execute(sql, parameters)

    def commit(self) -> None:
        """Commit the transaction, if one has begun."""
        if self.in_transaction:
            self.execute("COMMIT")

    def rollback(self) -> None:
        """Roll the transaction back, if one has begun."""
        if self.in_transaction:
            self.execute("ROLLBACK")

    def create_function(
        self,
        name: str,
        narg: int,
        func: Callable[..., Any],
        *,
        deterministic: bool = False,
    ) -> None:
        """Define a function of SQL; SQLAlchemy's dialect defines two."""
        self.native.create_scalar_function(
            name, func, narg, deterministic=deterministic
        )

    def close(self) -> None:
        """Close the file; a transaction that was not committed is rolled back."""
        self.native.close()


def connect(path: Path | str, *, timeout: float = 5.0) -> Connection:
    """
    Open the existing file at *path*; wait up to *timeout* seconds for a lock.

    Raises:
        OperationalError: There is no such file, or it cannot be opened.
    """
    try:
        native = apsw.Connection(
            str(path),
            flags=apsw.SQLITE_OPEN_READWRITE,
            statementcachesize=_CACHED_STATEMENTS,
        )
    except apsw.Error as e:
        error = _convert(e)
    else:
        native.set_busy_timeout(round(timeout * 1000))
        # Else SQLite plans a statement again whenever its parameters have changed.
        native.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        return Connection(native)
    raise error


def _first_word(sql: str) -> str:
    return "".join(sql.lstrip()[:8].split(maxsplit=1)[:1]).upper()
