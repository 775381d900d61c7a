"""The lock has many shared holders or one exclusive holder; waits have a timeout."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from backends.pkcs11.cryptoki import RWLock
from signer.errors import BackendUnavailableError
from tests.support.waiting import eventually


def test_many_threads_share_the_lock() -> None:
    lock, together = RWLock(), threading.Barrier(8)

    def visit(_: int) -> int:
        with lock:
            return together.wait(5)

    with ThreadPoolExecutor(8) as pool:
        places = sorted(pool.map(visit, range(8)))

    assert list(range(8)) == places


def test_a_limit_of_one_is_a_lock() -> None:
    """Each thread gets the lock, one at a time."""
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
    """The module is not finalized during a call, and no call starts meanwhile."""
    lock, events = RWLock(), []
    alone, done = threading.Event(), threading.Event()

    def finalize() -> None:
        with lock.exclusive():
            events.append("alone")
            alone.set()
            done.wait(5)
            events.append("done")

    def use_later() -> None:
        alone.wait(5)
        done.set()
        with lock:
            events.append("late")

    with ThreadPoolExecutor(2) as pool:
        with lock:
            waiting = pool.submit(finalize)
            pool.submit(use_later)
            _until_a_thread_waits(lock)
            events.append("left")
        waiting.result()

    assert events == ["left", "alone", "done", "late"]


def test_shared_waiters_queue_after_an_exclusive_one() -> None:
    """A stream of signatures cannot starve a reconnection."""
    lock, events = RWLock(), []

    def finalize() -> None:
        with lock.exclusive():
            events.append("alone")

    def use_later() -> None:
        with lock:
            events.append("late")

    with ThreadPoolExecutor(2) as pool, lock:
        pool.submit(finalize)
        _until_a_thread_waits(lock)
        pool.submit(use_later)
        events.append("inside")

    assert events == ["inside", "alone", "late"]


def test_waiting_threads_are_served_in_order() -> None:
    """A thread that retries in a tight loop queues after the waiting threads."""
    lock, events = RWLock(), []

    def wait() -> None:
        with lock:
            events.append("waited")

    with ThreadPoolExecutor(1) as pool:
        with lock.exclusive():
            waiting = pool.submit(wait)
            _until_a_thread_waits(lock)
        with lock.exclusive():
            events.append("came back")
        waiting.result()

    assert events == ["waited", "came back"]


def test_a_waiter_that_times_out_leaves_the_queue() -> None:
    """The threads queued after it are admitted at once."""
    lock = RWLock(timeout=0.1)
    with ThreadPoolExecutor(2) as pool, lock:
        recovery = pool.submit(lock.close)
        _until_a_thread_waits(lock)
        lock._timeout = 5.0
        next_one = pool.submit(lock.__enter__)

        with pytest.raises(BackendUnavailableError):
            recovery.result()
        assert next_one.result(5) is lock


def test_exclusive_times_out_and_the_lock_stays_usable() -> None:
    """If a call hangs, the exclusive waiter times out and others continue."""
    lock = RWLock(timeout=0.05)

    with lock, pytest.raises(BackendUnavailableError), lock.exclusive():
        pytest.fail("the lock has a shared holder")

    with lock:
        pass
    with lock.exclusive():
        pass


def test_a_closed_lock_admits_no_thread() -> None:
    lock = RWLock(timeout=0.05)

    lock.close()

    with pytest.raises(BackendUnavailableError), lock:
        pytest.fail("the lock was closed")


def _until_a_thread_waits(lock: RWLock) -> None:
    assert eventually(lambda: lock._queue)
