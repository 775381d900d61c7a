"""PostgreSQL as a shared ledger: reconnects, timeouts, privileges and watches."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from threading import Barrier

import psycopg
import pytest
from sqlalchemy import Connection

from backends.sql import SQLStore
from backends.sql import postgresql as postgresql_engines
from backends.sql.advisory_locks import lock_chain
from backends.sql.postgresql import UNHEARD_SECONDS
from signer.errors import ConfigurationError, StoreError, StoreUnavailableError
from signer.model.refund import Status
from signer.model.wallet import Pause
from signer.ports.refund_store import Topic, Watch
from tests.fixtures.ledger import (
    accept,
    accepted,
    claimed,
    later,
    moved,
    now,
    opened,
    queued,
    reserved,
)
from tests.fixtures.ledger import claimed as claimed_from
from tests.fixtures.postgresql import PostgreSQL
from tests.support.ledgers import open_ledger
from tests.support.waiting import eventually


@pytest.fixture
def postgresql_store(postgresql_url: str) -> Iterator[SQLStore]:
    """Return a store on PostgreSQL."""
    store = open_ledger(postgresql_url, timeout=1)
    store.check()
    yield store
    store.close()


def _with(url: str, options: str) -> SQLStore:
    return open_ledger(f"{url}&options={options}")


def _terminate(url: str) -> None:
    """End every connection to the database, as an operator or a failover does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_connections_in_use_are_counted(postgresql_url: str, sqlite_url: str) -> None:
    """Of the pool of this process; before its first use it has none."""
    for url in (postgresql_url, sqlite_url):
        with contextlib.closing(open_ledger(url, pool_size=3)) as store:
            assert store.connections() == (0, 3)
            used = store._database.run(lambda _: store.connections())
            assert used == (1, 3)
            assert store.connections() == (0, 3)


def test_an_idle_connection_is_pinged(
    postgresql_url: str, postgresql_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was lost while idle is replaced before it is used."""
    monkeypatch.setattr(postgresql_engines, "PING_AFTER_IDLE_SECONDS", 0.0)
    _terminate(postgresql_url)
    refund = accepted(postgresql_store)

    assert refund == postgresql_store.get(refund.id)


def test_a_lost_connection_is_replaced(
    postgresql_url: str, postgresql_store: SQLStore
) -> None:
    """A connection that is lost in use causes one error, and is not used again."""

    def lose(connection: Connection) -> None:
        _terminate(postgresql_url)
        connection.exec_driver_sql("SELECT 1")

    with pytest.raises(StoreUnavailableError):
        postgresql_store._database.run(lose)
    refund = accepted(postgresql_store)

    assert refund == postgresql_store.get(refund.id)


def test_the_store_survives_a_crash_of_the_server(
    postgresql: PostgreSQL, postgresql_store: SQLStore
) -> None:
    """R29: while the server is down calls fail; then the store works again."""
    accepted(postgresql_store, due_at=now())
    (before,) = claimed_from(postgresql_store, later(1), later(21), 10)
    postgresql.crash()
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            claimed_from(postgresql_store, later(1), later(21), 10)
    postgresql.__enter__()

    assert before == postgresql_store.get(before.id)
    assert claimed_from(postgresql_store, later(1), later(21), 10) == []


def test_calls_to_a_frozen_server_end(
    postgresql: PostgreSQL, postgresql_store: SQLStore
) -> None:
    """R29: the client's timeout ends them, since the server's own do not act."""
    refund = accepted(postgresql_store)
    with postgresql.frozen():
        waits = []
        for _ in range(3):  # Only the first one waits for the server.
            start = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                postgresql_store.get(refund.id)
            waits.append(time.monotonic() - start)
        assert eventually(lambda: _is_admitted(postgresql_store, refund.id))

    assert waits[0] < 3
    assert sum(waits[1:]) < 0.5
    assert eventually(lambda: _reads(postgresql_store, refund.id))
    assert postgresql_store.get(refund.id) == refund


def _is_admitted(store: SQLStore, refund_id: str) -> bool:
    """Whether a call waits for the server instead of failing at once."""
    start = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        store.get(refund_id)
    return time.monotonic() - start > 0.5


def _reads(store: SQLStore, refund_id: str) -> bool:
    with contextlib.suppress(StoreUnavailableError):
        return store.get(refund_id) is not None
    return False


def _sessions(store: SQLStore) -> set[int]:
    """Return the server's process ids of three connections, used at the same time."""
    together = Barrier(3, timeout=30)

    def session(connection: Connection) -> int:
        query = "SELECT pg_backend_pid()"
        number = int(connection.exec_driver_sql(query).scalar_one())
        together.wait()
        return number

    with ThreadPoolExecutor(3) as threads:
        return set(threads.map(lambda _: store._database.run(session), range(3)))


def test_one_timeout_replaces_all_connections(
    postgresql: PostgreSQL, postgresql_store: SQLStore
) -> None:
    """The other idle connections, which are lost too, cost no more timeouts."""
    refund = accepted(postgresql_store)
    before = _sessions(postgresql_store)
    with postgresql.frozen(), pytest.raises(StoreUnavailableError):
        postgresql_store.get(refund.id)
    assert eventually(lambda: _reads(postgresql_store, refund.id))
    after = _sessions(postgresql_store)

    assert len(before) == len(after) == 3
    assert before.isdisjoint(after)


def test_a_server_that_accepts_and_never_answers() -> None:
    """Only the first call waits for a connection."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        store = open_ledger(f"postgresql://tests@127.0.0.1:{port}/ledger", timeout=1)
        with pytest.raises(StoreUnavailableError, match="does not answer"):
            store.check()
        start = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            store.check()
        waited = time.monotonic() - start
        store.close()

    assert waited < 1.5  # To connect takes 2 s.


def test_a_row_lock_has_a_timeout(
    postgresql_url: str, postgresql_store: SQLStore
) -> None:
    """Waiting for a locked row ends in an error, and changes nothing."""
    refund = accepted(postgresql_store)
    with psycopg.connect(postgresql_url) as other:
        other.execute("SELECT 1 FROM refunds FOR UPDATE")
        start = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="55P03"):
            moved(postgresql_store, refund, Status.CANCELLED)

        assert time.monotonic() - start < 5
    assert refund == postgresql_store.get(refund.id)


def test_a_pause_waits_for_a_reservation(postgresql_store: SQLStore) -> None:
    """A wallet is not paused while a nonce of it is being reserved."""
    wallet = opened(postgresql_store)

    def reserve(connection: Connection) -> None:
        lock_chain(connection, wallet.chain_id)
        with pytest.raises(StoreUnavailableError, match="55P03"):
            postgresql_store.pause(wallet, Pause.CHAIN_AHEAD, now())

    postgresql_store._database.transaction(reserve)

    assert wallet == opened(postgresql_store)
    postgresql_store.pause(wallet, Pause.CHAIN_AHEAD, now())


def test_the_pool_has_a_timeout(postgresql_url: str) -> None:
    """If every connection is in use, the next thread gets an error."""
    store = open_ledger(postgresql_url, pool_size=1, timeout=0.2)
    with pytest.raises(StoreUnavailableError, match="every connection"):
        store._database.run(lambda _: store.get("rf_0"))
    store.close()


def test_a_statement_has_a_timeout(postgresql_store: SQLStore) -> None:
    with pytest.raises(StoreUnavailableError, match="57014"):
        postgresql_store._database.run(
            lambda c: c.exec_driver_sql("SELECT pg_sleep(9)")
        )


def test_a_standby_is_not_ready(postgresql_url: str) -> None:
    """A read-only server is not usable."""
    store = _with(postgresql_url, "-c default_transaction_read_only=on")

    with pytest.raises(StoreUnavailableError, match="read-only"):
        store.check()
    with pytest.raises(StoreUnavailableError, match="25006"):
        accept(store, queued())
    store.close()


def test_commits_must_be_durable(postgresql_url: str) -> None:
    """A server that acknowledges commits before they are durable is refused."""
    store = _with(postgresql_url, "-c synchronous_commit=off")

    with pytest.raises(StoreError, match="synchronous_commit"):
        store.check()
    store.close()


def test_the_isolation_level_is_set_per_session(postgresql: PostgreSQL) -> None:
    """Reservations succeed in a database that is serializable by default."""
    name = postgresql.create()
    with psycopg.connect(postgresql.url(), autocommit=True) as connection:
        setting = "default_transaction_isolation = serializable"
        connection.execute(f"ALTER DATABASE {name} SET {setting}".encode())
    store = open_ledger(postgresql.url(name))
    store.migrate()
    level = store._database.transaction(
        lambda c: c.exec_driver_sql("SHOW transaction_isolation").scalar_one()
    )

    assert level == "read committed"
    assert reserved(store, accepted(store)).nonce == 0
    store.close()


def test_the_time_zone_of_the_server_has_no_effect(postgresql_url: str) -> None:
    store = _with(postgresql_url, "-c timezone=Asia/Kathmandu")
    refund = accepted(store, created_at=now())
    stored = store.get(refund.id)

    assert stored == refund
    assert stored.created_at.tzinfo is refund.created_at.tzinfo
    store.close()


def test_a_missing_driver_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the command that installs psycopg, which is optional."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    store = open_ledger("postgresql://somewhere/ledger")

    with pytest.raises(ConfigurationError, match=r"pip install 'psycopg\[binary\]'"):
        store.check()


LONG = 20.0
SOON = 5.0

LISTENING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND query LIKE 'LISTEN %'"
)


@pytest.fixture
def watching(postgresql_url: str) -> Iterator[SQLStore]:
    """Return a store whose listening connection is open."""
    with closing(open_ledger(postgresql_url, timeout=1)) as store:
        with store.watch(Topic.MOVED) as watch:
            assert _is_quiet(watch)
        yield store


def _is_quiet(watch: Watch) -> bool:
    """Whether *watch* has no news, after it may have had some."""
    return any(not watch.wait(0.3) for _ in range(60))


def _count(url: str, query: str = LISTENING) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def _quick() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < SOON


def _sees(watch: Watch, url: str) -> bool:
    """Whether *watch* is woken by the acceptance of a refund."""
    assert _is_quiet(watch)
    with closing(open_ledger(url)) as other:
        accepted(other)
    with _quick():
        return watch.wait(LONG)


def test_one_thread_and_one_connection_listen(
    postgresql_url: str, watching: SQLStore
) -> None:
    """All watches of a process share them, and they are not of the pool."""
    with watching.watch(Topic.MOVED), watching.watch(Topic.ACCEPTED):
        assert _count(postgresql_url) == 1
    names = [each.name for each in threading.enumerate()]
    watching.close()

    assert names.count("hotwallet-listen") == 1
    assert eventually(lambda: _count(postgresql_url) == 0)


def test_a_store_without_watches_does_not_listen(postgresql_url: str) -> None:
    with closing(open_ledger(postgresql_url)) as store:
        store.check()

        assert _count(postgresql_url) == 0


def test_a_change_of_another_topic_ends_no_wait(
    postgresql_url: str, watching: SQLStore
) -> None:
    """A worker is not woken by its own steps, nor a caller by new refunds."""
    with (
        closing(open_ledger(postgresql_url)) as other,
        watching.watch(Topic.ACCEPTED) as new,
        watching.watch(Topic.MOVED) as steps,
    ):
        refund = accepted(other)
        assert new.wait(LONG)
        assert not steps.wait(0.3)

        (refund_again,) = claimed(other, later(20), later(40), 1)
        assert not steps.wait(0.3)
        moved(other, refund_again, Status.REFUSED)
        assert steps.wait(LONG)
        assert not new.wait(0.3)
    assert refund_again.id == refund.id


def test_a_rolled_back_change_is_no_change(watching: SQLStore) -> None:
    """Notifications are sent at the commit."""
    refund = accepted(watching)
    with watching.watch(Topic.ACCEPTED) as watch:
        assert _is_quiet(watch)
        with pytest.raises(ZeroDivisionError):
            watching._database.transaction(
                lambda c: (
                    c.exec_driver_sql("UPDATE refunds SET cancel_requested_at = now()")
                    and 1 / 0
                )
            )

        assert not watch.wait(0.3)
    assert watching.get(refund.id) == refund


def test_a_lost_connection_is_a_change(postgresql_url: str, watching: SQLStore) -> None:
    """A waiting thread is woken, and the next connection listens."""
    end = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN %'"
    )
    with watching.watch(Topic.ACCEPTED) as watch, ThreadPoolExecutor(1) as threads:
        assert _is_quiet(watch)
        waiting = threads.submit(watch.wait, LONG)
        with _quick():
            assert _count(postgresql_url, end) == 1
            assert waiting.result()

        assert eventually(lambda: _count(postgresql_url) == 1)
        with _quick():
            assert watch.wait(LONG)  # For what happened meanwhile.
        assert _sees(watch, postgresql_url)


def test_a_server_that_is_down(
    postgresql: PostgreSQL, postgresql_url: str, watching: SQLStore
) -> None:
    """R29: waits are short, so that callers get the error; then it works again."""
    with watching.watch(Topic.ACCEPTED) as watch:
        postgresql.crash()
        assert watch.wait(LONG)
        start = time.monotonic()
        assert watch.wait(LONG)
        passed = time.monotonic() - start
        assert watch.wait(0)
        postgresql.__enter__()

        assert UNHEARD_SECONDS * 0.9 < passed < SOON
        assert _sees(watch, postgresql_url)


def test_a_frozen_server_is_noticed(
    postgresql: PostgreSQL,
    postgresql_url: str,
    watching: SQLStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R29: a connection that is silent is tested, with the limit of a statement."""
    monkeypatch.setattr(postgresql_engines, "_PING_SECONDS", 0.1)
    with watching.watch(Topic.ACCEPTED) as watch:
        assert _sees(watch, postgresql_url)  # From now on it is tested often.
        with postgresql.frozen():
            start = time.monotonic()
            assert any(watch.wait(0.5) for _ in range(40))
            noticed = time.monotonic() - start
            with _quick():
                assert watch.wait(LONG)

        assert noticed < SOON
        assert _sees(watch, postgresql_url)


def test_closing_does_not_wait_for_a_frozen_server(
    postgresql: PostgreSQL, watching: SQLStore
) -> None:
    """The thread may be waiting for it, and ends on its own."""
    with postgresql.frozen(), _quick():
        watching.close()
