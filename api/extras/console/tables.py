"""What the pages of the console read of the ledger, beside its ports."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, func, select

from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.refund_reports import id_at
from backends.sql.refund_rows import REFUNDS, STATUS, read_refunds
from backends.sql.tables import IS_OF_TENANT, refund_moves, refunds
from backends.sql.validation import is_storable
from signer.model.refund import Refund, Status


_accepted = (
    REFUNDS.with_only_columns(STATUS.label("status"))
    .where(
        refunds.c.id >= bindparam("first"),
        refunds.c.id < bindparam("last"),
        IS_OF_TENANT,
    )
    .limit(bindparam("at_most"))
    .subquery()
)

RESULTS = select(_accepted.c.status, func.count()).group_by(_accepted.c.status)

_move = refund_moves.c

# Grouped in the order of the primary key, so the limit ends the scan.
FIRST_BROADCASTS = (
    select(_move.refund_id, func.min(_move.at, type_=UTCDateTime))
    .where(
        _move.refund_id >= bindparam("first"),
        _move.refund_id < bindparam("last"),
        _move.status == Status.BROADCAST,
    )
    .group_by(_move.refund_id)
    .order_by(_move.refund_id.desc())
    .limit(bindparam("at_most"))
)


def _all_tenants() -> Any:
    """
    Return the query for the names of all tenants that have refunds.

    It skips through the index from one tenant to the next (a loose index scan), because
    ``DISTINCT`` reads every refund.
    """
    tenants = select(func.min(refunds.c.tenant).label("tenant")).cte(
        "tenants", recursive=True
    )
    following = (
        select(func.min(refunds.c.tenant))
        .where(refunds.c.tenant > tenants.c.tenant)
        .scalar_subquery()
    )
    return tenants.union_all(select(following).where(tenants.c.tenant.is_not(None)))


_TENANTS = _all_tenants()

BY_REFERENCE = (
    REFUNDS.join(
        _TENANTS,
        and_(
            refunds.c.tenant == _TENANTS.c.tenant,
            refunds.c.reference == bindparam("name"),
        ),
    )
    .order_by(refunds.c.id.desc())
    .limit(bindparam("at_most"))
)


class ConsoleTables(Tables):
    """Finds and counts refunds; each method uses an index."""

    def results_between(
        self, since: datetime, until: datetime, limit: int
    ) -> Mapping[Status, int]:
        """
        Return how many refunds have each status now, of those accepted in a period.

        *until* does not belong to it.  It looks at *limit* refunds at most, and counts
        neither sweeps nor fillers.
        """
        rows = self._database.rows(RESULTS, at_most=limit, **_ids(since, until))
        return {row[0]: row[1] for row in rows}

    def broadcast_seconds(
        self, since: datetime, until: datetime, limit: int
    ) -> Sequence[float]:
        """
        Return the seconds from acceptance to first broadcast, the fastest first.

        These are the newest *limit* refunds that were accepted from *since* to before
        *until* and broadcast.
        """
        params = {**_ids(since, until), "at_most": limit}
        rows = self._database.rows(FIRST_BROADCASTS, **params)
        return sorted(
            max(0.0, at.timestamp() - int(id_[3:15], 16) / 1000) for id_, at in rows
        )

    def find_by_reference(self, reference: str, limit: int) -> Sequence[Refund]:
        """Return up to *limit* refunds of any tenants that have *reference*."""
        if not is_storable(reference):
            return ()
        rows = self._database.rows(BY_REFERENCE, name=reference, at_most=limit)
        return read_refunds(rows)


def _ids(since: datetime, until: datetime) -> Mapping[str, str]:
    return {"first": id_at(since), "last": id_at(until)}
