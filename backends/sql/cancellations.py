"""Requests to cancel refunds without a nonce, which a worker carries out."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, text, update

from backends.sql.audit_rows import write
from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.refund_rows import REFUNDS, read_refunds
from backends.sql.tables import refunds, state_in
from signer.model.audit_record import Record
from signer.model.refund import UNRESERVED, Refund


# Literal text, so that both databases use the partial index.
_IS_CANCELLABLE = state_in(*(each.state for each in UNRESERVED))

REQUESTED = (
    REFUNDS.where(
        text(f"{_IS_CANCELLABLE} AND cancel_requested_at IS NOT NULL"),
        refunds.c.id > bindparam("after"),
    )
    .order_by(refunds.c.id)
    .limit(bindparam("at_most"))
)

_REQUEST = (
    update(refunds)
    .where(
        refunds.c.id == bindparam("refund_id"),
        text(f"{_IS_CANCELLABLE} AND cancel_requested_at IS NULL"),
    )
    .values(cancel_requested_at=bindparam("at", type_=UTCDateTime))
)


class CancellationTables(Tables):
    """Implements ``signer.ports.RefundStore``."""

    def request_cancellation(
        self, refund: Refund, at: datetime, record: Record
    ) -> bool:
        self._macs.require(refund)
        params = {"refund_id": refund.id, "at": at}

        def work(connection: Connection) -> bool:
            if connection.execute(_REQUEST, params).rowcount != 1:
                return False
            write(connection, self._macs, record)
            return True

        return self._database.transaction(work)

    def cancellation_requests(
        self, limit: int, after: str | None = None
    ) -> Sequence[Refund]:
        rows = self._database.rows(REQUESTED, after=after or "", at_most=limit)
        return read_refunds(rows)
