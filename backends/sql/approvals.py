"""What administrators asked for, and what others decided."""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select, text

from backends.sql import audit
from backends.sql.database import Tables
from backends.sql.schema import approvals
from backends.sql.sealed_rows import SealedRows, select_flagged
from signer.model.approval import Approval
from signer.model.audit_record import Record


_OF_PROPOSAL = select(approvals).where(approvals.c.digest == bindparam("of_digest"))

# Literal text, so that both databases use the partial index.
_OPEN = (
    select(approvals)
    .where(text("state IN ('approved', 'executing', 'waiting')"))
    .order_by(approvals.c.requested_at)
    .limit(bindparam("at_most"))
)


class ApprovalTables(Tables):
    """Implements ``signer.ports.ApprovalStore``."""

    def put_approval(
        self, before: Approval | None, after: Approval, record: Record
    ) -> None:
        def work(connection: Connection) -> None:
            rows = self._approval_rows(connection)
            if before is None:
                rows.insert(after)
            else:
                rows.replace(before, after)
            audit.write(connection, self._macs, record)

        self._database.transaction(work)

    def find_approval(self, digest: str) -> Approval | None:
        found = self._database.run(
            lambda c: select_flagged(
                self._approval_rows(c), _OF_PROPOSAL, of_digest=digest
            )
        )
        return found[0] if found else None

    def open_approvals(self, limit: int) -> Sequence[Approval]:
        return self._database.run(
            lambda c: select_flagged(self._approval_rows(c), _OPEN, at_most=limit)
        )

    def _approval_rows(self, connection: Connection) -> SealedRows[Approval]:
        return SealedRows(connection, self._macs, approvals, Approval)
