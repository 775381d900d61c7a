"""
Group commit: one transaction commits what several threads want to write.

SQLite allows one writer at a time, and a durable commit waits for the disk.  The first
thread that writes becomes the leader.  It executes its own work and that of all threads
that wait, commits once, and passes the lead to a thread that came meanwhile.
PostgreSQL needs it only for what several threads do alike, which it can do at once.

``run_each`` executes several works in one transaction of either database.  Works that
do the same are executed together.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from backends.sql.connection_shares import ConnectionShares
from backends.sql.errors import is_busy, is_unavailable
from backends.sql.urls import SQLITE
from signer.errors import HotWalletError, StoreUnavailableError


T = TypeVar("T")

Item = TypeVar("Item")

Run = Callable[[sa.Connection, Sequence[Item]], Sequence[T | HotWalletError]]
"""Does something for each of several items, and returns a result or an error of each.

An exception undoes what it did for all of them."""


@dataclass(frozen=True, slots=True)
class Work(Generic[Item, T]):
    """
    What a transaction executes.  It may be executed again after a rollback.

    *run* is called once for the items of all works that have it.  With
    *is_one_statement*, it changes the database in a single statement of PostgreSQL.
    """

    run: Run[Item, T]
    item: Item
    is_one_statement: bool = False


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


def alone(work: Callable[[sa.Connection], T]) -> Work[None, T]:
    """Return *work* as one that shares its ``run`` with no other."""
    return Work(lambda connection, _: [work(connection)], None)


def run_each(
    connection: sa.Connection, works: Sequence[Work[Any, T]]
) -> Sequence[WorkResult[T]]:
    """
    Return the outcomes of *works*, in the transaction that *connection* has begun.

    An error undoes what that work changed, and is its outcome.  A single work raises
    its error.

    Raises:
        Exception: The error that ended the whole transaction, or for which it must be
            repeated.
    """
    if len(works) == 1:
        return _results(works[0].run(connection, [works[0].item]))
    places: dict[Run[Any, T], list[int]] = {}
    for place, work in enumerate(works):
        places.setdefault(work.run, []).append(place)
    outcomes: dict[int, WorkResult[T]] = {}
    for run, found in places.items():
        items = [works[place].item for place in found]
        outcomes.update(zip(found, _run_together(connection, run, items), strict=True))
    return [outcomes[place] for place in range(len(works))]


def run_on_postgresql(
    connection: sa.Connection, works: Sequence[Work[Any, T]]
) -> Sequence[WorkResult[T]]:
    """Return the outcomes of *works*, in a transaction unless they need none."""
    if all(each.is_one_statement for each in works):
        try:
            return _results(works[0].run(connection, [each.item for each in works]))
        except Exception as e:
            if len(works) == 1 or is_unavailable(e):
                raise
    connection.exec_driver_sql("BEGIN")
    return run_each(connection, works)


def _run_together(
    connection: sa.Connection, run: Run[Item, T], items: Sequence[Item]
) -> Sequence[WorkResult[T]]:
    """Run for all *items*, or for one after the other if one of them fails."""
    try:
        with savepoint(connection):
            return _results(run(connection, items))
    except Exception as e:
        if is_busy(e) or _has_ended(connection):
            raise
        # Do not wait for the database as often as there are items.
        if len(items) == 1 or is_unavailable(e):
            return [WorkResult(error=e)] * len(items)
    return [_run_together(connection, run, [item])[0] for item in items]


def _results(done: Sequence[T | HotWalletError]) -> Sequence[WorkResult[T]]:
    return [
        WorkResult(error=each)
        if isinstance(each, HotWalletError)
        else WorkResult(result=each)
        for each in done
    ]


@contextmanager
def savepoint(connection: sa.Connection) -> Iterator[None]:
    """Undo what is changed in the context if it ends with an error."""
    connection.exec_driver_sql("SAVEPOINT one")
    try:
        yield
    except Exception as e:
        if not (is_busy(e) or _has_ended(connection)):
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT one")
            connection.exec_driver_sql("RELEASE SAVEPOINT one")
        raise
    connection.exec_driver_sql("RELEASE SAVEPOINT one")


def _has_ended(connection: sa.Connection) -> bool:
    """Return whether the connection is lost, or SQLite rolled everything back."""
    if connection.invalidated:
        return True
    # After SQLITE_FULL or SQLITE_IOERR, for example: sqlite.org/lang_transaction.html.
    return not getattr(connection.connection.dbapi_connection, "in_transaction", True)


# SQLite reports some locks at once; without a pause, the retries would use a whole CPU.
RETRY_SECONDS = 0.001


class _Request:
    """The works of one thread, and what became of them."""

    def __init__(self, works: Sequence[Work[Any, Any]]) -> None:
        self.works = works
        self.outcomes: Sequence[WorkResult[Any]] | None = None
        self.error: SQLAlchemyError | None = None
        self._is_waiting = threading.Lock()
        self._is_waiting.acquire()

    def wait(self, seconds: float = -1) -> bool:
        """Return whether the thread was woken; -1 waits without a limit."""
        return self._is_waiting.acquire(timeout=seconds)

    def wake(self) -> None:
        """Wake the thread: it leads, or its works are done."""
        self._is_waiting.release()

    def result(self) -> Sequence[WorkResult[Any]]:
        """Return the outcomes; raise the error of the whole transaction."""
        if self.error is not None:
            raise self.error
        if self.outcomes is None:
            raise StoreUnavailableError("the commit was interrupted: try again")
        return self.outcomes


class GroupCommit:
    """
    The writes of one process to SQLite, or equal ones to PostgreSQL; threads share it.

    A work may be executed by another thread, and again if the database was busy.  What
    one work changed is undone if it raises an error; the other works are not affected.
    No thread learns of an outcome before the commit.
    """

    def __init__(self, engine: sa.Engine | ConnectionShares, timeout: float) -> None:
        """Wait up to *timeout* seconds for a turn, and for a lock of the database."""
        self._engine = engine
        self._timeout = timeout
        self._lock = threading.Lock()
        self._queue: deque[_Request] = deque()
        self._leader: _Request | None = None

    def execute(self, works: Sequence[Work[Any, Any]]) -> Sequence[WorkResult[Any]]:
        """
        Return the outcome of each of *works*, which were committed together.

        Raises:
            StoreUnavailableError: Other threads wrote for too long, or the thread that
                committed for this one was interrupted.
            Exception: The error of the whole transaction, or of a single work.
        """
        request = _Request(works)
        try:
            if self._enter(request) or self._await_turn(request):
                self._lead(request)
        finally:
            self._leave(request)
        return request.result()

    def _enter(self, request: _Request) -> bool:
        """Append *request* to the queue; return whether its thread leads."""
        with self._lock:
            self._queue.append(request)
            if self._leader is None:
                self._leader = request
            return self._leader is request

    def _await_turn(self, request: _Request) -> bool:
        """Return True when the thread of *request* leads, False when it is done."""
        if not request.wait(self._timeout):
            with self._lock:
                if request in self._queue and request is not self._leader:
                    self._queue.remove(request)
                    raise StoreUnavailableError(
                        "the database is busy with other writes"
                    )
            request.wait()  # The leader has it, and does not wait for ever.
        return request is self._leader

    def _leave(self, request: _Request) -> None:
        """Withdraw *request* if it was not executed; pass the lead on."""
        with self._lock:
            if request in self._queue:
                self._queue.remove(request)
            if self._leader is request:
                self._leader = self._queue[0] if self._queue else None
                if self._leader is not None:
                    self._leader.wake()

    def _lead(self, leader: _Request) -> None:
        """Execute and commit what waits; wake its threads, even after an error."""
        taken: list[_Request] = []
        try:
            self._commit(taken)
        except SQLAlchemyError as e:
            if not taken:
                raise  # The transaction did not begin: the others try themselves.
            for each in taken:
                each.error = e
        finally:
            for each in taken:
                if each is not leader:
                    each.wake()

    def _commit(self, taken: list[_Request]) -> None:
        """Append to *taken* what is executed; repeat it while the database is busy."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                with self._engine.connect() as connection, connection.begin():
                    is_sqlite = connection.dialect.name == SQLITE
                    if is_sqlite:
                        connection.exec_driver_sql("BEGIN IMMEDIATE")
                    self._take(taken)  # More came while the database was busy.
                    works = [work for each in taken for work in each.works]
                    run = run_each if is_sqlite else run_on_postgresql
                    outcomes = iter(run(connection, works))
                break
            except SQLAlchemyError as e:
                if not is_busy(e) or time.monotonic() > deadline:
                    raise
            time.sleep(RETRY_SECONDS)
        for each in taken:
            each.outcomes = [next(outcomes) for _ in each.works]

    def _take(self, taken: list[_Request]) -> None:
        with self._lock:
            taken.extend(self._queue)
            self._queue.clear()
