"""Counts refused requests for refunds, in the database, for all processes together."""

import atexit
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from threading import Lock

import structlog

from signer.errors import HotWalletError, PolicyViolationError
from signer.ports import Clock, Meter, RefusalCounters


FLUSH_SECONDS = 5.0
"""How often counts are stored: one small commit, if something was refused."""


class RefusalMeter(Meter):
    """
    Counts in memory, and adds the counts to those in the database.

    So refused requests cost no commit each, and a flood of them none.  A process that
    is killed loses the counts of the last seconds.
    """

    def __init__(self, counters: RefusalCounters, clock: Clock) -> None:
        self._counters = counters
        self._clock = clock
        self._lock = Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._log = structlog.get_logger("metrics")

    def refused(self, error: HotWalletError) -> None:
        rule = error.rule if isinstance(error, PolicyViolationError) else ""
        with self._lock:
            self._counts[error.code, rule] += 1

    def run(self, wait: Callable[[float], bool]) -> None:
        """Store the counts until *wait* returns true, and when the process ends."""
        atexit.register(self._flush_at_exit)
        while not wait(FLUSH_SECONDS):
            try:
                self.flush()
            except HotWalletError as e:
                self._log.warning("refusals-not-counted", code=e.code)

    def flush(self) -> None:
        """
        Store the counts; after a StoreError they are kept for the next time.

        If it is unknown whether they were stored, they may be counted twice.
        """
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            self._counters.count_refusals(counts, self._clock())
        except HotWalletError:
            with self._lock:
                self._counts.update(counts)
            raise

    def _flush_at_exit(self) -> None:
        with suppress(HotWalletError):
            self.flush()
