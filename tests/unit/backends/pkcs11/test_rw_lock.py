"""The gate: many inside at once, or one alone, and nobody waits for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from backends.pkcs11.rw_lock import RWLock
from signer.errors import BackendUnavailableError


def test_admits_many_at_once() -> None:
    """Threads that use the device do not wait for each other."""
    gate, together = RWLock(), threading.Barrier(8)

    def visit(_: int) -> int:
        with gate:
            return together.wait(5)

    with ThreadPoolExecutor(8) as pool:
        places = sorted(pool.map(visit, range(8)))

    assert list(range(8)) == places


def test_a_limit_of_one_is_a_lock() -> None:
    """A module that cannot lock sees one thread at a time, and all get their turn."""
    gate, inside, most = RWLock(), [], []
    gate.limit = 1

    def visit(number: int) -> None:
        with gate:
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, range(200)))

    assert most == [1] * 200


def test_who_is_alone_waits_for_those_inside_and_keeps_others_out() -> None:
    """The device is never taken down under a call, and no call begins meanwhile."""
    gate, events = RWLock(), []
    alone, done = threading.Event(), threading.Event()

    def takes_down() -> None:
        with gate.alone():
            events.append("alone")
            alone.set()
            done.wait(5)
            events.append("done")

    def comes_late() -> None:
        alone.wait(5)
        done.set()
        with gate:
            events.append("late")

    with ThreadPoolExecutor(2) as pool:
        with gate:
            waiting = pool.submit(takes_down)
            pool.submit(comes_late)
            _until_somebody_waits(gate)
            events.append("left")
        waiting.result()

    assert events == ["left", "alone", "done", "late"]


def test_newcomers_queue_up_behind_the_one_who_waits_to_be_alone() -> None:
    """A stream of signatures cannot starve a recovery."""
    gate, events = RWLock(), []

    def takes_down() -> None:
        with gate.alone():
            events.append("alone")

    def comes_late() -> None:
        with gate:
            events.append("late")

    with ThreadPoolExecutor(2) as pool, gate:
        pool.submit(takes_down)
        _until_somebody_waits(gate)
        pool.submit(comes_late)
        events.append("inside")

    assert events == ["inside", "alone", "late"]


def test_nobody_overtakes_those_who_waited() -> None:
    """Who fails and asks again, in a tight loop, comes after the crowd."""
    gate, events = RWLock(), []

    def waits() -> None:
        with gate:
            events.append("waited")

    with ThreadPoolExecutor(1) as pool:
        with gate.alone():
            waiting = pool.submit(waits)
            _until_somebody_waits(gate)
        with gate.alone():
            events.append("came back")
        waiting.result()

    assert events == ["waited", "came back"]


def test_who_gives_up_leaves_the_queue() -> None:
    """Those behind a thread that lost its patience are let in at once."""
    gate = RWLock(patience=0.1)
    with ThreadPoolExecutor(2) as pool, gate:
        recovery = pool.submit(gate.close)
        _until_somebody_waits(gate)
        gate._patience = 5.0
        behind = pool.submit(gate.__enter__)

        with pytest.raises(BackendUnavailableError):
            recovery.result()
        assert behind.result(5) is gate


def test_a_call_that_hangs_costs_patience_and_not_the_gate() -> None:
    """Who cannot be alone in time gives up, and the gate opens again."""
    gate = RWLock(patience=0.05)

    with gate, pytest.raises(BackendUnavailableError), gate.alone():
        pytest.fail("somebody was inside")

    with gate:
        pass
    with gate.alone():
        pass


def test_a_closed_gate_stays_closed() -> None:
    """After the last one has left at exit, nobody comes in again."""
    gate = RWLock(patience=0.05)

    gate.close()

    with pytest.raises(BackendUnavailableError), gate:
        pytest.fail("the gate was closed")


def _until_somebody_waits(gate: RWLock) -> None:
    while not gate._queue:
        threading.Event().wait(0.001)
