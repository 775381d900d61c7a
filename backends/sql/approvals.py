"""What administrators asked for, and what others decided."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select, text

from backends.sql.audit_rows import write
from backends.sql.database import Tables
from backends.sql.sealed_rows import SealedRows, select_flagged
from backends.sql.tables import accepted_limits, approvals, refunds
from signer.model.approval import Approval, ApprovalUse
from signer.model.audit_record import Record
from signer.model.worker_row import AcceptedLimits
from signer.row_macs import RowMACs


_OF_PROPOSAL = select(approvals).where(approvals.c.digest == bindparam("of_digest"))

_OF_REFUND = (
    select(approvals)
    .where(approvals.c.refund_id == bindparam("of_refund"))
    .order_by(approvals.c.requested_at, approvals.c.digest)
)

_oldest_first = (approvals.c.requested_at, approvals.c.digest)

# Literal text, so that both databases use the partial index.
OPEN = (
    select(approvals)
    .outerjoin(refunds, refunds.c.id == approvals.c.refund_id)
    .where(text("approvals.state IN ('approved', 'waiting')"))
    .order_by(
        approvals.c.refund_id.is_not(None),
        func.row_number().over(
            partition_by=(approvals.c.refund_id.is_(None), refunds.c.tenant),
            order_by=_oldest_first,
        ),
        *_oldest_first,
    )
    .limit(bindparam("at_most"))
    .offset(bindparam("start"))
)

# No digit is higher than "f".
_LIKE = (
    select(approvals)
    .where(
        approvals.c.digest >= bindparam("prefix"),
        approvals.c.digest < bindparam("prefix") + "g",
    )
    .order_by(approvals.c.digest)
    .limit(bindparam("at_most"))
)


def use_approval(
    connection: Connection, macs: RowMACs, use: ApprovalUse | None
) -> None:
    """
    End the approval of *use*, in the transaction of the change that it allows.

    Raises:
        StaleStateError: It was rejected, used or replaced meanwhile.
    """
    if use is not None:
        rows = SealedRows(connection, macs, approvals, Approval)
        rows.replace(use.approval, use.done)
        write(connection, macs, use.record)


_ROW = select(accepted_limits)


class ApprovalTables(Tables):
    """The approvals and the accepted limits of ``ControlStore``."""

    def put_approval(
        self, before: Approval | None, after: Approval, record: Record
    ) -> None:
        def work(connection: Connection) -> None:
            rows = self._approval_rows(connection)
            if before is None:
                rows.insert(after)
            else:
                rows.replace(before, after)
            write(connection, self._macs, record)

        self._database.transaction(work)

    def find_approval(self, digest: str) -> Approval | None:
        found = self._select(_OF_PROPOSAL, of_digest=digest)
        return found[0] if found else None

    def approvals_of(self, refund_id: str) -> Sequence[Approval]:
        return self._select(_OF_REFUND, of_refund=refund_id)

    def open_approvals(self, start: int, limit: int) -> Sequence[Approval]:
        return self._select(OPEN, start=start, at_most=limit)

    def approvals_like(self, prefix: str, limit: int) -> Sequence[Approval]:
        return self._select(_LIKE, prefix=prefix, at_most=limit)

    def _select(self, query: Select[Any], **values: Any) -> Sequence[Approval]:
        found = self._database.run(
            lambda c: select_flagged(self._approval_rows(c), query, **values)
        )
        return tuple(each.verified() for each in found)

    def _approval_rows(self, connection: Connection) -> SealedRows[Approval]:
        return SealedRows(connection, self._macs, approvals, Approval)

    def accepted_limits(self) -> AcceptedLimits | None:
        found = self._database.run(lambda c: select_flagged(self._limits_rows(c), _ROW))
        return found[0] if found else None

    def accept_limits(
        self,
        before: AcceptedLimits | None,
        after: AcceptedLimits,
        record: Record,
        use: ApprovalUse | None = None,
    ) -> None:
        def work(connection: Connection) -> None:
            rows = self._limits_rows(connection)
            if before is None:
                rows.insert(after)
            else:
                rows.replace(before, after)
            use_approval(connection, self._macs, use)
            write(connection, self._macs, record)

        self._database.transaction(work)

    def _limits_rows(self, connection: Connection) -> SealedRows[AcceptedLimits]:
        return SealedRows(connection, self._macs, accepted_limits, AcceptedLimits)
