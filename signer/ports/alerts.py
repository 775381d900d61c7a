"""The ports that count alerts and notify operators of them."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Protocol


class AlertCounters(Protocol):
    """Counts how often each alert was raised, by any process."""

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


class Notifier(Protocol):
    """Sends alerts to an external system."""

    def notify(self, document: Mapping[str, object]) -> None:
        """Send *document*, possibly in the background; never raises."""
