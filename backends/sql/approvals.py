"""What administrators and refunds asked for, and what others decided."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from backends.sql import audit_rows
from backends.sql.audit_rows import write
from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.refund_rows import REFUNDS
from backends.sql.tables import PROPOSED, accepted_limits, approvals, refunds
from backends.sql.versioned_rows import SealedRows, select_flagged
from signer.model.acceptance import ProposedApproval
from signer.model.approval import Approval, ApprovalState, ApprovalUse
from signer.model.audit_record import Record
from signer.model.worker_row import AcceptedLimits
from signer.row_macs import RowMACs


_OF_PROPOSAL = sa.select(approvals).where(
    approvals.c.digest == sa.bindparam("of_digest")
)

_OF_REFUND = (
    sa.select(approvals)
    .where(approvals.c.refund_id == sa.bindparam("of_refund"))
    .order_by(approvals.c.requested_at, approvals.c.digest)
)

_oldest_first = (approvals.c.requested_at, approvals.c.digest)

# Literal text, so that both databases use the partial index.
OPEN = (
    sa.select(approvals)
    .outerjoin(refunds, refunds.c.id == approvals.c.refund_id)
    .where(sa.text("approvals.state IN ('approved', 'waiting')"))
    .order_by(
        approvals.c.refund_id.is_not(None),
        sa.func.row_number().over(
            partition_by=(approvals.c.refund_id.is_(None), refunds.c.tenant),
            order_by=_oldest_first,
        ),
        *_oldest_first,
    )
    .limit(sa.bindparam("at_most"))
    .offset(sa.bindparam("start"))
)

# No digit is higher than "f".
_LIKE = (
    sa.select(approvals)
    .where(
        approvals.c.digest >= sa.bindparam("prefix"),
        approvals.c.digest < sa.bindparam("prefix") + "g",
    )
    .order_by(approvals.c.digest)
    .limit(sa.bindparam("at_most"))
)

_SIGNED = (
    sa.select(approvals)
    .where(
        approvals.c.signatures.is_not(None),
        approvals.c.decided_by.contains(sa.bindparam("name", type_=sa.String())),
    )
    .order_by(approvals.c.decided_at.desc(), approvals.c.digest)
    .limit(sa.bindparam("at_most"))
)


def use_approval(
    connection: sa.Connection, macs: RowMACs, use: ApprovalUse | None
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


_ROW = sa.select(accepted_limits)


class ApprovalTables(Tables):
    """The approvals and the accepted limits of ``ControlStore``."""

    def put_approval(
        self, before: Approval | None, after: Approval, record: Record
    ) -> None:
        def work(connection: sa.Connection) -> None:
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

    def signed_approvals(self, name: str, limit: int) -> Sequence[Approval]:
        return self._select(_SIGNED, name=name, at_most=limit)

    def _select(self, query: sa.Select[Any], **values: Any) -> Sequence[Approval]:
        found = self._database.run(
            lambda c: select_flagged(self._approval_rows(c), query, **values)
        )
        return tuple(each.verified() for each in found)

    def _approval_rows(self, connection: sa.Connection) -> SealedRows[Approval]:
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
        def work(connection: sa.Connection) -> None:
            rows = self._limits_rows(connection)
            if before is None:
                rows.insert(after)
            else:
                rows.replace(before, after)
            use_approval(connection, self._macs, use)
            write(connection, self._macs, record)

        self._database.transaction(work)

    def _limits_rows(self, connection: sa.Connection) -> SealedRows[AcceptedLimits]:
        return SealedRows(connection, self._macs, accepted_limits, AcceptedLimits)


_PROPOSE = sa.insert(approvals).values(
    {name: sa.bindparam(name, type_=approvals.c[name].type) for name in PROPOSED}
)

_OF_PROPOSALS = sa.select(approvals).where(
    approvals.c.digest.in_(sa.bindparam("digests", expanding=True))
)

_of_refund = sa.exists().where(approvals.c.refund_id == refunds.c.id)
_waits = _of_refund.where(
    sa.text("approvals.state = 'waiting'"),
    approvals.c.expires_at > sa.bindparam("now", type_=UTCDateTime),
    # Another program may have changed the end.
    refunds.c.updated_at > sa.bindparam("since", type_=UTCDateTime),
)

# Literal text, so that both databases use the partial index.
DECIDED = (
    REFUNDS.where(
        sa.text("refunds.state = 'awaiting-approval'"),
        refunds.c.due_at <= sa.bindparam("now", type_=UTCDateTime),
        ~_waits | _of_refund.where(sa.text("approvals.state <> 'waiting'")),
    )
    # Tenants take turns: the proposals of one may all expire at the same time.
    .order_by(
        sa.func.row_number().over(
            # The expression keeps SQLite from the index of all refunds.
            partition_by=refunds.c.tenant + sa.literal_column("''"),
            order_by=refunds.c.id,
        ),
        refunds.c.id,
    )
    .limit(sa.bindparam("at_most"))
)


def propose(
    connection: sa.Connection, macs: RowMACs, proposed: ProposedApproval
) -> None:
    """Store *proposed* in the transaction of *connection*, which inserts its refund."""
    row = macs.sealed(proposed.approval)
    connection.execute(_PROPOSE, {name: getattr(row, name) for name in PROPOSED})
    audit_rows.write(connection, macs, proposed.record)


def find_approved(
    connection: sa.Connection, macs: RowMACs, digests: Collection[str]
) -> Collection[str]:
    """Return those of *digests* whose proposals are approved and were not changed."""
    if not digests:
        return ()
    rows = SealedRows(connection, macs, approvals, Approval)
    found = select_flagged(rows, _OF_PROPOSALS, digests=sorted(digests))
    return {
        each.digest
        for each in found
        if each.is_authentic and each.state is ApprovalState.DONE
    }
