"""What administrators decide: approvals, accepted limits, stops and tenant blocks."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from signer.model.accepted_limits import AcceptedLimits
from signer.model.approval import Approval, ApprovalUse
from signer.model.audit_record import Record
from signer.model.stop import Stop
from signer.model.tenant_block import TenantBlock


class ControlStore(Protocol):
    """
    The decisions of administrators; raises as ``RefundStore``.

    Another program may change their rows, which are then not authentic.  Such an
    approval approves nothing, and such limits accept nothing.  Such a stop or block is
    in force.

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

    def stop(self, stop: Stop) -> bool:
        """
        Forbid signatures; return False if there is such a stop already, which stays.

        A stop that is not authentic is replaced.
        When this returns, no reservation and no intent to sign is in progress, except
        one that hangs for longer than a lock is waited for.
        """

    def resume_signing(
        self,
        chain_id: int,
        at: datetime,
        version: int | None = None,
        use: ApprovalUse | None = None,
    ) -> bool:
        """
        End the stop of *chain_id*, at *at*; return whether it was in force.

        *use* ends an approval in the same transaction.

        Raises:
            StaleStateError: The stop in force does not have the given *version*, or the
                approval has changed.
            RowNotAuthenticError: The stop is not authentic: ``stop`` first.
        """

    def stops(self) -> Sequence[Stop]:
        """Return the last stop of everything and of each chain, by chain id."""

    def find_stop(self, chain_id: int) -> Stop | None:
        """Return the stop that forbids signatures on *chain_id* now, if any."""

    def hold_changes(self) -> int:
        """
        Return how often stops and blocks have changed.

        Audit records of these changes have the number.  A process that starts takes no
        earlier state for the present one.
        """

    def raise_hold_changes(self, changes: int) -> None:
        """
        Count at least *changes* from now on.

        A restored ledger gets audit records of changes that its backup does not count.
        """

    def block_tenant(self, block: TenantBlock) -> bool:
        """
        Block a tenant; return False if it was already blocked.

        A block that is not authentic is replaced.
        When this returns, no reservation of the tenant's refunds is in progress, except
        one that hangs for longer than a lock is waited for.
        """

    def unblock_tenant(
        self,
        tenant: str,
        at: datetime,
        version: int | None = None,
        use: ApprovalUse | None = None,
    ) -> bool:
        """
        End the block of *tenant*, at *at*; return whether it was blocked.

        *use* ends an approval in the same transaction.

        Raises:
            StaleStateError: The block in force does not have the given *version*, or
                the approval has changed.
            RowNotAuthenticError: The block is not authentic: block the tenant first.
        """

    def tenant_block(self, tenant: str) -> TenantBlock | None:
        """Return the block of *tenant* that is in force, or None."""

    def tenant_blocks(self) -> Sequence[TenantBlock]:
        """Return every block that is in force, by name of the tenant."""

    def last_blocks(self) -> Sequence[TenantBlock]:
        """Return the last block of each tenant, also if it was ended."""
