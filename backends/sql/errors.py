"""Translates database errors into ours, which say whether to retry and leak nothing."""

import re
from collections.abc import Callable
from typing import TypeVar

import apsw
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from backends.sql.sqlite import DAMAGED
from signer.errors import StaleStateError, StoreError, StoreUnavailableError


# libpq reports no SQLSTATE for a connection that was never established
# (``PQconnectPoll``), only a message that contains the user, the host and the database.
# It is matched against known causes, and is never passed on.
_CAUSES = {
    r"password authentication failed": (
        "it rejected the user name or password; correct them in DATABASE_URL"
    ),
    r"no password supplied": "it requires a password; add one to DATABASE_URL",
    r'role ".*" does not exist': (
        "the user does not exist; correct DATABASE_URL, or create the role"
    ),
    r'role ".*" is not permitted to log in': (
        "the user may not log in; run ALTER ROLE ... LOGIN"
    ),
    r'database ".*" does not exist': (
        "the database does not exist; correct DATABASE_URL, or create it"
    ),
    r"permission denied for database": (
        "the user may not connect to the database; run GRANT CONNECT"
    ),
    r"is not currently accepting connections": (
        "the database accepts no connections; run ALTER DATABASE ... ALLOW_CONNECTIONS"
    ),
    r"pg_hba\.conf": (
        "its pg_hba.conf has no entry for this host; add one, or use TLS (sslmode)"
    ),
    r"server does not support SSL": (
        "it does not support TLS, which sslmode in DATABASE_URL requires; turn it on"
    ),
    r"certificate": (
        "a certificate was rejected; check sslmode, sslrootcert, sslcert and sslkey in"
        " DATABASE_URL"
    ),
    r"(translate host name|resolve host)": (
        "its host name cannot be resolved; correct DATABASE_URL"
    ),
    r"(Connection refused|No such file or directory)": (
        "no server is listening there; start it, or correct DATABASE_URL"
    ),
    r"(timeout|timed out)": (
        "it does not answer; check host and port in DATABASE_URL, and firewalls"
    ),
    r"(too many (clients|connections)|remaining connection slots)": (
        "all of its connections are in use; see docs/how-to/incidents.md"
    ),
    r"the database system is": (
        "it is starting, stopping or recovering; wait until it is up"
    ),
    # Only libpq's own complaints: a server's answer can be "invalid" as well.
    r"invalid (\"?\w+\"? value\b|connection option|URI query parameter|port number"
    r"|percent-encoded token|SSL protocol version range)|definition of service": (
        "DATABASE_URL has a parameter that libpq does not accept; correct it"
    ),
}


def explain_connect_error(message: str) -> str | None:
    """Return the cause in libpq's *message*, and its cure; None if it is unknown."""
    for pattern, cause in _CAUSES.items():
        if re.search(pattern, message):
            return cause
    return None


T = TypeVar("T")

UPGRADE = "run `hotwallet db upgrade`"

# SQLSTATE classes (PostgreSQL's manual, appendix A): connection exception, transaction
# rollback, insufficient resources, operator intervention, system error; then the codes
# lock_not_available and read_only_sql_transaction.
_TRANSIENT = ("08", "40", "53", "57", "58", "55P03", "25006")
_UNDEFINED_TABLE = "42P01"
_UNIQUE_VIOLATION = "23505"
_INSUFFICIENT_PRIVILEGE = "42501"

_GRANTS = (
    "run `hotwallet db upgrade` as the owner of the tables, and docker/grants.sql to"
    " grant each role what it needs"
)

# A damaged file, until an operator restores it.
_TRANSIENT_SQLITE = DAMAGED | {
    apsw.SQLITE_BUSY,
    apsw.SQLITE_FULL,
    apsw.SQLITE_INTERRUPT,
    apsw.SQLITE_LOCKED,
    apsw.SQLITE_PROTOCOL,
}


def translate_errors(work: Callable[[], T]) -> T:
    """
    Return what *work* returns; raise a ``StoreError`` for an error of the database.

    It is raised outside the handler, so that ``__context__`` does not hold the
    original, whose message may have secrets.
    """
    try:
        return work()
    except SQLAlchemyError as e:
        error = _translate(e)
    except (OverflowError, UnicodeError):
        error = StoreError("a value is out of range for its column")
    raise error


def is_busy(error: Exception) -> bool:
    """Return whether SQLite gave up because another connection holds a lock."""
    orig = error.orig if isinstance(error, DBAPIError) else None
    return _primary_code(orig) == apsw.SQLITE_BUSY


def is_unavailable(error: Exception) -> bool:
    """Return whether the database did not answer, or not in time."""
    return isinstance(error, SQLAlchemyError) and isinstance(
        _translate(error), StoreUnavailableError
    )


def _translate(error: SQLAlchemyError) -> StoreError:
    """
    Return our error for an error of the database.

    It has the original's class name and error code, which are enough to search for,
    and never its message, which can have server addresses, user names and values.
    """
    if isinstance(error, PoolTimeoutError):
        return StoreUnavailableError("every connection of the pool is in use")
    if not isinstance(error, DBAPIError) or error.orig is None:
        inner = error.orig if isinstance(error, StatementError) else None
        return StoreError(
            f"the statement was not sent ({type(inner or error).__name__})"
        )
    code = _code(error.orig)
    label = (
        f"{type(error.orig).__name__}, {code}" if code else type(error.orig).__name__
    )
    if isinstance(error, IntegrityError):
        return _constraint_error(error.orig, code, label)
    if (setup := _missing_setup(error.orig, code)) is not None:
        return StoreError(f"{setup} ({label})")
    reason = explain_connect_error(str(error.orig)) if code is None else None
    if reason is not None:
        message = f"cannot connect to the database: {reason}"
    elif error.connection_invalidated or _is_transient(error, code):
        message = f"the database is unavailable ({label})"
    else:
        return StoreError(f"the database refused the statement ({label})")
    return StoreUnavailableError(message)


def _code(orig: BaseException) -> str | None:
    """Return the SQLSTATE, or SQLite's name of its error code."""
    code = getattr(orig, "sqlstate", None) or getattr(orig, "sqlite_errorname", None)
    return code if isinstance(code, str) else None


def _constraint_error(orig: BaseException, code: str | None, label: str) -> StoreError:
    """
    Return the error for a violated constraint.

    A unique constraint (``uq_...``) is violated when another process was first.  A
    primary key, foreign key or check constraint is violated by a defect of ours.
    """
    name = getattr(getattr(orig, "diag", None), "constraint_name", None)
    if code == "SQLITE_CONSTRAINT_UNIQUE" or (
        code == _UNIQUE_VIOLATION and str(name).startswith("uq_")
    ):
        return StaleStateError("another process recorded this first")
    return StoreError(f"a constraint is violated ({label})")


def _missing_setup(orig: BaseException, code: str | None) -> str | None:
    """Return which step of the installation is missing, or None if it is not that."""
    # SQLite has no error code for a missing table; the message has no value in it.
    if code == _UNDEFINED_TABLE or (
        code == "SQLITE_ERROR" and str(orig).startswith("no such table")
    ):
        return f"the database has no tables: {UPGRADE}"
    if code == _INSUFFICIENT_PRIVILEGE:
        return f"the database role lacks a privilege: {_GRANTS}"
    return None


def _is_transient(error: DBAPIError, code: str | None) -> bool:
    primary = _primary_code(error.orig)
    if primary is not None:
        return primary in _TRANSIENT_SQLITE
    if code is not None:
        return code.startswith(_TRANSIENT)
    # No SQLSTATE: the server sent no answer; there is no connection, or it was lost.
    return isinstance(error, (OperationalError, InterfaceError))


def _primary_code(orig: BaseException | None) -> int | None:
    """Return SQLite's primary error code, without the bits of the extended code."""
    code = getattr(orig, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None
