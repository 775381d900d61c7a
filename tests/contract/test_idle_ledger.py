"""What the threads that seal and sequence cost while nothing is written."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from threading import Event, Thread

from backends.sql import SQLStore
from signer.audit.sealer import Sealer
from signer.errors import StoreUnavailableError
from signer.ports.clock import utc_now
from tests.fixtures.ledger import accepted
from tests.support.audit import record
from tests.support.ledgers import open_ledger
from tests.support.statements import collected_statements
from tests.support.waiting import eventually
from tests.support.webhooks import Receiver, dispatcher


SECONDS = 4.0


@contextmanager
def _working(store: SQLStore) -> Iterator[None]:
    """Seal records and sequence events until the context ends."""
    stopped = Event()
    threads = [
        Thread(target=Sealer(store).run, args=(stopped.wait,)),
        Thread(target=dispatcher(store, Receiver(), {}).run, args=(stopped.is_set,)),
    ]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        stopped.set()
        for each in threads:
            each.join()


def test_an_idle_ledger_is_hardly_read(store: SQLStore) -> None:
    """
    SQLite is read again after a write only; PostgreSQL a few times.

    Each of the two threads read it four times a second before.
    """
    most = 0 if store._database.dialect == "sqlite" else 2 * 2 * SECONDS

    def is_hardly_read() -> bool:
        with collected_statements(store) as statements:
            time.sleep(SECONDS)
        return sum(each.startswith("SELECT") for each in statements) <= most

    accepted(store)
    with _working(store):
        assert eventually(lambda: store.oldest_unsealed() is None)
        time.sleep(1)
        assert eventually(is_hardly_read)  # On a busy machine the last look is late.


def _has_sequenced(store: SQLStore, count: int) -> bool:
    return len(store.events("gateway", 0, 9, utc_now()).events) == count


def _seconds_until(condition: Callable[[], object]) -> float:
    began = time.monotonic()
    assert eventually(condition, pause=0.01)
    return time.monotonic() - began


def test_what_another_process_writes_is_noticed_within_a_second(
    store: SQLStore, database_url: str
) -> None:
    """A record is sealed, and an event has its place; the best of three on any load."""
    took = []
    with ExitStack() as stack:
        other = stack.enter_context(closing(open_ledger(database_url)))
        stack.enter_context(_working(store))
        for number in range(1, 4):
            other.append([record(number)])
            sealed = _seconds_until(lambda: other.oldest_unsealed() is None)
            accepted(other)
            sequenced = _seconds_until(partial(_has_sequenced, other, number))
            took.append(max(sealed, sequenced))
            time.sleep(0.5)

    assert min(took) < 1


class _Failing:
    """A store whose first call of each method in *errors* raises its error."""

    def __init__(self, store: SQLStore, errors: dict[str, Exception]) -> None:
        self._store, self._errors = store, errors

    def __getattr__(self, name: str) -> object:
        if name in self._errors:
            raise self._errors.pop(name)
        return getattr(self._store, name)


def test_a_failed_round_is_repeated_although_nothing_is_written(
    sqlite_store: SQLStore,
) -> None:
    """Not only after half a minute."""
    accepted(sqlite_store)
    sqlite_store.append([record(1)])
    errors = dict.fromkeys(["seal", "sequence_events"], StoreUnavailableError("no"))
    with _working(_Failing(sqlite_store, {**errors})):  # type: ignore[arg-type]
        assert eventually(lambda: sqlite_store.oldest_unsealed() is None)
        assert eventually(lambda: _has_sequenced(sqlite_store, 1))
