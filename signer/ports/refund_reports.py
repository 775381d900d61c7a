"""What operators, metrics and automatic stops learn about many refunds at once."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple, Protocol

from signer.model.refund import Page, Refund, Status


SEARCHED = 5_000
"""How many refunds one page of a search looks at, at most."""

GAS = "gas"
"""In place of a token's address: the gas limits that refunds reserved."""


@dataclass(frozen=True, slots=True)
class RefundFilter:
    """
    What a refund must have; None allows everything.

    It was accepted at ``accepted_from`` or later, and before ``accepted_before``.
    Amounts are in whole tokens, and both bounds are included.
    """

    tenant: str | None = None
    status: Status | None = None
    recipient: str | None = None
    payment_session_id: str | None = None
    network: str | None = None
    accepted_from: datetime | None = None
    accepted_before: datetime | None = None
    min_amount: Decimal | None = None
    max_amount: Decimal | None = None

    def allows(self, refund: Refund) -> bool:
        """Return whether *refund* has what it must have."""
        names = ("tenant", "status", "recipient", "payment_session_id", "network")
        if any(
            getattr(self, name) not in {None, getattr(refund, name)} for name in names
        ):
            return False
        amount = Fraction(refund.amount, 10**refund.decimals)
        ranges = (
            (self.accepted_from is None or self.accepted_from <= refund.created_at),
            (self.accepted_before is None or refund.created_at < self.accepted_before),
            (self.min_amount is None or Fraction(self.min_amount) <= amount),
            (self.max_amount is None or amount <= Fraction(self.max_amount)),
        )
        return all(ranges)


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


class RecentPayment(NamedTuple):
    """The token's address, the base units, and the share of the gas of a refund."""

    token_address: str
    amount: int
    gas: int


class SpentLately(NamedTuple):
    """What refunds reserved in this clock hour, and in it and the 23 before it."""

    hour: int = 0
    day: int = 0


@dataclass(frozen=True, slots=True)
class SignedTotals:
    """How many refunds were signed, their base units by token, and all gas limits."""

    refunds: int = 0
    gas: int = 0
    amounts: Mapping[str, int] = field(default_factory=dict)


class RefundReports(Protocol):
    """
    Finds and counts refunds.

    Each method uses an index, so that its cost does not grow with the ledger.
    """

    def search_refunds(
        self, wanted: RefundFilter, *, limit: int, cursor: str | None = None
    ) -> Page:
        """
        Return the page of *wanted* refunds after *cursor*, newest first.

        It looks at ``SEARCHED`` refunds at most.  So a page may be shorter than
        *limit*, or empty, and have a ``next_cursor``: the search goes on there.

        Raises:
            InvalidInputError: *limit* or *cursor* is out of range.
        """

    def open_refunds(self) -> Sequence[OpenRefunds]:
        """Return the open refunds, grouped by all other fields of ``OpenRefunds``."""

    def accepted_since(self, since: datetime) -> Mapping[tuple[str, str], int]:
        """Return how many refunds were accepted, by network and tenant."""

    def last_payments(self, chain_id: int, limit: int) -> Sequence[RecentPayment]:
        """Return the newest *limit* confirmed refunds, without sweeps."""

    def spent_lately(
        self, chain_id: int, tokens: Collection[str], tenant: str | None = None
    ) -> Mapping[str, SpentLately]:
        """
        Return what refunds reserved, by token; without *tenant*, those of all tenants.

        *tokens* are addresses, or ``GAS``.  The sums are in base units, or in gas.  The
        hours are those of the database's clock.
        """

    def last_results(
        self, chain_id: int, since: datetime, limit: int
    ) -> Sequence[tuple[str, Status, datetime]]:
        """
        Return tenant, status and time of the newest *limit* results, newest first.

        Results are ``confirmed`` and ``failed``.
        """

    def signed_by_tenant(
        self, chain_id: int, since: datetime
    ) -> Mapping[str, SignedTotals]:
        """
        Return what was signed, also sweeps and fillers, by tenant.

        A refund counts when its first transaction was signed.  Sweeps, which pay the
        wallet itself, count for their gas only.
        """


def read_pages(
    reports: RefundReports, wanted: RefundFilter, limit: int
) -> Iterator[Page]:
    """Yield all pages of *wanted* refunds, of at most *limit* each, newest first."""
    page = reports.search_refunds(wanted, limit=limit)
    yield page
    while page.next_cursor is not None:
        page = reports.search_refunds(wanted, limit=limit, cursor=page.next_cursor)
        yield page
