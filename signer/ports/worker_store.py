"""What the core asks of the ledger about workers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from signer.model.worker_row import WorkerRow


class WorkerStore(Protocol):
    """The rows of the worker processes.  Every method is one statement."""

    def workers(self) -> Sequence[WorkerRow]:
        """Return the workers, at most 100: those with the newest passes."""

    def record_pass(self, worker: WorkerRow) -> None:
        """Store the last pass and the metrics of *worker*, which may be new."""

    def remove_worker(self, name: str) -> None:
        """Delete the row of the worker *name*, which ends."""

    def forget_workers(self, before: datetime) -> None:
        """Delete the rows of workers whose last pass was *before* that time."""
