"""What the core asks of the ledger about the limits of the configuration files."""

from typing import Protocol

from signer.model.accepted_limits import AcceptedLimits
from signer.model.approval import ApprovalUse
from signer.model.audit_record import Record


class LimitsStore(Protocol):
    """
    One row: the limits with which processes may start; raises as ``Store``.

    A row that another program changed is not authentic, and accepts nothing.
    """

    def accepted_limits(self) -> AcceptedLimits | None:
        """Return the row; None in a ledger with which no worker has started."""

    def accept_limits(
        self,
        before: AcceptedLimits | None,
        after: AcceptedLimits,
        record: Record,
        use: ApprovalUse | None = None,
    ) -> None:
        """
        Store *after* in place of *before*, and *record*, in one transaction.

        The approval *use* ends in it.

        Without *before*, there must be no row.

        Raises:
            StaleStateError: The stored row is not *before*.
        """
