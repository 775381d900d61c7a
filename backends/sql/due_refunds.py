"""
The refunds that a worker takes next, and how it claims them.

Tenants take turns: however many refunds one of them has in the queue, the first due
refund of another is in the next claim, unless more tenants have a queue than a claim
has places.  Then those that have waited longest come first.

What has a nonce is no tenant's turn, since transactions with higher nonces wait for it.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    ScalarSelect,
    Select,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    text,
    true,
    tuple_,
    union_all,
    update,
)

from backends.sql.columns import UTCDateTime
from backends.sql.schema import IS_CLAIMABLE, refunds, status_in
from signer.model.refund import UNRESERVED, UNSENT, Status


# Literal text, so that both databases use the partial indexes.
IS_QUEUED = status_in(frozenset({Status.QUEUED}))
_HAS_NONCE = status_in((UNSENT | {Status.BROADCAST}) - UNRESERVED)

_now = bindparam("now", type_=UTCDateTime)
_far = bindparam("far", type_=UTCDateTime)
_beginning = bindparam(None, datetime(1, 1, 1, tzinfo=UTC), type_=UTCDateTime)
_end = bindparam(None, datetime(9999, 12, 31, tzinfo=UTC), type_=UTCDateTime)
_at_most = bindparam("at_most", type_=Integer)
_ahead = bindparam("ahead", type_=Integer)


def tenants_in_queue() -> CTE:
    """Return the tenants of queued refunds: one jump in the index leads to the next."""
    first = select(func.min(refunds.c.tenant).label("tenant")).where(text(IS_QUEUED))
    # Nested: sqlite3 counts no rows of an update that begins with WITH.
    found = first.cte("tenants", recursive=True, nesting=True)
    row = refunds.alias("later")
    following = select(func.min(row.c.tenant)).where(
        text(f"later.{IS_QUEUED}"), row.c.tenant > found.c.tenant
    )
    jump = select(following.scalar_subquery()).where(found.c.tenant.is_not(None))
    return found.union_all(jump)


def _due_at(refund_id: ColumnElement[str]) -> ScalarSelect[datetime]:
    row = refunds.alias("dated")
    found = select(row.c.due_at).where(row.c.id == refund_id)
    return found.correlate_except(row).scalar_subquery()


def _next_id(
    place: Any, due_at: ColumnElement[datetime], refund_id: ColumnElement[str]
) -> ScalarSelect[str]:
    """Return the id of the queued refund that follows one at *place*, if it is due."""
    row = refunds.alias("following")
    return (
        select(row.c.id)
        .where(
            text(f"following.{IS_QUEUED}"),
            row.c.tenant == place.tenant,
            tuple_(row.c.due_at, row.c.id) > tuple_(due_at, refund_id),
            row.c.due_at <= place.until,
        )
        .order_by(row.c.due_at, row.c.id)
        .limit(literal_column("1"))
        .correlate_except(row)
        .scalar_subquery()
    )


def _turns() -> Select[Any]:
    """
    Return the query for due refunds in the queue, and in which turn each is taken.

    Both databases yield the rows of a recursive query turn by turn and stop after the
    last one that is asked for, so the cost does not grow with the queue.  There are no
    joins, for which PostgreSQL might read the whole table.
    """
    tenants = tenants_in_queue()
    past = select(_beginning.label("since"), _now.label("until"))
    ranges = union_all(past, select(_far, _end)).subquery("ranges")
    places = (
        select(tenants.c.tenant, ranges.c.since, ranges.c.until)
        .join_from(tenants, ranges, true())
        .subquery("places")
    )
    # After every id: what is due at ``far`` is not due yet.
    first = _next_id(places.c, places.c.since, literal_column("'~'"))
    heads = select(
        places.c.tenant,
        places.c.until,
        first.label("id"),
        literal_column("1", Integer).label("turn"),
    ).subquery("heads")
    oldest = (
        select(heads)
        .where(heads.c.id.is_not(None))
        .order_by(_due_at(heads.c.id))
        .limit(_at_most)
    )
    turns = select(oldest.subquery("oldest")).cte("turns", recursive=True)
    following = select(
        turns.c.tenant,
        turns.c.until,
        _next_id(turns.c, _due_at(turns.c.id), turns.c.id),
        turns.c.turn + 1,
    ).where(turns.c.id.is_not(None), turns.c.turn < _at_most)
    turns = turns.union_all(following)
    found = select(turns.c.id, turns.c.turn).where(turns.c.id.is_not(None))
    return found.limit(_at_most)


def _with_nonces() -> list[Select[Any]]:
    """
    Return the queries for due refunds that have a nonce, and their turns.

    The first ``ahead`` come before the tenants' turns.  For both ranges in one
    condition, SQLite would read all of the index.
    """
    parts = []
    for range_ in (refunds.c.due_at <= _now, refunds.c.due_at > _far):
        part = select(refunds.c.id, refunds.c.due_at).where(text(_HAS_NONCE), range_)
        first = part.order_by(refunds.c.due_at).limit(_at_most).subquery()
        turn = func.row_number().over(order_by=first.c.due_at) - _ahead
        parts.append(select(first.c.id, turn.label("turn")))
    return parts


def _due() -> Select[Any]:
    turns = select(_turns().subquery())
    found = union_all(*_with_nonces(), turns).subquery("found")
    return (
        select(found.c.id, found.c.turn)
        .order_by(found.c.turn, _due_at(found.c.id))
        .limit(_at_most)
    )


DUE = _due()
"""
The ids and turns of up to ``at_most`` due refunds, in the order in which to take them.

Up to ``ahead`` of those that have a nonce come first.
It reads what is due only, however many refunds wait.
"""

_free = (
    select(refunds.c.id)
    .where(
        refunds.c.id.in_(bindparam("ids", expanding=True)),
        # Again: another process may have claimed it since it was found.
        text(IS_CLAIMABLE),
        or_(refunds.c.due_at <= _now, refunds.c.due_at > _far),
    )
    .with_for_update(skip_locked=True)
)

CLAIM = (
    update(refunds)
    .where(refunds.c.id.in_(_free))
    .values(
        version=refunds.c.version + 1,
        due_at=bindparam("until", type_=UTCDateTime),
    )
    .returning(refunds)
)
"""
Claims those of ``ids`` that are due, and that no other process is claiming.

PostgreSQL skips the rows that another process has locked.  SQLite has one writer at a
time, so there are none.
"""


def share(due: Sequence[tuple[str, int]]) -> Sequence[str]:
    """
    Return the ids of *due* refunds in the turns that all tenants with one have.

    So a batch is as short as that of the tenant with the fewest refunds, and the others
    have the next one for themselves.

    >>> share([("rf_1", 0), ("rf_2", 1), ("rf_3", 1), ("rf_4", 2)])
    ['rf_1', 'rf_2', 'rf_3']
    >>> share([("rf_1", 1), ("rf_2", 2)])
    ['rf_1', 'rf_2']
    """
    tenants = Counter(turn for _, turn in due)
    last = max((turn for turn in tenants if tenants[turn] == tenants[1]), default=0)
    return [refund_id for refund_id, turn in due if turn <= last]
