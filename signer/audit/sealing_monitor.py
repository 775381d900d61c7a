"""
Alerts when audit records wait too long to be sealed.

A sealer reports the records that it could not seal.  A sealer that hangs or does not
run reports nothing, so readiness also watches the oldest unsealed record.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock

from signer.alerts import Alert, Alerts


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


def made_at(record_id: str) -> datetime | None:
    """Return the time in an id of ``new_record_id``; None for any other id."""
    try:
        return datetime.fromtimestamp(int(record_id[3:15], 16) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
