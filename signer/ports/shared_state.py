"""What processes share with each other, apart from money: counts, looks, workers."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from signer.model.network_view import Look
from signer.model.worker_row import WorkerRow


class SharedState(Protocol):
    """Rows that all processes write; raises as ``RefundStore``."""

    @property
    def has_one_writer(self) -> bool:
        """Whether processes write one after the other, and wait for each other."""

    def workers(self) -> Sequence[WorkerRow]:
        """Return the workers, at most 100: those with the newest passes."""

    def record_pass(self, worker: WorkerRow) -> None:
        """Store the last pass and the metrics of *worker*, which may be new."""

    def remove_worker(self, name: str) -> None:
        """Delete the row of the worker *name*, which ends."""

    def forget_workers(self, before: datetime) -> None:
        """Delete the rows of workers whose last pass was *before* that time."""

    def last_look(self, name: str) -> Look | None:
        """Return the last look of any worker at *name*; None if there was none."""

    def save_look(self, name: str, before: Look | None, after: Look) -> bool:
        """
        Replace *before*, the last look, by *after*; return whether it was the last.

        Of several workers that try, one succeeds.
        """

    def count_alert(self, name: str, at: datetime) -> None:
        """Add one to the count of alert *name*."""

    def alert_counts(self) -> Mapping[str, int]:
        """Return the counts by alert name."""

    def last_alert_at(self, name: str) -> datetime | None:
        """Return when alert *name* was last raised, by any process; None if never."""

    def raise_problem(self, key: str, at: datetime, before: datetime) -> bool:
        """
        Record that the problem *key* lasts, unless one process recorded it already.

        Return whether it was recorded now: it did not last, or it was last recorded at
        *before* or earlier, or in the future.
        """

    def resolve_problem(self, key: str, at: datetime) -> bool:
        """Record that *key* has ended; return whether it lasted."""

    def lasting_problems(self) -> Collection[str]:
        """Return the keys of at most 1,000 problems that last."""

    def add_counts(self, counts: Mapping[tuple[str, ...], int], at: datetime) -> None:
        """
        Add *counts* to those of the other processes, in one transaction.

        A name has several words, without spaces: what is counted, and the labels.
        """

    def shared_counts(self) -> Mapping[tuple[str, ...], int]:
        """Return the counts of all processes, since the database was made."""

    def use_token(self, jti: str, expires_at: datetime, now: datetime) -> bool:
        """
        Return whether this is the first use of a one-time token.

        The use is remembered until *expires_at*.  Tokens that expired well before *now*
        are deleted.  If the call raises, the token may be used up: treat it as used.
        """

    def count(self, bucket: str, period: int, amount: int = 1) -> int:
        """
        Add *amount* to the count of *bucket* in *period*; return the sum.

        *period* is a number that grows with time, of the same unit for all buckets.
        Counts that are more than ten periods old are deleted.
        """
