"""Who counts alerts, and who is told of them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol


class AlertCounters(Protocol):
    """How often each alert was raised, by any process."""

    def count_alert(self, name: str, at: datetime) -> None:
        """Count one more."""

    def alert_counts(self) -> Mapping[str, int]:
        """Return the counts by name."""


class Notifier(Protocol):
    """Somebody outside who is told of alerts."""

    def notify(self, document: Mapping[str, object]) -> None:
        """Tell them, now or in a while; never raises."""
