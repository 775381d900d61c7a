"""One database: where it is, its engine in each process, its errors in our words."""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from backends.sql.errors import in_our_words, is_busy
from backends.sql.postgresql import postgresql_engine, postgresql_migration_engine
from backends.sql.sqlite import (
    create_file,
    sqlite_engine,
    sqlite_migration_engine,
    turns,
)
from backends.sql.urls import POSTGRESQL, SQLITE, parsed


T = TypeVar("T")

# Some locks SQLite reports at once; the processor has better things to do.
_PAUSE_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class _Here:
    """What one process owns: its connections, and who may write next."""

    engine: Engine
    turn: Callable[[], AbstractContextManager[None]]


class Database:
    """
    One database, shared by threads, processes and hosts.

    Both drivers run in autocommit.  A single statement is its own transaction,
    which saves PostgreSQL three round trips; a longer one is begun in so many
    words.  The URL is a secret: it is in no ``repr`` and in no error.
    """

    def __init__(self, url: str, *, pool_size: int, timeout: float) -> None:
        """
        Remember *url*, and open nothing.

        Raises:
            ConfigurationError: ``database-misconfigured``.
        """
        self._url = parsed(url)
        self._pool_size = pool_size
        self._timeout = timeout
        # Keyed by process, so that a fork finds nothing and opens its own.  What it
        # inherited stays here, unused: closing that would end the parent's session.
        self._processes: dict[int, _Here] = {}

    def __repr__(self) -> str:
        """Say no more than the kind of database."""
        return f"Database({self.dialect!r})"

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._url.get_backend_name()

    @property
    def is_missing(self) -> bool:
        """Whether nobody made SQLite's file yet."""
        return self.dialect == SQLITE and not self._path.exists()

    def run(self, work: Callable[[Connection], T]) -> T:
        """
        Return what *work* returns; each of its statements is a transaction.

        Raises:
            StoreError: Or one of its children, never a driver's error.
        """
        here = self._here()

        def attempt() -> T:
            with here.engine.connect() as connection:
                return work(connection)

        return self._patiently(attempt)

    def transaction(self, work: Callable[[Connection], T]) -> T:
        """
        Return what *work* returns, in one transaction.

        On SQLite it holds the write lock from the start (``BEGIN IMMEDIATE``): one
        that begins by reading can be refused the lock later, however long it waits.

        Raises:
            StoreError: Or one of its children, never a driver's error.
        """
        here = self._here()
        begin = "BEGIN IMMEDIATE" if self.dialect == SQLITE else "BEGIN"

        def attempt() -> T:
            with here.engine.connect() as connection, connection.begin():
                connection.exec_driver_sql(begin)
                return work(connection)

        with here.turn():
            return self._patiently(attempt)

    def write(self, work: Callable[[Connection], T]) -> T:
        """
        Return what *work* returns, whose only statement changes something.

        On SQLite it waits for its turn; PostgreSQL is spared two round trips.

        Raises:
            StoreError: Or one of its children, never a driver's error.
        """
        return self.transaction(work) if self.dialect == SQLITE else self.run(work)

    def migration(
        self, work: Callable[[Connection], object], *, timeout: float
    ) -> None:
        """
        Run *work* on a connection of its own; SQLite's file is made if need be.

        Raises:
            StoreError: Or one of its children, never a driver's error.
        """
        if self.dialect == SQLITE:
            create_file(self._path)
            engine = sqlite_migration_engine(self._path, timeout=timeout)
        else:
            engine = postgresql_migration_engine(self._url, timeout=timeout)

        def attempt() -> None:
            with engine.connect() as connection, connection.begin():
                work(connection)

        in_our_words(attempt)

    def close(self) -> None:
        """Close the connections of this process; the next use opens new ones."""
        here = self._processes.pop(os.getpid(), None)
        if here is not None:
            here.engine.dispose()

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """
        Return what *attempt* returns; begin anew while SQLite is busy.

        SQLite lets one process write and the others poll, and polls ever more
        slowly, so that under load who waits longest waits for ever.  Its own wait is
        therefore short, and starts again.  A busy transaction was rolled back.
        """
        deadline = time.monotonic() + self._timeout

        def attempts() -> T:
            while True:
                try:
                    return attempt()
                except OperationalError as e:
                    if not is_busy(e) or time.monotonic() > deadline:
                        raise
                time.sleep(_PAUSE_SECONDS)

        return in_our_words(attempts)

    @property
    def _path(self) -> Path:
        return Path(self._url.database or "")

    def _here(self) -> _Here:
        pid = os.getpid()
        found = self._processes.get(pid)
        # Of two threads that arrive at once, one throws an unused engine away.
        return found or self._processes.setdefault(pid, self._open())

    def _open(self) -> _Here:
        if self.dialect == POSTGRESQL:
            engine = postgresql_engine(
                self._url, pool_size=self._pool_size, timeout=self._timeout
            )
            return _Here(engine, nullcontext)
        engine = sqlite_engine(
            self._path, pool_size=self._pool_size, timeout=self._timeout
        )
        return _Here(engine, turns(self._timeout))
