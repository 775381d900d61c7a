"""What the core asks of the ledger about approvals."""

from collections.abc import Sequence
from typing import Protocol

from signer.model.approval import Approval
from signer.model.audit_record import Record


class ApprovalStore(Protocol):
    """
    One row for each proposal of an administrator; raises as ``Store``.

    A row that another program changed is not authentic, and approves nothing.
    """

    def put_approval(
        self, before: Approval | None, after: Approval, record: Record
    ) -> None:
        """
        Store *after* in place of *before*, and *record*, in one transaction.

        Without *before*, there must be no row of the proposal.

        Raises:
            StaleStateError: The stored row is not *before*.
        """

    def find_approval(self, digest: str) -> Approval | None:
        """Return the row of the proposal with *digest*, or None."""

    def approvals_of(self, refund_id: str) -> Sequence[Approval]:
        """Return the rows that name the refund *refund_id*, in any state."""

    def open_approvals(self, start: int, limit: int) -> Sequence[Approval]:
        """
        Return rows that are not done, rejected or expired, from number *start* on.

        What administrators asked for comes first, then refunds, in which tenants take
        turns; of each, the oldest first.
        """

    def approvals_like(self, prefix: str, limit: int) -> Sequence[Approval]:
        """Return rows whose digests begin with *prefix*, in any state."""
