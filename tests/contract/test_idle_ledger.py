"""What the threads that seal and sequence cost while nothing is written."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from threading import Event, Thread
from typing import Self

import pytest

from backends.sql import SQLStore
from signer.audit import sealer
from signer.audit.checkpointer import Checkpointer
from signer.errors import StoreUnavailableError
from signer.ports.clock import utc_now
from signer.webhooks import dispatcher
from tests.fixtures.ledger import accepted
from tests.support.audit import record
from tests.support.ledgers import collected_statements, open_ledger
from tests.support.waiting import eventually
from tests.support.webhooks import Receiver
from tests.support.webhooks import dispatcher as open_dispatcher


ROUNDS = 16
LOOKS = 4
"""How many statements a second both threads may take on PostgreSQL."""


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without news, a round is as short as with them."""
    for module in (sealer, dispatcher):
        monkeypatch.setattr(module, "IDLE_SECONDS", sealer.LOOK_SECONDS)


class _Threads:
    """Seals records and sequences events until the context ends; counts rounds."""

    def __init__(self, store: SQLStore) -> None:
        self._stopped = Event()
        self._rounds: Counter[str] = Counter()
        sealing = sealer.Sealer(Checkpointer(store))
        sending = open_dispatcher(store, Receiver(), {})
        self._threads = [
            Thread(target=sealing.run, args=(self._wait,)),
            Thread(target=sending.run, args=(self._is_stopping,)),
        ]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for each in self._threads:
            each.join()

    def pass_rounds(self, count: int) -> None:
        """Return once each thread has begun and ended *count* rounds."""
        goals = {each: self._rounds[each] + count + 1 for each in ("seal", "send")}
        assert eventually(lambda: all(self._rounds[k] >= n for k, n in goals.items()))

    def _wait(self, seconds: float) -> bool:
        self._rounds["seal"] += 1
        return self._stopped.wait(seconds)

    def _is_stopping(self) -> bool:
        self._rounds["send"] += 1
        return self._stopped.is_set()


def test_an_idle_ledger_is_rarely_read(store: SQLStore) -> None:
    """
    SQLite is read again after a write only; PostgreSQL a few times.

    Each of the two threads read it four times a second before.
    """
    looks = 0 if store._database.dialect == "sqlite" else LOOKS

    def is_rarely_read() -> bool:
        began = time.monotonic()
        with collected_statements(store) as statements:
            threads.pass_rounds(ROUNDS)
        read = sum(each.startswith("SELECT") for each in statements)
        return read <= looks * (time.monotonic() - began)

    accepted(store)
    with _Threads(store) as threads:
        assert eventually(lambda: store.oldest_unsealed() is None)
        assert eventually(is_rarely_read)  # On a busy machine the last look is late.


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
        threads = stack.enter_context(_Threads(store))
        for number in range(1, 4):
            other.append([record(number)])
            sealed = _seconds_until(lambda: other.oldest_unsealed() is None)
            accepted(other)
            sequenced = _seconds_until(partial(_has_sequenced, other, number))
            took.append(max(sealed, sequenced))
            threads.pass_rounds(2)

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
    with _Threads(_Failing(sqlite_store, {**errors})):  # type: ignore[arg-type]
        assert eventually(lambda: sqlite_store.oldest_unsealed() is None)
        assert eventually(lambda: _has_sequenced(sqlite_store, 1))
