"""The lock: many inside at once, or one alone, and nobody waits for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from backends.pkcs11.rw_lock import RWLock
from signer.errors import BackendUnavailableError


def test_admits_many_at_once() -> None:
    """Threads that use the device do not wait for each other."""
    lock, together = RWLock(), threading.Barrier(8)

    def visit(_: int) -> int:
        with lock:
            return together.wait(5)

    with ThreadPoolExecutor(8) as pool:
        places = sorted(pool.map(visit, range(8)))

    assert list(range(8)) == places


def test_a_limit_of_one_is_a_lock() -> None:
    """A module that cannot lock sees one thread at a time, and all get their turn."""
    lock, inside, most = RWLock(), [], []
    lock.limit = 1

    def visit(number: int) -> None:
        with lock:
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, range(200)))

    assert most == [1] * 200


def test_exclusive_waits_for_shared_holders_and_blocks_new_ones() -> None:
    """The module is never finalized during a call, and no call starts meanwhile."""
    lock, events = RWLock(), []
    alone, done = threading.Event(), threading.Event()

    def takes_down() -> None:
        with lock.exclusive():
            events.append("alone")
            alone.set()
            done.wait(5)
            events.append("done")

    def comes_late() -> None:
        alone.wait(5)
        done.set()
        with lock:
            events.append("late")

    with ThreadPoolExecutor(2) as pool:
        with lock:
            waiting = pool.submit(takes_down)
            pool.submit(comes_late)
            _until_somebody_waits(lock)
            events.append("left")
        waiting.result()

    assert events == ["left", "alone", "done", "late"]


def test_shared_waiters_queue_after_an_exclusive_one() -> None:
    """A stream of signatures cannot starve a reconnection."""
    lock, events = RWLock(), []

    def takes_down() -> None:
        with lock.exclusive():
            events.append("alone")

    def comes_late() -> None:
        with lock:
            events.append("late")

    with ThreadPoolExecutor(2) as pool, lock:
        pool.submit(takes_down)
        _until_somebody_waits(lock)
        pool.submit(comes_late)
        events.append("inside")

    assert events == ["inside", "alone", "late"]


def test_first_come_first_served() -> None:
    """A thread that retries in a tight loop queues after the waiting threads."""
    lock, events = RWLock(), []

    def waits() -> None:
        with lock:
            events.append("waited")

    with ThreadPoolExecutor(1) as pool:
        with lock.exclusive():
            waiting = pool.submit(waits)
            _until_somebody_waits(lock)
        with lock.exclusive():
            events.append("came back")
        waiting.result()

    assert events == ["waited", "came back"]


def test_a_waiter_that_times_out_leaves_the_queue() -> None:
    """The threads queued after it are admitted at once."""
    lock = RWLock(timeout=0.1)
    with ThreadPoolExecutor(2) as pool, lock:
        recovery = pool.submit(lock.close)
        _until_somebody_waits(lock)
        lock._timeout = 5.0
        behind = pool.submit(lock.__enter__)

        with pytest.raises(BackendUnavailableError):
            recovery.result()
        assert behind.result(5) is lock


def test_exclusive_times_out_and_the_lock_stays_usable() -> None:
    """If a call hangs, the exclusive waiter times out and others continue."""
    lock = RWLock(timeout=0.05)

    with lock, pytest.raises(BackendUnavailableError), lock.exclusive():
        pytest.fail("somebody was inside")

    with lock:
        pass
    with lock.exclusive():
        pass


def test_a_closed_lock_admits_no_thread() -> None:
    """After ``close`` at exit, no thread gets the lock."""
    lock = RWLock(timeout=0.05)

    lock.close()

    with pytest.raises(BackendUnavailableError), lock:
        pytest.fail("the lock was closed")


def _until_somebody_waits(lock: RWLock) -> None:
    while not lock._queue:
        threading.Event().wait(0.001)
