"""Records that a worker completes its passes, for the processes that watch it."""

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import structlog

from signer.errors import HotWalletError
from signer.model.worker_row import STOPPED_AFTER, WorkerRow
from signer.ports.clock import Clock
from signer.ports.shared_state import SharedState


RECORD_EVERY_SECONDS = 5.0
"""How often a worker writes its row: one small commit."""

_RETRY_SECONDS = 1.0
_MOST_BYTES = 60_000  # The table refuses more than 64 KiB.


class Heartbeat:
    """Records the last pass of this worker, if it is called after each pass."""

    def __init__(
        self,
        store: SharedState,
        clock: Clock,
        metrics: Callable[[], str] = str,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store what *metrics* returns with each pass; *clock* is the ledger's."""
        self.name = secrets.token_hex(4)
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._timer = timer
        self._started_at: datetime | None = None
        self._due = float("-inf")
        self._log = structlog.get_logger("worker")

    def __call__(self) -> None:
        """Record that a pass was completed now, if that is due; never raises."""
        if self._timer() < self._due:
            return
        self._due = self._timer() + RECORD_EVERY_SECONDS
        try:
            self._record(self._clock())
        except HotWalletError as e:
            # Soon again: the watchers see a row that is too old once they can read it.
            self._due = self._timer() + _RETRY_SECONDS
            self._log.warning("pass-not-recorded", code=e.code)

    def end(self) -> None:
        """Remove the row of this worker, which ends as intended; never raises."""
        with suppress(HotWalletError):
            self._store.remove_worker(self.name)

    def _record(self, at: datetime) -> None:
        if self._started_at is None:
            # What this worker replaces: processes that were killed.
            self._store.forget_workers(at - STOPPED_AFTER)
            self._started_at = at
            self._log.info("worker-started", worker=self.name, pid=os.getpid())
        metrics = self._metrics()
        if len(metrics.encode()) > _MOST_BYTES:
            metrics = ""
        self._store.record_pass(WorkerRow(self.name, self._started_at, at, metrics))
