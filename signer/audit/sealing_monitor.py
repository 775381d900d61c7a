"""
Records that wait too long for their place: who notices, and how often it is told.

Sealers notice what they could not seal.  Somebody who seals nothing must notice as
well, since sealers that hang, or do not run, notice nothing.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock

from signer.alerts import Alert, Alerts
from signer.ports import Clock, utc_now


LATE = timedelta(seconds=30)
"""A record that waits longer for its seal is an alert."""

REMIND = timedelta(minutes=5)
"""How long after an alert the next one follows, while nothing has changed."""


class SealingAlert:
    """Sounds the alert, once and then now and then; threads share it."""

    def __init__(self, alerts: Alerts, clock: Clock = utc_now) -> None:
        self._alerts = alerts
        self._clock = clock
        self._lock = Lock()
        self._complaining = set[str]()
        self._told_at: datetime | None = None

    def note(self, waited: timedelta, witness: str) -> None:
        """
        Take in for how long, by *witness*, the oldest unsealed record has *waited*.

        It is over when nobody says so any more: clocks differ, and one may see a record
        that moves on where another one sees an old one.
        """
        now = self._clock()
        with self._lock:
            if waited < LATE:
                self._complaining.discard(witness)
                if not self._complaining:
                    self._told_at = None
                return
            self._complaining.add(witness)
            if self._told_at is not None and abs(now - self._told_at) < REMIND:
                return
            self._told_at = now
        self._alerts.sound(Alert.SEALING_LATE, seconds=int(waited.total_seconds()))


class SealingMonitor:
    """
    Notices that nobody seals, by looking now and then at what waits longest.

    Neither by our clock nor by the writers': a host whose clock is wrong must not call
    anybody out.  It counts for how long the same record, or an older one that was
    committed late, has been the oldest.
    """

    def __init__(
        self, lateness: SealingAlert, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._lateness = lateness
        self._timer = timer
        self._lock = Lock()
        self._oldest: str | None = None
        self._since = 0.0

    def look(self, oldest: str | None) -> timedelta:
        """Take in the *oldest* record without a seal; return for how long it stood."""
        now = self._timer()
        with self._lock:
            if oldest is None or self._oldest is None or oldest > self._oldest:
                self._oldest, self._since = oldest, now
            stood = timedelta(seconds=now - self._since)
        self._lateness.note(stood, "onlooker")
        return stood


def made_at(record_id: str) -> datetime | None:
    """Return when the record was made, by its id (``new_record_id``), if it says so."""
    try:
        return datetime.fromtimestamp(int(record_id[3:15], 16) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
