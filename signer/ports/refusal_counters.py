"""The port that counts requests for refunds that were not accepted."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol


class RefusalCounters(Protocol):
    """The counts of all processes together."""

    def count_refusals(
        self, counts: Mapping[tuple[str, str], int], at: datetime
    ) -> None:
        """
        Add to the counts of refused requests for refunds, in one transaction.

        *counts* are by the code of the error, and the rule of the policy or "".
        """

    def refusal_counts(self) -> Mapping[tuple[str, str], int]:
        """Return how many requests were refused, by code and rule."""
