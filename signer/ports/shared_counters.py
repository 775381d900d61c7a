"""The port that counts what all processes do together, for the metrics."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol


class SharedCounters(Protocol):
    """
    Counts that all processes add to, by name.

    A name has several words, without spaces: what is counted, and the labels.
    """

    def add_counts(self, counts: Mapping[tuple[str, ...], int], at: datetime) -> None:
        """Add *counts* to those of the other processes, in one transaction."""

    def shared_counts(self) -> Mapping[tuple[str, ...], int]:
        """Return the counts of all processes, since the database was made."""
