"""What was signed and how refunds ended, for the rules that stop a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from signer.model.refund import Status


@dataclass(frozen=True, slots=True)
class Signed:
    """How many refunds were signed, their base units by token, and all gas limits."""

    refunds: int = 0
    gas: int = 0
    amounts: Mapping[str, int] = field(default_factory=dict)


class PaymentStatistics(Protocol):
    """
    Counts of one chain since a time, which each use an index.

    A refund counts when its first transaction was signed.  Sweeps, which pay the wallet
    itself, count for their gas only.
    """

    def last_results(
        self, chain_id: int, since: datetime, limit: int
    ) -> Sequence[tuple[str, Status, datetime]]:
        """
        Return tenant, status and time of the newest *limit* results, newest first.

        Results are ``confirmed`` and ``failed``.
        """

    def signed_by_tenant(self, chain_id: int, since: datetime) -> Mapping[str, Signed]:
        """Return what was signed, also sweeps and fillers, by tenant."""
