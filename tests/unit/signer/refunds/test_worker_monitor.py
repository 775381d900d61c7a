"""Workers record their passes; when one stops, others raise one alert."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.alerts import Alert, Alerts
from signer.errors import HotWalletError, StoreUnavailableError
from signer.model.worker_row import WorkerRow, find_running, find_stopped
from signer.ports.ledger import Ledger
from signer.ports.outside_services import Notifier
from signer.refunds.worker_monitor import (
    LOOK_SECONDS,
    RECORD_EVERY_SECONDS,
    Heartbeat,
    WorkerMonitor,
)
from tests.support.refunds import FakeClock, World, altered
from tests.support.waiting import Timer


class Sent:
    """A webhook that keeps what is sent."""

    def __init__(self) -> None:
        self.documents: list[Mapping[str, object]] = []

    def notify(self, document: Mapping[str, object]) -> None:
        """Keep *document*."""
        self.documents.append(document)


@dataclass
class System:
    """A ledger whose workers pass until they are stopped."""

    store: SQLStore
    clock: FakeClock = field(default_factory=FakeClock)
    running: set[str] = field(default_factory=set)

    def start(self, *names: str) -> None:
        """Start workers."""
        for name in names:
            self.store.record_pass(WorkerRow(name, self.clock(), self.clock()))
        self.running |= set(names)

    def monitor(
        self, store: Ledger | None = None, notifier: Notifier | None = None
    ) -> WorkerMonitor:
        """Return the monitor of a process that starts now, with its webhook."""
        alerts = Alerts(self.store, notifier, self.clock)
        return WorkerMonitor(
            store or self.store, alerts, self.clock, lambda: self.clock().timestamp()
        )

    def look(self, seconds: float, *monitors: WorkerMonitor) -> None:
        """Let *monitors* look every three seconds."""
        until = self.clock() + timedelta(seconds=seconds)
        while self.clock() < until:
            self.clock.advance(seconds=LOOK_SECONDS)
            for name in self.running:
                self.store.record_pass(WorkerRow(name, self.clock(), self.clock()))
            for monitor in monitors:
                monitor.look()

    @property
    def raised(self) -> int:
        """How many alerts were raised."""
        return self.store.alert_counts().get(Alert.WORKER_STOPPED, 0)


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    return System(sqlite_store)


def test_a_stopped_worker_is_reported_within_thirty_seconds(system: System) -> None:
    system.start("a", "b")
    monitor = system.monitor(notifier=Sent())
    system.look(30, monitor)
    assert system.raised == 0
    system.running.remove("a")
    with capture_logs() as logs:
        system.look(20, monitor)
        assert system.raised == 0
        system.look(6, monitor)

    (alert,) = [each for each in logs if each["event"] == "alert"]
    assert (alert["alert"], alert["workers"]) == ("worker-stopped", "a")
    assert system.raised == 1


def test_no_worker_at_all_is_reported(system: System) -> None:
    monitor = system.monitor(notifier=Sent())
    with capture_logs() as logs:
        system.look(21, monitor)
        assert system.raised == 0
        system.look(3, monitor)

    (alert,) = [each for each in logs if each["event"] == "alert"]
    assert (alert["workers"], alert["last_pass"]) == (None, None)


def test_one_process_speaks_for_all(system: System) -> None:
    system.start("a")
    system.running.clear()
    monitors = [system.monitor() for _ in range(5)]
    system.look(60, *monitors)

    assert system.raised == 1


def test_a_process_that_has_a_webhook_speaks(system: System) -> None:
    """One without a webhook would only log, and keep the others from sending."""
    system.start("a")
    system.running.clear()
    sent = Sent()
    silent = [system.monitor() for _ in range(3)]
    system.look(60, *silent, system.monitor(notifier=sent))

    assert (len(sent.documents), system.raised) == (1, 1)


def test_without_any_webhook_it_is_logged_within_thirty_seconds(system: System) -> None:
    system.start("a")
    system.running.clear()
    system.look(30, system.monitor())

    assert system.raised == 1


def test_it_is_repeated_every_five_minutes(system: System) -> None:
    system.start("a")
    system.running.clear()
    monitor = system.monitor()
    system.look(27 + 600, monitor)

    assert system.raised == 3


def test_another_worker_that_stops_is_reported_at_once(system: System) -> None:
    system.start("a", "b", "c")
    monitors = [system.monitor(), system.monitor()]
    system.running.remove("a")
    system.look(60, *monitors)
    system.running.remove("b")
    system.look(30, *monitors)

    assert system.raised == 2


def test_workers_that_end_after_another_alert_are_reported(system: System) -> None:
    system.start("a")
    monitors = [system.monitor(), system.monitor()]
    system.running.clear()
    system.look(40, *monitors)
    system.running.add("a")
    system.look(9, *monitors)
    system.running.clear()
    system.store.remove_worker("a")
    system.look(40, *monitors)

    assert system.raised == 2


def test_a_recovery_is_logged_and_the_next_stop_is_reported(system: System) -> None:
    system.start("a")
    monitor = system.monitor()
    system.running.clear()
    system.look(30, monitor)
    system.running.add("a")
    with capture_logs() as logs:
        system.look(30, monitor)
    events = [each["event"] for each in logs]
    assert events == ["alert-resolved", "workers-recovered"]
    system.running.clear()
    system.look(30, monitor)

    assert system.raised == 2


def _running(monitor: WorkerMonitor, rounds: int, clock: FakeClock) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        clock.advance(seconds=seconds)
        return len(waits) > rounds

    monitor.run(wait)


def test_an_outage_of_the_database_is_no_stopped_worker(system: System) -> None:
    """Its first answer has an old row, which the worker replaces within a second."""
    system.start("a")
    looks: list[int] = []

    def workers() -> object:
        looks.append(len(looks))
        if 2 <= len(looks) < 20:
            raise StoreUnavailableError("gone")
        if len(looks) > 20:  # The old row is read once more.
            system.store.record_pass(WorkerRow("a", system.clock(), system.clock()))
        return system.store.workers()

    _running(system.monitor(altered(system.store, workers=workers)), 40, system.clock)

    assert len(looks) == 40
    assert system.raised == 0


def test_a_database_that_does_not_answer_is_reported(system: System) -> None:
    """After 20 seconds, every five minutes, and again at the next outage."""
    system.start("a")
    looks: list[int] = []

    def workers() -> object:
        looks.append(len(looks))
        if len(looks) % 150 < 140:
            raise StoreUnavailableError("gone")
        system.start("a")
        return system.store.workers()

    with capture_logs() as logs:
        _running(
            system.monitor(altered(system.store, workers=workers)), 160, system.clock
        )

    alerts = [each["event"] for each in logs if "alert" in each]
    assert alerts == ["alert", "alert", "alert-resolved", "alert"]
    assert {each.get("code") for each in logs} <= {None, "store-unavailable"}


def test_a_bug_in_a_look_ends_nothing(system: System) -> None:
    errors: list[Exception] = [ValueError("bug")]

    def workers() -> object:
        if errors:
            raise errors.pop()
        return system.store.workers()

    monitor = system.monitor(altered(system.store, workers=workers))
    with capture_logs() as logs:
        _running(monitor, 10, system.clock)

    assert [each["event"] for each in logs] == ["worker-watch-failed", "alert"]
    assert system.raised == 1


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
