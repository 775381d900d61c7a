"""A worker records its passes, so that others notice when it stops."""

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.errors import HotWalletError, StoreUnavailableError
from signer.model.worker_row import WorkerRow, find_running, find_stopped
from signer.ports.ledger import Ledger
from signer.refunds.worker_monitor import RECORD_EVERY_SECONDS, Heartbeat
from tests.support.refunds import FakeClock, World, altered
from tests.support.waiting import Timer


def _heartbeat(
    store: Ledger, clock: FakeClock, timer: Timer | None = None, metrics: str = "m 1\n"
) -> Heartbeat:
    return Heartbeat(store, clock, lambda: metrics, timer or Timer())


def test_a_pass_is_recorded(sqlite_store: SQLStore) -> None:
    clock = FakeClock()
    heartbeat = _heartbeat(sqlite_store, clock)
    heartbeat()

    row = WorkerRow(heartbeat.name, clock(), clock(), "m 1\n")
    assert sqlite_store.workers() == (row,)


def test_a_pass_is_recorded_every_five_seconds(sqlite_store: SQLStore) -> None:
    clock, timer = FakeClock(), Timer()
    began = clock()
    heartbeat = _heartbeat(sqlite_store, clock, timer)
    seen = []
    for _ in range(12):
        heartbeat()
        seen.append((sqlite_store.workers()[0].passed_at - began).total_seconds())
        clock.advance(seconds=1)
        timer.now += 1

    assert seen == [0] * 5 + [RECORD_EVERY_SECONDS] * 5 + [10] * 2
    assert sqlite_store.workers()[0].started_at == began


def test_a_failure_is_logged_and_repeated_soon(sqlite_store: SQLStore) -> None:
    errors: list[HotWalletError] = [StoreUnavailableError("gone")]

    def record(row: WorkerRow) -> None:
        if errors:
            raise errors.pop()
        sqlite_store.record_pass(row)

    timer = Timer()
    store = altered(sqlite_store, record_pass=record)
    heartbeat = _heartbeat(store, FakeClock(), timer)
    with capture_logs() as logs:
        heartbeat()
        timer.now += 0.9
        heartbeat()
    assert {"event": "pass-not-recorded", "log_level": "warning"}.items() <= logs[
        -1
    ].items()
    assert sqlite_store.workers() == ()
    timer.now += 0.1
    heartbeat()

    assert len(sqlite_store.workers()) == 1


def test_measurements_that_are_too_long_are_left_out(sqlite_store: SQLStore) -> None:
    """The pass is recorded all the same."""
    _heartbeat(sqlite_store, FakeClock(), metrics="x" * 70_000)()

    assert [row.metrics for row in sqlite_store.workers()] == [""]


def test_a_worker_that_ends_removes_its_row(sqlite_store: SQLStore) -> None:
    heartbeat = _heartbeat(sqlite_store, FakeClock())
    heartbeat()
    heartbeat.end()

    assert sqlite_store.workers() == ()


def test_a_worker_ends_without_its_database(sqlite_store: SQLStore) -> None:
    error = StoreUnavailableError("gone")

    _heartbeat(altered(sqlite_store, remove_worker=error), FakeClock()).end()


def test_a_new_worker_deletes_the_rows_of_killed_ones(sqlite_store: SQLStore) -> None:
    clock = FakeClock()
    killed, running = (_heartbeat(sqlite_store, clock) for _ in range(2))
    killed()
    clock.advance(seconds=21)
    running()
    clock.advance(seconds=20)
    new = _heartbeat(sqlite_store, clock)
    new()

    assert {row.name for row in sqlite_store.workers()} == {running.name, new.name}


def _row(name: str, started: float, passed: float) -> WorkerRow:
    began = FakeClock()()
    return WorkerRow(
        name, began + timedelta(seconds=started), began + timedelta(seconds=passed)
    )


@pytest.mark.parametrize(
    ("rows", "stopped", "running"),
    [
        ([], "", ""),
        ([_row("a", 0, 80)], "", "a"),
        ([_row("a", 0, 79)], "a", ""),
        ([_row("b", 5, 99), _row("a", 0, 79)], "a", "b"),
        ([_row("b", 5, 70), _row("a", 0, 60)], "ab", ""),
        ([_row("b", 5, 99), _row("a", 0, 99)], "", "ab"),
        ([_row("b", 80, 99), _row("a", 0, 79)], "", "b"),
        ([_row("b", 80, 81), _row("a", 0, 79)], "", "b"),
    ],
)
def test_which_workers_are_stopped(
    rows: list[WorkerRow], stopped: str, running: str
) -> None:
    """20 seconds without a pass, unless another worker has started since."""
    now = FakeClock()() + timedelta(seconds=100)

    assert "".join(each.name for each in find_stopped(rows, now)) == stopped
    assert "".join(each.name for each in find_running(rows, now)) == running


def test_a_worker_records_what_it_completes(world: World) -> None:
    """A pass that failed is not recorded: such a worker pays nothing."""
    waits: list[float] = []
    passes: list[int] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.clock.advance(seconds=seconds)
        return False

    worker = world.waiting_worker(wait)
    worker._heartbeat = lambda: passes.append(len(waits))
    worker.run(lambda: len(waits) == 2, 0.5)
    assert passes == [0, 1]

    worker._store = altered(world.store, has_open=StoreUnavailableError("gone"))
    worker.run(lambda: True, 0.5)

    assert passes == [0, 1]
