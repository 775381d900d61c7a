"""The clock, which callers pass in; and that of the ledger, which all hosts share."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from signer.errors import StoreError


Clock = Callable[[], datetime]
"""Returns the current time, in UTC."""


def utc_now() -> datetime:
    """Return the current time; the clock of production."""
    return datetime.now(UTC)


READ_EVERY_SECONDS = 60.0


class LedgerClock:
    """
    The ledger's clock, read once a minute and advanced by a monotonic timer between.

    A host with a wrong clock would take each transaction of another host for stuck, and
    raise its fee again and again.
    """

    def __init__(
        self, read: Clock, timer: Callable[[], float] = time.monotonic
    ) -> None:
        """Return times that *read* gives; it may raise ``StoreError``."""
        self._read = read
        self._timer = timer
        self._epoch: datetime | None = None  # The time when the timer was 0.
        self._expires = 0.0

    def __call__(self) -> datetime:
        """
        Return the current time; while the ledger does not answer, from the last read.

        Raises:
            StoreError: The ledger was never read, and does not answer.
        """
        now = self._timer()
        epoch = self._epoch
        if epoch is None or now >= self._expires:
            self._expires = now + READ_EVERY_SECONDS  # Other threads need not read it.
            epoch = self._epoch = self._read_epoch(now)
        return epoch + timedelta(seconds=now)

    def _read_epoch(self, now: float) -> datetime:
        try:
            return self._read() - timedelta(seconds=now)
        except StoreError:
            if self._epoch is None:
                raise
            return self._epoch
