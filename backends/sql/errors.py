"""Database errors in our words: the class says whether to retry, and nothing leaks."""

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from backends.sql.connect_errors import reason
from signer.errors import StaleStateError, StoreError, StoreUnavailableError


T = TypeVar("T")

UPGRADE = "run `hotwallet db upgrade`"

# PostgreSQL, appendix A: connection, transaction rollback, resources, operator
# intervention, system error; then a lock not granted and a server that only reads.
_PASSING = ("08", "40", "53", "57", "58", "55P03", "25006")
_NO_TABLE = "42P01"
_UNIQUE = "23505"
_MAY_NOT = "42501"

_GRANTS = (
    "`hotwallet db upgrade` is for the owner of the tables, and docker/grants.sql gives"
    " the service what it needs"
)

_PASSING_SQLITE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,  # Until somebody restores the file.
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


def in_our_words(work: Callable[[], T]) -> T:
    """
    Return what *work* returns, with our errors for the database's.

    They are raised outside of the handler: even ``__context__`` holds nothing.
    """
    try:
        return work()
    except SQLAlchemyError as e:
        error = _translated(e)
    except (OverflowError, UnicodeError):
        error = StoreError("a value does not fit into its column")
    raise error


def is_busy(error: DBAPIError) -> bool:
    """Say whether SQLite gave up because another connection holds a lock."""
    return _primary_code(error.orig) == sqlite3.SQLITE_BUSY


def _translated(error: SQLAlchemyError) -> StoreError:
    """
    Return our error for the database's.

    Only class names and error codes go over, which say what a search needs.
    Messages stay behind: they hold addresses of servers, user names and values.
    """
    if isinstance(error, PoolTimeoutError):
        return StoreUnavailableError("every connection to the database is busy")
    if not isinstance(error, DBAPIError) or error.orig is None:
        return StoreError(f"the statement was not sent ({_inner_name(error)})")
    code = _code(error.orig)
    label = (
        f"{type(error.orig).__name__}, {code}" if code else type(error.orig).__name__
    )
    if isinstance(error, IntegrityError):
        return _refused(error.orig, code, label)
    if (lack := _lack(error.orig, code)) is not None:
        return StoreError(f"the database {lack} ({label})")
    why = reason(str(error.orig)) if code is None else None
    if why or error.connection_invalidated or _is_passing(error, code):
        told = f"lets nobody in: {why}" if why else f"did not do its work ({label})"
        return StoreUnavailableError(f"the database {told}")
    return StoreError(f"the database refused ({label})")


def _inner_name(error: SQLAlchemyError) -> str:
    inner = error.orig if isinstance(error, StatementError) else None
    return type(inner or error).__name__


def _code(orig: BaseException) -> str | None:
    """Return the SQLSTATE, or SQLite's name of its error code."""
    code = getattr(orig, "sqlstate", None) or getattr(orig, "sqlite_errorname", None)
    return code if isinstance(code, str) else None


def _refused(orig: BaseException, code: str | None, label: str) -> StoreError:
    """
    Return the error for a broken constraint.

    Unique pairs and triples are races that somebody else won.  A primary key,
    a foreign key or a check that does not hold is a defect of ours.
    """
    name = getattr(getattr(orig, "diag", None), "constraint_name", None)
    if code == "SQLITE_CONSTRAINT_UNIQUE" or (
        code == _UNIQUE and str(name).startswith("uq_")
    ):
        return StaleStateError("somebody else recorded this first")
    return StoreError(f"a constraint does not hold ({label})")


def _lack(orig: BaseException, code: str | None) -> str | None:
    """Return what the owner has not done yet, and the cure; None if it is not that."""
    if _is_missing_table(orig, code):
        return f"has no tables: {UPGRADE}"
    if code == _MAY_NOT:
        return f"does not let this role do it: {_GRANTS}"
    return None


def _is_missing_table(orig: BaseException, code: str | None) -> bool:
    # SQLite has no code of its own for this, and names no value in this message.
    return code == _NO_TABLE or (
        code == "SQLITE_ERROR" and str(orig).startswith("no such table")
    )


def _is_passing(error: DBAPIError, code: str | None) -> bool:
    primary = _primary_code(error.orig)
    if primary is not None:
        return primary in _PASSING_SQLITE
    if code is not None:
        return code.startswith(_PASSING)
    # Without a SQLSTATE the server never spoke: no connection, or a lost one.
    return isinstance(error, (OperationalError, InterfaceError))


def _primary_code(orig: BaseException | None) -> int | None:
    """Return SQLite's error code without what extends it."""
    code = getattr(orig, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None
