"""
Seals audit records in the background: gives each its place in the hash chain.

Writers do not wait for the head of the chain; the sealer of the worker that leads does
that for them.  The other processes seal what it has left, and verify what it sealed.
Each batch is one transaction, so a killed sealer leaves nothing half done and the next
one continues.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import datetime, timedelta
from functools import partial
from threading import Lock

import structlog

from signer.alerts import Alert, Alerts
from signer.audit.checkpointer import Checkpointer
from signer.audit.hash_chain import BATCH
from signer.audit.log import AuditLog
from signer.loops import IDLE_SECONDS, Wait, repeat
from signer.model.audit_record import Operation, Record, made_at
from signer.ports.refund_store import Topic, Watch


LATE = timedelta(seconds=20)
"""How long a record may wait to be sealed before the alert sounds."""


class SealingAlert:
    """Sounds ``audit-sealing-late`` for all observers of one process; thread-safe."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts
        self._lock = Lock()
        self._late_for = set[str]()

    def report(self, waited: timedelta, observer: str) -> None:
        """
        Report how long the oldest unsealed record has *waited*, as *observer* sees it.

        Clocks differ.  The problem is over when no observer sees a late record.
        """
        with self._lock:
            if waited < LATE:
                self._late_for.discard(observer)
                if not self._late_for:
                    self._alerts.resolve(Alert.SEALING_LATE)
                return
            self._late_for.add(observer)
        self._alerts.remind(Alert.SEALING_LATE, seconds=int(waited.total_seconds()))


class SealingMonitor:
    """
    Measures how long the same record has been the oldest unsealed one.

    It uses neither the wall clock of this host nor the times in the records: a wrong
    clock must not sound an alert.  An older record that was committed late counts as
    the same one.
    """

    def __init__(
        self, alert: SealingAlert, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._alert = alert
        self._timer = timer
        self._lock = Lock()
        self._oldest: str | None = None
        self._since = 0.0

    def observe(self, oldest: str | None) -> timedelta:
        """Report the id of the *oldest* unsealed record; return its waiting time."""
        now = self._timer()
        with self._lock:
            if oldest is None or self._oldest is None or oldest > self._oldest:
                self._oldest, self._since = oldest, now
            waited = timedelta(seconds=now - self._since)
        self._alert.report(waited, "monitor")
        return waited


LOOK_SECONDS = 0.25
"""Time from the start of one round to the next: how long a record waits at most."""

REST_SECONDS = 0.05
"""The shortest pause between two rounds, even if a round took longer."""

FOLLOW_SECONDS = 3.0
"""How often a process looks for what the one that leads left: what it finds twice."""

_CHECK_INTERVAL = timedelta(seconds=30)
"""How often the records are checked while nothing is written."""

# How the body of a record of an administrator's change says what it belongs to.
_ADMINISTRATIVE = tuple(
    f'"operation":"{operation}"'
    for operation in (
        Operation.ADMINISTRATION,
        Operation.KEY_RELOCATION,
        Operation.KEY_ROTATION,
        Operation.KEY_SWEEP,
    )
)

_MAX_ID = 64  # A forged id may be too long for a log or a webhook.


@dataclass(eq=False, repr=False)
class Sealer:
    """
    Seals the records of the journal of *checkpointer*, and lets it sign checkpoints.

    *sealing_alert* is that of the ``SealingMonitor`` of this process, if there is one.

    The records of administrators' changes are logged to *audit* once they are sealed: a
    command's own log goes to a terminal, and the lines of this process to the log
    store.  While *patience* returns a time, another process leads.
    """

    checkpointer: Checkpointer
    _: KW_ONLY
    audit: AuditLog | None = None
    sealing_alert: SealingAlert | None = None
    patience: Callable[[], timedelta] = timedelta

    def __post_init__(self) -> None:
        parts = self.checkpointer
        self._journal, self._alerts = parts.journal, parts.alerts
        self._clock, self._timer = parts.clock, parts.timer
        self._audit = self.audit or AuditLog(structlog.get_logger("audit"), parts.clock)
        self._sealing_alert = self.sealing_alert or SealingAlert(parts.alerts)
        # The last records before a quiet time need a checkpoint as well.
        self._interval = _CHECK_INTERVAL
        if parts.settings is not None:
            self._interval = min(_CHECK_INTERVAL, parts.settings.interval)
        self._log = structlog.get_logger("audit")
        self._checked_at: datetime | None = None
        self._left: str | None = None  # The oldest record that the last look left.
        self._is_waiting = False  # A record was left unsealed.
        self._is_idle = False  # There is nothing to do until something is written.
        # All that was committed before this time of the timer is sealed.
        self.sealed_at: float | None = None

    def run(self, wait: Wait) -> None:
        """Work until *wait* returns true; it gets the seconds until the next round."""
        log, event = self._log, "audit-sealing-failed"
        with self._journal.watch(Topic.RECORDED) as watch:
            work = partial(self._round, watch)
            repeat(work, wait, LOOK_SECONDS, log=log, event=event, at_once=True)

    def work(self, *, leave: bool = False) -> int:
        """
        Seal what waits, sign a checkpoint if due, and return the number sealed.

        With *leave*, what was not there at the last look is left to another process.
        """
        sealed = self._seal_all(leave=leave)
        now = self._clock()
        if sealed or self.checkpointer.is_in_progress or self._is_check_due(now):
            self._checked_at = now
            self.checkpointer.sign_if_due(now)
        self._is_idle = not (self._is_waiting or self.checkpointer.is_in_progress)
        return sealed

    def _round(self, watch: Watch) -> float:
        """Work if something was written; return the seconds until the next round."""
        follows = bool(self.patience())
        # What is written wakes one process, and not all of them.
        is_news = watch.wait(IDLE_SECONDS if self._is_idle and not follows else 0)
        began = self._timer()
        is_due = is_news or not self._is_idle or self._is_check_due(self._clock())
        if is_due:
            self._is_idle = False  # Also if this fails.
            self.work(leave=follows)
            if not self._is_waiting:
                self.sealed_at = began
        if follows:
            return FOLLOW_SECONDS
        rest = max(REST_SECONDS, LOOK_SECONDS - (self._timer() - began))
        return rest if is_due else 0.0

    def _is_left(self, waiting: str) -> bool:
        """Return whether *waiting*, the oldest record, is newer than the last look."""
        before, self._left = self._left, waiting
        return before is None or waiting > before

    def _seal_all(self, *, leave: bool) -> int:
        """Seal waiting records, and report how long the oldest one left has waited."""
        waiting = self._journal.oldest_unsealed()
        # A record that another program sealed does not wait.
        is_due = self._is_check_due(self._clock()) or (
            waiting is not None and not (leave and self._is_left(waiting))
        )
        sealed = 0
        try:
            while is_due:
                done = self._journal.seal(BATCH, self._audit.forged)
                if done is None:
                    break  # Another process is sealing.
                if done.forged:
                    count, first = len(done.forged), done.forged[0][:_MAX_ID]
                    self._alerts.sound(Alert.RECORD_FORGED, records=count, first=first)
                sealed += done.count
                self._log_changes(done.records)
                if done.count < BATCH:
                    waiting, is_due = None, False
        finally:
            self._is_waiting = waiting is not None
            now = self._clock()
            made = None if waiting is None else made_at(waiting)
            self._sealing_alert.report(now - (made or now), "sealer")
        return sealed

    def _log_changes(self, records: Sequence[Record]) -> None:
        if self.audit is not None:
            self.audit.log(
                *(r for r in records if any(each in r.body for each in _ADMINISTRATIVE))
            )

    def _is_check_due(self, now: datetime) -> bool:
        # The absolute value, since clocks may be set back.
        return self._checked_at is None or abs(now - self._checked_at) >= self._interval
