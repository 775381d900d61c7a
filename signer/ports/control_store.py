"""What administrators decide: approvals, accepted limits, and holds."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from signer.model.approval import Approval, ApprovalUse
from signer.model.audit_record import Record
from signer.model.hold import Hold
from signer.model.worker_row import AcceptedLimits


class ControlStore(Protocol):
    """
    The decisions of administrators; raises as ``RefundStore``.

    Another program may change their rows, which are then not authentic.  Such an
    approval approves nothing, and such limits accept nothing.  Such a hold is in force.

    Reservations, intents to sign and signed bytes are committed only while no stop is
    in force: ``RefundStore.reserve_all``, ``RefundStore.save`` and ``Journal.append``
    check it.
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

    def signed_approvals(self, name: str, limit: int) -> Sequence[Approval]:
        """Return the newest *limit* with signatures that may be of the actor *name*."""

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

    def begin_hold(self, new: Hold) -> bool:
        """
        Begin a hold; return False if one of its name is in force, which stays.

        A hold that is not authentic is replaced.  When this returns, no reservation and
        no intent to sign that it forbids is in progress, except one that hangs for
        longer than a lock is waited for.
        """

    def end_hold(
        self,
        name: str,
        at: datetime,
        version: int | None = None,
        use: ApprovalUse | None = None,
    ) -> bool:
        """
        End the hold *name*, at *at*; return whether it was in force.

        *use* ends an approval in the same transaction.

        Raises:
            StaleStateError: The hold in force does not have the given *version*, or the
                approval has changed.
            RowNotAuthenticError: The hold is not authentic: ``begin_hold`` first.
        """

    def stops(self) -> Sequence[Hold]:
        """Return the last stops: of everything, of chains by id, and of tokens."""

    def find_stop(self, chain_id: int, named: str = "") -> Hold | None:
        """
        Return the stop that forbids signatures on *chain_id* now, if any.

        *named* is what ``Hold.forbids`` looks for stopped tokens in.
        """

    def blocks(self) -> Sequence[Hold]:
        """Return every block that is in force, by name of the tenant."""

    def last_blocks(self) -> Sequence[Hold]:
        """Return the last block of each tenant, also if it was ended."""

    def find_block(self, tenant: str) -> Hold | None:
        """Return the block of *tenant* that is in force, or None."""

    def hold_changes(self) -> int:
        """
        Return how often holds have changed, at least.

        Audit records of these changes have the number.  A process takes no earlier
        state than those for the present one.
        """

    def raise_hold_changes(self, changes: int) -> None:
        """
        Count at least *changes* from now on.

        A restored ledger gets audit records of changes that its backup does not count.
        """
