"""Contract of ``RefundStore``: no change by another process is missed."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import pytest

from backends.sql import SQLStore
from signer.model.audit_record import Record
from signer.model.refund import Status
from signer.ports.refund_store import Topic, Watch
from tests.fixtures.ledger import accepted, later, moved, now, refund_page, save
from tests.fixtures.races import start_process
from tests.support.ledgers import open_ledger


LONG = 20.0
"""A wait that only a change ends; in seconds."""

SOON = 5.0
"""How long a change may take to end a wait, on a slow machine."""

OF_REFUNDS = (Topic.ACCEPTED, Topic.MOVED)


@pytest.fixture
def other(database_url: str) -> Iterator[SQLStore]:
    """Return another store on the same database: other connections."""
    with closing(open_ledger(database_url)) as store:
        yield store


def quiet(watch: Watch) -> Watch:
    """Return *watch* after the listening connection, if any, has been opened."""
    assert any(not watch.wait(0.3) for _ in range(30))
    return watch


@contextmanager
def _seconds() -> Iterator[Callable[[], float]]:
    start = time.monotonic()
    yield lambda: time.monotonic() - start


@pytest.mark.parametrize("topic", [*OF_REFUNDS, Topic.RECORDED])
def test_nothing_changes(store: SQLStore, topic: Topic) -> None:
    """Without a change, a wait takes as long as asked."""
    with store.watch(topic) as watch:
        quiet(watch)
        with _seconds() as passed:
            assert not watch.wait(0.5)

    assert 0.4 < passed() < SOON


def _accept(store: SQLStore) -> None:
    accepted(store)


def _request(store: SQLStore) -> None:
    refund = refund_page(store, "gateway").refunds[0]
    assert store.request_cancellation(refund, now(), Record.of({"event": "x"}, now()))


def _move(store: SQLStore) -> None:
    moved(store, refund_page(store, "gateway").refunds[0], Status.REFUSED)


def _delay(store: SQLStore) -> None:
    refund = refund_page(store, "gateway").refunds[0]
    save(store, refund, refund.with_due_at(later(1), blocked_by="reason", attempts=1))


def _append(store: SQLStore) -> None:
    store.append([Record.of({"event": "x"}, now())])


@pytest.mark.parametrize(
    ("topic", "change"),
    [
        (Topic.ACCEPTED, _accept),
        (Topic.ACCEPTED, _request),
        (Topic.MOVED, _move),
        (Topic.MOVED, _delay),
        (Topic.RECORDED, _append),
    ],
)
def test_a_change_ends_the_wait(
    store: SQLStore, other: SQLStore, topic: Topic, change: Callable[[SQLStore], None]
) -> None:
    """A waiting thread is woken, and a change between two waits ends the second."""
    accepted(other)
    with store.watch(topic) as watch, ThreadPoolExecutor(1) as threads:
        quiet(watch)
        waiting = threads.submit(watch.wait, LONG)
        with _seconds() as passed:
            change(other)
            assert waiting.result()
        assert not watch.wait(0.3)

        _accept(other)
        change(other)
        with _seconds() as again:
            assert watch.wait(LONG)

    assert passed() < SOON
    assert again() < SOON


def test_a_watch_begins_at_once(store: SQLStore, other: SQLStore) -> None:
    """A change right after the first watch of a process began ends its wait."""
    with store.watch(Topic.ACCEPTED) as watch:
        accepted(other)
        with _seconds() as passed:
            assert watch.wait(LONG)

    assert passed() < SOON


def test_every_thread_is_woken(store: SQLStore, other: SQLStore) -> None:
    """Threads of one process that watch at the same time each see the change."""
    ready = threading.Barrier(9)

    def wait(topic: Topic) -> bool:
        with store.watch(topic) as watch:
            quiet(watch)
            ready.wait(SOON)
            return watch.wait(LONG)

    with ThreadPoolExecutor(8) as threads, _seconds() as passed:
        waiting = [threads.submit(wait, topic) for topic in OF_REFUNDS * 4]
        ready.wait(SOON)
        _accept(other)
        _move(other)
        assert all(each.result() for each in waiting)

    assert passed() < LONG


ROUNDS = 100


def _accept_on_demand(url: str, line: Connection) -> None:
    """Accept a refund for each message."""
    store = open_ledger(url)
    store.check()
    line.send("ready")
    for _ in range(ROUNDS):
        line.recv()
        accepted(store)


def test_no_wake_up_is_lost(database_url: str, store: SQLStore) -> None:
    """Each of many changes by another process ends a wait, whenever it comes."""
    process, line = start_process(_accept_on_demand, database_url)
    line.recv()
    with store.watch(Topic.ACCEPTED) as watch, _seconds() as passed:
        for count in range(1, ROUNDS + 1):
            line.send("next")
            while len(refund_page(store, "gateway", limit=ROUNDS).refunds) < count:
                assert watch.wait(LONG)
    process.join(10)

    assert passed() < LONG


def _wait_once(store: SQLStore, line: Connection) -> None:
    with store.watch(Topic.ACCEPTED) as watch:
        quiet(watch)
        line.send("ready")
        line.send(watch.wait(LONG))
    store.close()


def _forked(store: SQLStore) -> tuple[BaseProcess, Connection]:
    forks = multiprocessing.get_context("fork")
    ours, theirs = forks.Pipe()
    process = forks.Process(target=_wait_once, args=(store, theirs), daemon=True)
    process.start()
    return process, ours


def test_a_fork_has_watches_of_its_own(store: SQLStore, other: SQLStore) -> None:
    """A process that watches may fork: parent and child both see a change."""
    with store.watch(Topic.ACCEPTED) as watch:
        quiet(watch)
        process, line = _forked(store)
        assert line.recv() == "ready"
        quiet(watch)
        with _seconds() as passed:
            accepted(other)
            assert watch.wait(LONG)
            assert line.recv()
    process.join(10)

    assert passed() < SOON
    assert process.exitcode == 0


def test_closing_ends_threads_and_connections(store: SQLStore, other: SQLStore) -> None:
    """A wait on a closed store reads again and again, and a new watch works."""
    before = set(threading.enumerate())
    with store.watch(Topic.ACCEPTED) as watch:
        quiet(watch)
        store.close()
        with _seconds() as passed:
            assert watch.wait(LONG)
            assert watch.wait(LONG)

    assert 0.1 < passed() < SOON
    assert set(threading.enumerate()) <= before
    with store.watch(Topic.ACCEPTED) as watch:
        quiet(watch)
        accepted(other)
        assert watch.wait(LONG)
