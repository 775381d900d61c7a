"""
Alerts when a worker stops: it hangs, was stopped or killed, or none runs at all.

A stopped process cannot report itself, so every process watches all workers.  Each
alerts as well when it cannot reach the database, where nothing else is known then.  A
worker's ``Heartbeat`` records that it completes its passes.
"""

import os
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from signer.alerts import REMIND_SECONDS, Alert, Alerts
from signer.errors import HotWalletError
from signer.loops import Wait, repeat
from signer.model.worker_row import STOPPED_AFTER, WorkerRow, find_stopped
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger, SharedState


RECORD_EVERY_SECONDS = 5.0
"""How often a worker writes its row: one small commit."""

_RETRY_SECONDS = 1.0
_MOST_BYTES = 60_000  # The table refuses more than 64 KiB.


@dataclass(eq=False, repr=False)
class Heartbeat:
    """
    Records the last pass of this worker, if it is called after each pass.

    It stores what *metrics* returns with each pass; *clock* is the ledger's.
    """

    store: SharedState
    clock: Clock
    metrics: Callable[[], str] = str
    timer: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.name = secrets.token_hex(4)
        self._started_at: datetime | None = None
        self._due = float("-inf")
        self._log = structlog.get_logger("worker")

    def __call__(self) -> None:
        """Record that a pass was completed now, if that is due; never raises."""
        if self.timer() < self._due:
            return
        self._due = self.timer() + RECORD_EVERY_SECONDS
        try:
            self._record(self.clock())
        except HotWalletError as e:
            # Soon again: the watchers see a row that is too old once they can read it.
            self._due = self.timer() + _RETRY_SECONDS
            self._log.warning("pass-not-recorded", code=e.code)

    def end(self) -> None:
        """Remove the row of this worker, which ends as intended; never raises."""
        with suppress(HotWalletError):
            self.store.remove_worker(self.name)

    def _record(self, at: datetime) -> None:
        if self._started_at is None:
            # What this worker replaces: processes that were killed.
            self.store.forget_workers(at - STOPPED_AFTER)
            self._started_at = at
            self._log.info("worker-started", worker=self.name, pid=os.getpid())
        metrics = self.metrics()
        if len(metrics.encode()) > _MOST_BYTES:
            metrics = ""
        self.store.record_pass(WorkerRow(self.name, self._started_at, at, metrics))


LOOK_SECONDS = 3.0
"""How often the rows of the workers are read.  The alert is raised at the second look
that finds the same, so a stopped worker is reported 20 to 26 seconds after its pass."""

_LOOK = timedelta(seconds=LOOK_SECONDS)

_LATELY = timedelta(seconds=REMIND_SECONDS) - STOPPED_AFTER
"""Less than the time after which each process repeats the alert."""

_LOOKS_TO_SEND = 2
_LOOKS_TO_LOG = 3
"""A process that has no webhook leaves it to others that have one: up to 29 seconds."""


@dataclass(eq=False, repr=False)
class WorkerMonitor:
    """
    Raises ``worker-stopped``, and repeats it every five minutes while it lasts.

    *clock* is that of *ledger*.
    """

    ledger: Ledger
    alerts: Alerts
    clock: Clock
    timer: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._log = structlog.get_logger("workers")
        self._looks = _LOOKS_TO_SEND if self.alerts.are_sent else _LOOKS_TO_LOG
        self._seen: frozenset[WorkerRow] = frozenset()
        self._times_seen = 0
        self._missing_since: float | None = None
        self._is_reported = False
        self._unreachable_since: float | None = None

    def run(self, wait: Wait) -> None:
        """Look until *wait* returns true; it gets the seconds until the next look."""
        event = "worker-watch-failed"
        repeat(self._watch, wait, LOOK_SECONDS, log=self._log, event=event)

    def look(self) -> None:
        """Read the rows once, and raise the alert if it is due."""
        workers, now = self.ledger.workers(), self.clock()
        stopped = find_stopped(workers, now)
        missing_for = self._missing_for(workers)
        if missing_for >= STOPPED_AFTER + (self._looks - _LOOKS_TO_SEND) * _LOOK:
            self._report((), now - missing_for)
        elif self._is_lasting(stopped):
            self._report(stopped, stopped[-1].passed_at + STOPPED_AFTER)
        elif workers and not stopped:
            self._recover()

    def _watch(self) -> None:
        try:
            self.look()
            self._unreachable_since = None
            self.alerts.resolve(Alert.DATABASE_UNREACHABLE)
            self.alerts.refresh()
        except HotWalletError as e:
            # Nothing is known of the time in which the ledger did not answer.
            self._times_seen, self._missing_since = 0, None
            self._report_unreachable(e)

    def _report_unreachable(self, error: HotWalletError) -> None:
        """Raise the alert about the ledger, once it has not answered for a while."""
        if self._unreachable_since is None:
            self._unreachable_since = self.timer()
        lasts = timedelta(seconds=self.timer() - self._unreachable_since)
        if lasts >= STOPPED_AFTER:
            self.alerts.remind(Alert.DATABASE_UNREACHABLE, code=error.code)

    def _is_lasting(self, stopped: Collection[WorkerRow]) -> bool:
        """Return whether enough looks in a row have found the same workers stopped."""
        found = frozenset(stopped)
        self._times_seen = self._times_seen + 1 if found == self._seen else 1
        self._seen = found
        return bool(found) and self._times_seen >= self._looks

    def _missing_for(self, workers: Collection[WorkerRow]) -> timedelta:
        """Return for how long there has been no worker at all."""
        if workers:
            self._missing_since = None
            return timedelta(0)
        if self._missing_since is None:
            self._missing_since = self.timer()
        return timedelta(seconds=self.timer() - self._missing_since)

    def _report(self, stopped: Sequence[WorkerRow], since: datetime) -> None:
        """Raise the alert about *stopped*, unless it was raised after *since*."""
        self._is_reported = True
        names = [worker.name for worker in stopped]
        if not self.alerts.is_due(Alert.WORKER_STOPPED, frozenset(names)):
            return
        if self._was_raised(since):
            return
        self.alerts.sound(
            Alert.WORKER_STOPPED,
            workers=", ".join(names) or None,
            last_pass=str(stopped[-1].passed_at) if stopped else None,
        )

    def _was_raised(self, since: datetime) -> bool:
        """Return whether another process has raised the alert lately."""
        last = self.ledger.last_alert_at(Alert.WORKER_STOPPED)
        if last is None or self.clock() - last >= _LATELY:
            return False
        return last >= since

    def _recover(self) -> None:
        self.alerts.resolve(Alert.WORKER_STOPPED)
        if self._is_reported:
            self._is_reported = False
            self._log.info("workers-recovered")
