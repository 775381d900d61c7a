"""What operators look for among the refunds of all tenants."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Protocol

from signer.model.refund import Page, Refund, Status


SEARCHED = 5_000
"""How many refunds one page of a search looks at, at most."""


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


class RefundSearch(Protocol):
    """Finds refunds.  The cost does not grow with the ledger."""

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

    def find_by_reference(self, reference: str, limit: int) -> Sequence[Refund]:
        """Return up to *limit* refunds of any tenants that have *reference*."""
