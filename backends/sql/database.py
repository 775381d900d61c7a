"""One database: where it is, its engine in each process, its errors in our words."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from backends.sql.connections import (
    create_file,
    postgresql_engine,
    postgresql_migration_engine,
    sqlite_engine,
    sqlite_migration_engine,
)
from backends.sql.errors import in_our_words, is_busy
from signer.errors import ConfigurationError, Refusal, StoreUnavailableError


T = TypeVar("T")

SQLITE = "sqlite"
POSTGRESQL = "postgresql"


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
        self._url = _parsed(url)
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
        return _Here(engine, _turns(self._timeout))


def _turns(timeout: float) -> Callable[[], AbstractContextManager[None]]:
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


def _parsed(text: str) -> URL:
    """
    Return the URL with the driver that we ship.

    Raises:
        ConfigurationError: It is not for a database that we know.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # The latter for a port that is no number.
        url = URL.create("unknown")
    if url.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == SQLITE and _is_file(url):
        return url.set(database=str(Path(str(url.database)).absolute()))
    raise ConfigurationError(
        Refusal(
            "database-misconfigured",
            "DATABASE_URL must be postgresql://... or sqlite:///path/to/file",
        )
    )


def _is_file(url: URL) -> bool:
    # In memory, every connection would have a ledger of its own.
    name = url.database or ""
    return bool(name) and not (
        url.host or url.query or name.startswith((":memory:", "file:"))
    )
