"""Counts of refunds for metrics and for the runway of the wallet."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from signer.model.refund import Status


GAS = "gas"
"""In place of a token's address: the gas limits that refunds reserved."""


class OpenRefunds(NamedTuple):
    """
    How many open refunds are alike, and since when the oldest has its status.

    ``blocked_by`` is the code of the last error, and None if there was none.
    """

    network: str
    tenant: str
    status: Status
    blocked_by: str | None
    number: int
    since: datetime


class Payment(NamedTuple):
    """The token's address, the base units and the gas limit of a refund."""

    token_address: str
    amount: int
    gas_limit: int


class SpentLately(NamedTuple):
    """What refunds reserved in this clock hour, and in it and the 23 before it."""

    hour: int = 0
    day: int = 0


class RefundStatistics(Protocol):
    """Counts that cost the same in a ledger of any size: each uses an index."""

    def open_refunds(self) -> Sequence[OpenRefunds]:
        """Return the open refunds, grouped by all other fields of ``OpenRefunds``."""

    def accepted_since(self, since: datetime) -> Mapping[tuple[str, str], int]:
        """Return how many refunds were accepted, by network and tenant."""

    def last_payments(self, chain_id: int, limit: int) -> Sequence[Payment]:
        """Return the newest *limit* confirmed refunds, without sweeps."""

    def spent_lately(
        self, chain_id: int, tokens: Collection[str], tenant: str | None = None
    ) -> Mapping[str, SpentLately]:
        """
        Return what refunds reserved, by token; without *tenant*, those of all tenants.

        *tokens* are addresses, or ``GAS``.  The sums are in base units, or in gas.  The
        hours are those of the database's clock.
        """

    def results_between(
        self, since: datetime, until: datetime, limit: int
    ) -> Mapping[Status, int]:
        """
        Return how many refunds have each status now, of those accepted in a period.

        *until* does not belong to it.  It looks at *limit* refunds at most, and counts
        neither sweeps nor fillers.
        """

    def broadcast_seconds(
        self, since: datetime, until: datetime, limit: int
    ) -> Sequence[float]:
        """
        Return the seconds from acceptance to first broadcast, the fastest first.

        These are the newest *limit* refunds that were accepted from *since* to before
        *until* and broadcast.
        """
