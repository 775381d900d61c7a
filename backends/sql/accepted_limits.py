"""The limits of the configuration files with which processes may start."""

from sqlalchemy import Connection, select

from backends.sql.approvals import use_approval
from backends.sql.audit_rows import write
from backends.sql.database import Tables
from backends.sql.schema import accepted_limits
from backends.sql.sealed_rows import SealedRows, select_flagged
from signer.model.accepted_limits import AcceptedLimits
from signer.model.approval import ApprovalUse
from signer.model.audit_record import Record


_ROW = select(accepted_limits)


class LimitsTables(Tables):
    """Implements ``signer.ports.LimitsStore``."""

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
