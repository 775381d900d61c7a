"""
Lets one worker lead in what only one process should do at a time.

Two workers that share a SQLite file wait for each other's commits, and split what is
due into two batches, each with all that a batch costs.  So the worker that started
first takes it, and another one only what the first has left for a while: it hangs, was
killed, or has too much to do.  Audit records are sealed in the same way, on PostgreSQL
too.  No MAC covers the rows of workers.  A false one delays payments and seals by that
while, and no longer.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from signer.model.worker_row import find_running
from signer.ports.clock import Clock
from signer.ports.ledger import SharedState


PATIENCE = timedelta(seconds=2)
"""For how long what is due is left to the worker that leads.  A new refund is due a
second before it was accepted."""

LOOK_SECONDS = 5.0
"""How often it reads which workers run."""


@dataclass(eq=False, repr=False)
class Standby:
    """
    Whether another worker of the same ledger leads; threads may share it.

    *name* is that of this worker, if it is one; *clock* is the ledger's.
    """

    store: SharedState
    name: str
    clock: Clock
    timer: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._due = float("-inf")
        self._running: Sequence[str] = ()

    def __call__(self) -> timedelta:
        """Return how long to leave what is due to others; raises ``StoreError``."""
        running = self._look()
        leads = not running or running[0] == self.name
        return timedelta(0) if leads else PATIENCE

    def is_alone(self) -> bool:
        """Return whether no other worker runs; raises ``StoreError``."""
        return {*self._look()} <= {self.name}

    def _look(self) -> Sequence[str]:
        if self.timer() >= self._due:
            self._due = self.timer() + LOOK_SECONDS
            found = find_running(self.store.workers(), self.clock())
            self._running = [each.name for each in found]
        return self._running
