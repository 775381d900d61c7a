"""PostgreSQL as a shared ledger: patient, and no longer than told."""

import sys
import time
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Connection

from backends.sql import SQLStore
from backends.sql.postgresql import RESTED_SECONDS
from signer.errors import ConfigurationError, StoreError, StoreUnavailableError
from signer.refunds.refund import Status
from tests.fixtures.ledger import accepted, moved, now, queued, reserved, signed
from tests.fixtures.postgresql import PostgreSQL


@pytest.fixture
def postgresql_store(postgresql_url: str) -> Iterator[SQLStore]:
    """Return a store on PostgreSQL."""
    store = SQLStore(postgresql_url, timeout=1)
    store.check()
    yield store
    store.close()


def _with(url: str, options: str) -> SQLStore:
    return SQLStore(f"{url}&options={options}")


def _terminate(url: str) -> None:
    """End every connection to the database, as an operator or a failover does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_a_rested_connection_is_tried(
    postgresql_url: str, postgresql_store: SQLStore
) -> None:
    """Connections that were lost during a rest are replaced before they are used."""
    _terminate(postgresql_url)
    time.sleep(RESTED_SECONDS)
    refund = accepted(postgresql_store)

    assert refund == postgresql_store.get(refund.id)


def test_a_lost_connection_is_replaced(
    postgresql_url: str, postgresql_store: SQLStore
) -> None:
    """A connection that is lost in use is an error once, and is not used again."""

    def lose(connection: Connection) -> None:
        _terminate(postgresql_url)
        connection.exec_driver_sql("SELECT 1")

    with pytest.raises(StoreUnavailableError):
        postgresql_store._database.run(lose)
    refund = accepted(postgresql_store)

    assert refund == postgresql_store.get(refund.id)


def test_a_crash_of_the_server(
    postgresql: PostgreSQL, postgresql_store: SQLStore
) -> None:
    """While the server is away the store says so; when it is back it goes on."""
    before = accepted(postgresql_store)
    postgresql.crash()
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            postgresql_store.check()
    postgresql.__enter__()

    assert before == postgresql_store.get(before.id)


def test_waits_for_a_row_no_longer_than_told(
    postgresql_url: str, postgresql_store: SQLStore
) -> None:
    """A row that another transaction holds is an error in time; nothing changes."""
    refund = accepted(postgresql_store)
    with psycopg.connect(postgresql_url) as other:
        other.execute("SELECT 1 FROM refunds FOR UPDATE")
        start = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="55P03"):
            moved(postgresql_store, refund, Status.CANCELLED)

        assert time.monotonic() - start < 5
    assert refund == postgresql_store.get(refund.id)


def test_waits_for_a_connection_no_longer_than_told(postgresql_url: str) -> None:
    """When every connection is in use, the next thread is told in time."""
    store = SQLStore(postgresql_url, pool_size=1, timeout=0.2)
    with pytest.raises(StoreUnavailableError, match="every connection"):
        store._database.run(lambda _: store.get("rf_0"))
    store.close()


def test_statements_end(postgresql_store: SQLStore) -> None:
    """A statement that takes too long is ended by the server."""
    with pytest.raises(StoreUnavailableError, match="57014"):
        postgresql_store._database.run(
            lambda c: c.exec_driver_sql("SELECT pg_sleep(9)")
        )


def test_a_standby_is_not_ready(postgresql_url: str) -> None:
    """A server that only reads answers, and yet is not usable."""
    store = _with(postgresql_url, "-c default_transaction_read_only=on")

    with pytest.raises(StoreUnavailableError, match="only reads"):
        store.check()
    with pytest.raises(StoreUnavailableError, match="25006"):
        store.accept(queued())
    store.close()


def test_commits_must_be_durable(postgresql_url: str) -> None:
    """A server that acknowledges what it has not written is refused."""
    store = _with(postgresql_url, "-c synchronous_commit=off")

    with pytest.raises(StoreError, match="synchronous_commit"):
        store.check()
    store.close()


def test_other_isolation_levels(postgresql: PostgreSQL) -> None:
    """A database that is serializable by default does not make reservations fail."""
    name = postgresql.create()
    with psycopg.connect(postgresql.url(), autocommit=True) as connection:
        setting = "default_transaction_isolation = serializable"
        connection.execute(f"ALTER DATABASE {name} SET {setting}".encode())
    store = SQLStore(postgresql.url(name))
    store.migrate()
    level = store._database.transaction(
        lambda c: c.exec_driver_sql("SHOW transaction_isolation").scalar_one()
    )

    assert level == "read committed"
    assert reserved(store, accepted(store)).nonce == 0
    store.close()


def test_times_in_other_zones(postgresql_url: str) -> None:
    """The zone of the server's session does not change what is read."""
    store = _with(postgresql_url, "-c timezone=Asia/Kathmandu")
    refund = accepted(store, created_at=now())
    stored = store.get(refund.id)

    assert stored == refund
    assert stored.created_at.tzinfo is refund.created_at.tzinfo
    store.close()


def test_the_service_needs_few_rights(postgresql: PostgreSQL) -> None:
    """A role that can neither delete nor change history does all that is needed."""
    url = postgresql.url(postgresql.create())
    owner = SQLStore(url)
    owner.migrate()
    owner.close()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE service LOGIN")
        connection.execute(
            "GRANT SELECT, INSERT ON refunds, transactions, refund_moves TO service"
        )
        connection.execute("GRANT UPDATE ON refunds TO service")
        connection.execute("GRANT SELECT ON alembic_version TO service")
    store = SQLStore(url.replace("tests@", "service@"))
    store.check()
    refund = moved(
        store, signed(store, reserved(store, accepted(store))), Status.BROADCAST
    )

    assert refund == store.get(refund.id)
    assert len(store.history(refund.id)) == 4
    with pytest.raises(StoreError, match="42501"):
        store._database.run(lambda c: c.exec_driver_sql("DELETE FROM refund_moves"))
    store.close()


def test_the_driver_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PostgreSQL's driver, which is optional, the way to it is told."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    store = SQLStore("postgresql://somewhere/ledger")

    with pytest.raises(ConfigurationError, match=r"hotwallet\[postgresql\]"):
        store.check()
