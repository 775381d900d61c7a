"""Of the workers that share a SQLite file, the one that started first leads."""

from datetime import timedelta

import pytest

from backends.sql import SQLStore
from signer.model.refund import Status
from signer.model.worker_row import STOPPED_AFTER, WorkerRow
from signer.refunds.standby import LOOK_SECONDS, PATIENCE, Standby
from tests.support.refunds import FakeClock, World


def _start(store: SQLStore, clock: FakeClock, *names: str) -> dict[str, Standby]:
    """Start workers, one after the other."""
    for name in names:
        store.record_pass(WorkerRow(name, clock(), clock()))
        clock.advance(milliseconds=1)
    return {
        name: Standby(store, name, clock, lambda: clock().timestamp()) for name in names
    }


def test_the_first_worker_leads(store: SQLStore) -> None:
    workers = _start(store, FakeClock(), "b", "a")

    assert workers["b"]() == timedelta(0)
    assert workers["a"]() == PATIENCE


def test_a_worker_without_a_row_leads_only_alone(store: SQLStore) -> None:
    """It has not completed its first pass yet."""
    clock = FakeClock()
    timer = clock().timestamp
    assert Standby(store, "new", clock, timer)() == timedelta(0)

    _start(store, clock, "old")
    assert Standby(store, "new", clock, timer)() == PATIENCE


@pytest.mark.parametrize("is_killed", [True, False])
def test_the_next_worker_leads_after_the_first(
    store: SQLStore, is_killed: bool
) -> None:
    """At once if the first one has ended, and later if it was killed."""
    clock = FakeClock()
    workers = _start(store, clock, "a", "b")
    assert workers["b"]() == PATIENCE

    if is_killed:
        clock.advance(seconds=STOPPED_AFTER.total_seconds())
        store.record_pass(WorkerRow("b", clock(), clock()))
    else:
        store.remove_worker("a")
    clock.advance(seconds=LOOK_SECONDS - 1)
    assert workers["b"]() == (timedelta(0) if is_killed else PATIENCE)
    clock.advance(seconds=1)
    assert workers["b"]() == timedelta(0)


def test_a_second_worker_takes_what_the_first_leaves(world: World) -> None:
    refund = world.accepted()
    worker = world.worker
    worker._patience = lambda: PATIENCE

    assert worker.work() == 0
    world.clock.advance(milliseconds=999)
    assert worker.advance() == 0
    world.clock.advance(milliseconds=1)
    worker.work()

    assert world.statuses([refund]) == [Status.BROADCAST]


def test_a_change_does_not_wake_a_second_worker(world: World) -> None:
    """Its next pass takes what is left."""
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.clock.advance(seconds=0.25)
        return True

    refund = world.accepted()
    worker = world.waiting_worker(wait)
    worker._patience = lambda: PATIENCE
    statuses = []

    def is_stopping() -> bool:
        statuses.extend(world.statuses([refund]))
        return len(waits) == 4

    worker.run(is_stopping, 1.5)

    assert set(statuses) == {Status.QUEUED}
    worker.work()
    assert world.statuses([refund]) == [Status.BROADCAST]


def test_a_worker_leads_also_after_an_idle_time(world: World) -> None:
    """The first refund wakes it: the worker that led ended while nothing was open."""
    refunds = [world.accepted()]

    def wait(_: float) -> bool:
        refunds.append(world.accepted())
        return True

    worker = world.waiting_worker(wait)
    worker._patience = lambda: PATIENCE
    world.clock.advance(seconds=PATIENCE.total_seconds())
    worker.work()
    world.finish(*refunds)
    worker._patience = timedelta

    worker.run(lambda: len(refunds) == 2, 3600)

    assert world.statuses(refunds[1:]) == [Status.BROADCAST]
