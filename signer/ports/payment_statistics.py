"""What was signed and how refunds ended, for the rules that stop a network."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from signer.model.refund import Status


class PaymentStatistics(Protocol):
    """
    Counts of one chain since a time, which each use an index.

    A refund counts when its first transaction was signed.  Sweeps, which pay the wallet
    itself, count for their gas only.
    """

    def signed_refunds(self, chain_id: int, since: datetime, limit: int) -> int:
        """Return how many refunds were signed; *limit* if there are more."""

    def signed_amounts(self, chain_id: int, since: datetime) -> Mapping[str, int]:
        """Return the base units of the signed refunds, by the token's address."""

    def signed_gas(self, chain_id: int, since: datetime) -> int:
        """Return the sum of the gas limits of all transactions that were signed."""

    def last_results(
        self, chain_id: int, since: datetime, limit: int
    ) -> Sequence[Status]:
        """Return the newest *limit* of ``confirmed`` and ``failed``, newest first."""
