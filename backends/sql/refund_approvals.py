"""The approvals that refunds wait for: stored with them, and required for a nonce."""

from collections.abc import Collection

from sqlalchemy import (
    Connection,
    bindparam,
    exists,
    func,
    insert,
    literal_column,
    select,
    text,
)

from backends.sql import audit_rows
from backends.sql.columns import UTCDateTime
from backends.sql.refund_rows import REFUNDS
from backends.sql.sealed_rows import SealedRows, select_flagged
from backends.sql.tables import PROPOSED, approvals, refunds
from signer.model.acceptance import ProposedApproval
from signer.model.approval import Approval, ApprovalState
from signer.row_macs import RowMACs


_PROPOSE = insert(approvals).values(
    {name: bindparam(name, type_=approvals.c[name].type) for name in PROPOSED}
)

_OF_PROPOSALS = select(approvals).where(
    approvals.c.digest.in_(bindparam("digests", expanding=True))
)

_of_refund = exists().where(approvals.c.refund_id == refunds.c.id)
_waits = _of_refund.where(
    text("approvals.state = 'waiting'"),
    approvals.c.expires_at > bindparam("now", type_=UTCDateTime),
    # Another program may have changed the end.
    refunds.c.updated_at > bindparam("since", type_=UTCDateTime),
)

# Literal text, so that both databases use the partial index.
DECIDED = (
    REFUNDS.where(
        text("refunds.state = 'awaiting-approval'"),
        refunds.c.due_at <= bindparam("now", type_=UTCDateTime),
        ~_waits | _of_refund.where(text("approvals.state <> 'waiting'")),
    )
    # Tenants take turns: the proposals of one may all expire at the same time.
    .order_by(
        func.row_number().over(
            # The expression keeps SQLite from the index of all refunds.
            partition_by=refunds.c.tenant + literal_column("''"),
            order_by=refunds.c.id,
        ),
        refunds.c.id,
    )
    .limit(bindparam("at_most"))
)


def propose(connection: Connection, macs: RowMACs, proposed: ProposedApproval) -> None:
    """Store *proposed* in the transaction of *connection*, which inserts its refund."""
    row = macs.sealed(proposed.approval)
    connection.execute(_PROPOSE, {name: getattr(row, name) for name in PROPOSED})
    audit_rows.write(connection, macs, proposed.record)


def find_approved(
    connection: Connection, macs: RowMACs, digests: Collection[str]
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
