"""Queues: the queued refunds of one network, of one tenant, or of a tenant's token."""

from datetime import datetime
from functools import cache

from sqlalchemy import Update, bindparam, select, text, update

from backends.sql.claim_order import IS_QUEUED, tenants_in_queue
from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.tables import IS_OF_TENANT, refunds
from signer.model.refund_queue import Queue


PART = 200
"""How many rows one transaction changes: others wait for it on SQLite."""


@cache
def postponing(*names: str) -> Update:
    """Return the statement that postpones the queue with the columns *names*."""
    # The index is that of a tenant's queued refunds.  A row that another process is
    # changing is left to it, so none waits for another.
    of_any = refunds.c.tenant.in_(select(tenants_in_queue().c.tenant))
    due = (
        select(refunds.c.id)
        .where(
            text(IS_QUEUED),
            refunds.c.due_at <= bindparam("now", type_=UTCDateTime),
            IS_OF_TENANT,
            *(refunds.c[name] == bindparam(f"of_{name}") for name in names),
            *(() if "tenant" in names else (of_any,)),
        )
        .order_by(refunds.c.due_at, refunds.c.id)
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


class QueueTables(Tables):
    """The queues of ``signer.ports.RefundStore``."""

    def postpone_queue(
        self, queue: Queue, *, now: datetime, until: datetime, code: str
    ) -> int:
        change = postponing(*queue.names)
        params = {
            **{f"of_{name}": value for name, value in queue.names.items()},
            "now": now,
            "until": until,
            "code": code,
            "at_most": PART,
        }
        postponed, part = 0, PART
        while part == PART:
            part = self._database.write(lambda c: c.execute(change, params).rowcount)
            postponed += part
        return postponed
