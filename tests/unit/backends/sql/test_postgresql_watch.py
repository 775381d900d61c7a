"""Watches of PostgreSQL: the connection that listens, and what happens without it."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import psycopg
import pytest

from backends.sql import SQLStore, postgresql_watch
from backends.sql.postgresql_watch import UNHEARD_SECONDS
from signer.model.refund import Status
from signer.ports.refund_store import Topic, Watch
from tests.fixtures.ledger import accepted, claimed, later, moved
from tests.fixtures.postgresql import PostgreSQL
from tests.support.ledgers import open_ledger
from tests.support.waiting import eventually


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
    monkeypatch.setattr(postgresql_watch, "_PING_SECONDS", 0.1)
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
