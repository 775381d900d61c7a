"""Executes several works in one transaction, so that the error of one is its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from backends.sql.errors import is_busy


T = TypeVar("T")

Work = Callable[[Connection], T]
"""What a transaction executes.  It may be executed again after a rollback."""


@dataclass(frozen=True, slots=True)
class WorkResult(Generic[T]):
    """What a work returned, or the error that it raised."""

    result: T | None = None
    error: Exception | None = None

    def get(self) -> T:
        """Return the result; raise the error."""
        if self.error is not None:
            raise self.error
        result: Any = self.result
        return result  # type: ignore[no-any-return]


def run_each(
    connection: Connection, works: Sequence[Work[T]]
) -> Sequence[WorkResult[T]]:
    """
    Return the outcomes of *works*, in the transaction that *connection* has begun.

    With two or more, each has a savepoint: an error undoes what that work changed, and
    is its outcome.  A single work raises its error.

    Raises:
        Exception: The error that ended the whole transaction, or for which it must be
            repeated.
    """
    if len(works) == 1:
        return [WorkResult(works[0](connection))]
    return [_run_one(connection, work) for work in works]


def _run_one(connection: Connection, work: Work[T]) -> WorkResult[T]:
    connection.exec_driver_sql("SAVEPOINT one")
    try:
        outcome = WorkResult(work(connection))
    except Exception as e:
        if is_busy(e) or _has_ended(connection):
            raise
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT one")
        outcome = WorkResult(error=e)
    connection.exec_driver_sql("RELEASE SAVEPOINT one")
    return outcome


def _has_ended(connection: Connection) -> bool:
    """Return whether the connection is lost, or SQLite rolled everything back."""
    if connection.invalidated:
        return True
    # After SQLITE_FULL or SQLITE_IOERR, for example: sqlite.org/lang_transaction.html.
    return not getattr(connection.connection.dbapi_connection, "in_transaction", True)
