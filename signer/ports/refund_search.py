"""What operators look for among the refunds of all tenants."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from signer.model.refund import Page, Refund, Status


SEARCHED = 5_000
"""How many refunds one page of a search looks at, at most."""


@dataclass(frozen=True, slots=True)
class RefundFilter:
    """What a refund must have; None allows everything."""

    tenant: str | None = None
    status: Status | None = None
    recipient: str | None = None


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
