"""Queues: the queued refunds of one network or of one tenant."""

from datetime import datetime

from sqlalchemy import Update, bindparam, literal_column, select, text, update

from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.schema import IS_CLAIMABLE, refunds
from signer.model.refund import FILLER, SWEEPER
from signer.model.refund_queue import Queue


PART = 1000
"""How many rows one transaction changes: others wait for it on SQLite."""


def _postpone(column: str) -> Update:
    # Literal text, so that both databases use the partial index of what is due.  The
    # expression keeps SQLite from an index of all queued refunds.  A row that another
    # process is changing is left to it, so none waits for another.
    due = (
        select(refunds.c.id)
        .where(
            text(IS_CLAIMABLE),
            text("status = 'queued'"),
            refunds.c.due_at <= bindparam("now", type_=UTCDateTime),
            refunds.c.tenant.not_in((SWEEPER, FILLER)),
            refunds.c[column] + literal_column("''") == bindparam("name"),
        )
        .limit(bindparam("at_most"))
        .with_for_update(skip_locked=True)
    )
    return (
        update(refunds)
        .where(refunds.c.id.in_(due))
        .values(
            version=refunds.c.version + 1,
            attempts=refunds.c.attempts + 1,
            due_at=bindparam("until", type_=UTCDateTime),
            blocked_by=bindparam("code", type_=refunds.c.blocked_by.type),
        )
    )


POSTPONE = {column: _postpone(column) for column in ("network", "tenant")}


class QueueTables(Tables):
    """The queues of ``signer.ports.Store``."""

    def postpone_queue(
        self, queue: Queue, *, now: datetime, until: datetime, code: str
    ) -> int:
        change = POSTPONE[queue.owner]
        params = {"name": queue.name, "now": now, "until": until, "code": code}
        params["at_most"] = PART
        postponed, part = 0, PART
        while part == PART:
            part = self._database.write(lambda c: c.execute(change, params).rowcount)
            postponed += part
        return postponed
