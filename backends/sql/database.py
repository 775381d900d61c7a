"""One database: its URL, an engine in each process, and translated errors."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from backends.sql.columns import UTCDateTime
from backends.sql.connection_shares import ConnectionShares
from backends.sql.errors import is_busy, translate_errors
from backends.sql.group_commit import (
    RETRY_SECONDS,
    GroupCommit,
    Run,
    Work,
    WorkResult,
    alone,
    run_each,
)
from backends.sql.postgresql import (
    PostgreSQLWatches,
    postgresql_engine,
    postgresql_migration_engine,
)
from backends.sql.sqlite import (
    SQLiteFile,
    SQLiteWatches,
    create_file,
    sqlite_engine,
    sqlite_migration_engine,
)
from backends.sql.urls import SQLITE, parse_url
from signer.errors import ConfigurationError, HotWalletError, Refusal
from signer.model.spending_limits import hour_number
from signer.ports.clock import Clock, utc_now
from signer.ports.refund_store import Topic, Watch
from signer.row_macs import RowMACs


T = TypeVar("T")

Item = TypeVar("Item")

_NOW = sa.select(sa.func.clock_timestamp(type_=UTCDateTime).label("now"))


@dataclass(frozen=True, slots=True)
class _ProcessState:
    """What one process owns: connections, the queue of its writers, its watches."""

    engine: sa.Engine
    shares: ConnectionShares
    execute: Callable[[Sequence[Work[Any, Any]]], Sequence[WorkResult[Any]]]
    group: Callable[[str], GroupCommit]
    watches: SQLiteWatches | PostgreSQLWatches


class Database:
    """
    One database, shared by threads, processes and hosts.

    Both drivers run in autocommit mode.  A single statement is its own transaction,
    which saves three round trips on PostgreSQL; longer transactions start with an
    explicit ``BEGIN``.  The methods raise a ``StoreError``, never an error
    of the driver.  The URL is a secret: no ``repr`` and no error contains it.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int,
        timeout: float,
        clock: Clock | None = None,
        tenant: Callable[[], str | None] = lambda: None,
    ) -> None:
        """
        Remember *url*; open nothing.

        *clock* replaces the database's own clock, in tests and simulations.  *tenant*
        returns for whom a thread works, if tenants share the connections.

        Raises:
            ConfigurationError: ``database-misconfigured``.
        """
        self._url = parse_url(url)
        self._pool_size = pool_size
        self._timeout = timeout
        self._clock = clock
        self._tenant = tenant
        # Keyed by process id, so that a forked process opens its own connections.  The
        # inherited ones stay here, unused: to close them would end the parent's
        # sessions.
        self._processes: dict[int, _ProcessState] = {}

    def __repr__(self) -> str:
        return f"Database({self.dialect!r})"

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._url.get_backend_name()

    @property
    def path(self) -> Path | None:
        """SQLite's file; None for PostgreSQL."""
        return Path(self._url.database or "") if self.dialect == SQLITE else None

    def hour(self) -> int | None:
        """Return the ``hour_number`` of the injected clock; None: ask the database."""
        return None if self._clock is None else hour_number(self._clock())

    def now(self) -> datetime:
        """Return the time of the database's host, or of the injected clock."""
        if self._clock is not None:
            return self._clock()
        if self.dialect == SQLITE:
            return utc_now()
        moment: datetime = self.rows(_NOW)[0].now
        return moment

    def run(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what *work* returns; each of its statements is a transaction."""
        state = self._process()

        def attempt() -> T:
            with state.shares.connect() as connection:
                return work(connection)

        return self._retry_while_busy(attempt)

    def rows(self, query: sa.Executable, **params: Any) -> Sequence[Any]:
        return self.run(lambda c: c.execute(query, params).all())

    def report(self, query: sa.Executable, **params: Any) -> Sequence[Any]:
        """``rows`` of a query whose best plan depends on the values of *params*."""
        if self.dialect == SQLITE:
            return self.rows(query, **params)

        def work(connection: sa.Connection) -> Sequence[Any]:
            connection.exec_driver_sql("SET LOCAL plan_cache_mode = auto")
            return connection.execute(query, params).all()

        return self.transaction(work)

    def transaction(self, work: Callable[[sa.Connection], T]) -> T:
        """
        Return what *work* returns, in one transaction.

        On SQLite another thread may execute *work*, in the transaction that commits
        what several threads write.  It takes the write lock at the start (``BEGIN
        IMMEDIATE``).  A transaction that starts by reading can be refused the lock
        later, however long it waits.
        """
        execute = self._process().execute

        def attempt() -> T:
            [outcome] = execute([alone(work)])
            result: T = outcome.get()
            return result

        return translate_errors(attempt)

    def together(
        self, run: Run[Item, T], items: Sequence[tuple[Item, bool]], *, key: str
    ) -> Sequence[T | HotWalletError]:
        """
        Return what *run* returns for *items*, or their errors; all share one commit.

        The error of one item undoes what was changed for it, and nothing of the others.
        An error of the whole transaction is the result of each.

        *run* gets the items of other threads as well; on PostgreSQL, of those with the
        same *key*, which therefore wait for the same locks.  With each item is whether
        one statement of PostgreSQL is enough.
        """
        if not items:
            return ()
        works = [Work(run, item, is_one_statement=one) for item, one in items]
        state = self._process()
        try:
            outcomes = translate_errors(lambda: state.group(key).execute(works))
        except HotWalletError as e:
            return [e] * len(items)
        return [_result(partial(translate_errors, each.get)) for each in outcomes]

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """
        Return what *work* returns, which executes one writing statement.

        On SQLite the writer waits in the queue; PostgreSQL saves two round trips.
        """
        return self.transaction(work) if self.dialect == SQLITE else self.run(work)

    def migration(self, work: Callable[[sa.Connection], T], *, timeout: float) -> T:
        """
        Return what *work* returns, on a connection that may rebuild tables.

        SQLite's file is created if it is missing.
        """
        if self.path is not None:
            create_file(self.path)
            engine = sqlite_migration_engine(self.path, timeout=timeout)
        else:
            engine = postgresql_migration_engine(self._url, timeout=timeout)

        def attempt() -> T:
            with engine.connect() as connection, connection.begin():
                return work(connection)

        # Two processes that open a new file at once may both find it busy: SQLite does
        # not wait for the change to a write-ahead log.
        return self._retry_while_busy(attempt)

    def watch(self, topic: Topic) -> AbstractContextManager[Watch]:
        return self._process().watches.watch(topic)

    def connections(self) -> tuple[int, int]:
        """Return how many connections of this process are in use, and the most."""
        state = self._processes.get(os.getpid())
        pool: Any = None if state is None else state.engine.pool
        return 0 if pool is None else pool.checkedout(), self._pool_size

    def close(self) -> None:
        """Close the connections of this process; the next use opens new ones."""
        state = self._processes.pop(os.getpid(), None)
        if state is not None:
            state.watches.close()
            state.engine.dispose()

    def _retry_while_busy(self, attempt: Callable[[], T]) -> T:
        """
        Return what *attempt* returns; repeat it while SQLite is busy.

        SQLite lets one process write while the others poll, and polls ever more slowly,
        so under load the process that has waited longest may never succeed.  Its own
        wait is therefore short and is restarted here.  A busy transaction was rolled
        back.
        """
        deadline = time.monotonic() + self._timeout

        def attempts() -> T:
            while True:
                try:
                    return attempt()
                except OperationalError as e:
                    if not is_busy(e) or time.monotonic() > deadline:
                        raise
                time.sleep(RETRY_SECONDS)

        return translate_errors(attempts)

    def _process(self) -> _ProcessState:
        pid = os.getpid()
        state = self._processes.get(pid)
        # If two threads get here together, one of the two unused engines is dropped.
        return state or self._processes.setdefault(pid, self._open())

    def _open(self) -> _ProcessState:
        if self.path is None:
            engine = postgresql_engine(
                self._url, pool_size=self._pool_size, timeout=self._timeout
            )
            watches = PostgreSQLWatches(
                lambda: postgresql_engine(self._url, pool_size=1, timeout=self._timeout)
            )
            shares = self._share(engine)
            groups = lru_cache(lambda _: GroupCommit(shares, self._timeout))
            execute = partial(_run_all, shares)
            return _ProcessState(engine, shares, execute, groups, watches)
        file = SQLiteFile(self.path)
        engine = sqlite_engine(file, pool_size=self._pool_size, timeout=self._timeout)
        group = GroupCommit(engine, self._timeout)
        shares, watch = self._share(engine), SQLiteWatches(file)
        return _ProcessState(engine, shares, group.execute, lambda _: group, watch)

    def _share(self, engine: sa.Engine) -> ConnectionShares:
        return ConnectionShares(engine, self._pool_size, self._timeout, self._tenant)


def _result(get: Callable[[], T]) -> T | HotWalletError:
    try:
        return get()
    except HotWalletError as e:
        return e


def _run_all(
    shares: ConnectionShares, works: Sequence[Work[Any, Any]]
) -> Sequence[WorkResult[Any]]:
    """Return the outcomes of *works*, in one transaction of PostgreSQL."""
    with shares.connect() as connection, connection.begin():
        connection.exec_driver_sql("BEGIN")
        return run_each(connection, works)


class Tables:
    """Some tables of a database, which serve one port."""

    def __init__(self, database: Database, macs: RowMACs | None = None) -> None:
        self._database = database
        self._row_macs = macs

    def watch(self, topic: Topic) -> AbstractContextManager[Watch]:
        return self._database.watch(topic)

    @property
    def _macs(self) -> RowMACs:
        """
        What makes and verifies the MACs of rows.

        Raises:
            ConfigurationError: ``mac-key-missing``.
        """
        if self._row_macs is None:
            raise ConfigurationError(Refusal("mac-key-missing", "set MAC_KEY_FILE"))
        return self._row_macs
