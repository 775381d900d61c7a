"""
The refunds and transactions that a worker takes next, and how it claims them.

Tenants take turns: however many refunds one of them has in the queue, the first due
refund of another is in the next claim, unless more tenants have a queue than a claim
has places.  Then those that have waited longest come first.

A transaction is no tenant's turn, since those with higher nonces wait for it.  Fillers
take turns as if they were of one more tenant: nothing is paid before they are mined.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.sql.dml import ReturningUpdate

from backends.sql.columns import UTCDateTime
from backends.sql.refund_rows import NONCE, pays_refund
from backends.sql.tables import (
    IS_CLAIMABLE,
    IS_FILLER,
    IS_OF_TENANT,
    refunds,
    state_in,
    transactions,
)
from signer.model.payment import PaymentState
from signer.model.refund import OPERATOR


# Literal text, so that both databases use the partial indexes.
IS_QUEUED = state_in(PaymentState.QUEUED)

_now = sa.bindparam("now", type_=UTCDateTime)
_far = sa.bindparam("far", type_=UTCDateTime)
_beginning = sa.bindparam(None, datetime(1, 1, 1, tzinfo=UTC), type_=UTCDateTime)
_end = sa.bindparam(None, datetime(9999, 12, 31, tzinfo=UTC), type_=UTCDateTime)
_at_most = sa.bindparam("at_most", type_=sa.Integer)
_places = sa.bindparam("places", type_=sa.Integer)
_full: sa.BindParameter[Any] = sa.bindparam("full", expanding=True)
_ahead = sa.bindparam("ahead", type_=sa.Integer)
_NO_ID = sa.cast(sa.null(), refunds.c.id.type)

T = TypeVar("T")

Taken = Callable[[Any], Sequence[sa.ColumnElement[bool]]]
"""Returns further conditions under which a row of ``refunds`` takes a turn."""


def _is_sweep(row: Any) -> sa.ColumnElement[bool]:
    condition: sa.ColumnElement[bool] = row.c.bound_sender.is_not(None)
    return condition


def tenants_in_queue() -> sa.CTE:
    """Return the tenants of queued refunds: one jump in the index leads to the next."""
    first = sa.select(sa.func.min(refunds.c.tenant).label("tenant")).where(
        sa.text(IS_QUEUED)
    )
    # Nested: sqlite3 counts no rows of an update that begins with WITH.
    found = first.cte("tenants", recursive=True, nesting=True)
    row = refunds.alias("later")
    following = sa.select(sa.func.min(row.c.tenant)).where(
        sa.text(f"later.{IS_QUEUED}"), row.c.tenant > found.c.tenant
    )
    jump = sa.select(following.scalar_subquery()).where(found.c.tenant.is_not(None))
    return found.union_all(jump)


def _due_at(refund_id: sa.ColumnElement[str]) -> sa.ScalarSelect[datetime]:
    row = refunds.alias("dated")
    found = sa.select(row.c.due_at).where(row.c.id == refund_id)
    return found.correlate_except(row).scalar_subquery()


def _next_id(
    place: Any,
    due_at: sa.ColumnElement[datetime],
    refund_id: sa.ColumnElement[str],
    is_taken: Taken,
) -> sa.ScalarSelect[str]:
    """Return the id of the queued refund that follows one at *place*, if it is due."""
    row = refunds.alias("following")
    return (
        sa.select(row.c.id)
        .where(
            sa.text(f"following.{IS_QUEUED}"),
            row.c.tenant == place.tenant,
            sa.tuple_(row.c.due_at, row.c.id) > sa.tuple_(due_at, refund_id),
            row.c.due_at <= place.until,
            *is_taken(row),
        )
        .order_by(row.c.due_at, row.c.id)
        .limit(sa.literal_column("1"))
        .correlate_except(row)
        .scalar_subquery()
    )


def _turns(tenants: sa.CTE, is_taken: Taken) -> sa.Select[Any]:
    """
    Return the query for due refunds of *tenants*, and in which turn each is taken.

    Both databases yield the rows of a recursive query turn by turn and stop after the
    last one that is asked for, so the cost does not grow with the queue.  There are no
    joins, for which PostgreSQL might read the whole table.
    """
    past = sa.select(_beginning.label("since"), _now.label("until"))
    ranges = sa.union_all(past, sa.select(_far, _end)).subquery("ranges")
    places = (
        sa.select(tenants.c.tenant, ranges.c.since, ranges.c.until)
        .join_from(tenants, ranges, sa.true())
        .subquery("places")
    )
    # After every id: what is due at ``far`` is not due yet.
    first = _next_id(places.c, places.c.since, sa.literal_column("'~'"), is_taken)
    heads = sa.select(
        places.c.tenant,
        places.c.until,
        first.label("id"),
        sa.literal_column("1", sa.Integer).label("turn"),
    ).subquery("heads")
    oldest = (
        sa.select(heads)
        .where(heads.c.id.is_not(None))
        .order_by(_due_at(heads.c.id))
        .limit(_places)
    )
    turns = sa.select(oldest.subquery("oldest")).cte("turns", recursive=True)
    following = sa.select(
        turns.c.tenant,
        turns.c.until,
        _next_id(turns.c, _due_at(turns.c.id), turns.c.id, is_taken),
        turns.c.turn + 1,
    ).where(turns.c.id.is_not(None), turns.c.turn < _places)
    turns = turns.union_all(following)
    found = sa.select(turns.c.id, turns.c.turn).where(turns.c.id.is_not(None))
    return found.limit(_places)


def _due_transactions() -> list[sa.Select[Any]]:
    """
    Return the queries for transactions that are due, their turns and due times.

    The first ``ahead`` that pay come before the tenants' turns.  For both ranges in one
    condition, SQLite would read all of the index.

    Another program may have ended a refund, whose transaction takes no place.
    """
    parts = []
    pays = pays_refund(refunds.c.state == PaymentState.ASSIGNED)
    for is_taken, ahead in ((pays, _ahead), (sa.text(IS_FILLER), 0)):
        for range_ in (transactions.c.due_at <= _now, transactions.c.due_at > _far):
            due = sa.select(transactions).where(sa.text(IS_CLAIMABLE), is_taken, range_)
            first = due.order_by(transactions.c.due_at).limit(_at_most).subquery()
            turn = sa.func.row_number().over(order_by=first.c.due_at) - ahead
            place = (turn.label("turn"), first.c.due_at, _NO_ID.label("id"))
            parts.append(sa.select(*place, *(first.c[name] for name in NONCE)))
    return parts


def _due(tenants: sa.CTE, is_taken: Taken = lambda _: ()) -> sa.Select[Any]:
    turn = _turns(tenants, is_taken).subquery()
    due_at = _due_at(turn.c.id).label("due_at")
    nonce = (sa.cast(sa.null(), transactions.c[name].type) for name in NONCE)
    turns = sa.select(turn.c.turn, due_at, turn.c.id, *nonce)
    found = sa.union_all(*_due_transactions(), turns).subquery("found")
    columns = (found.c.id, *(found.c[name] for name in NONCE), found.c.turn)
    order = found.c.turn, found.c.due_at
    return sa.select(*columns).order_by(*order).limit(_at_most)


DUE = _due(tenants_in_queue())
"""
The ids of up to ``at_most`` due refunds, or the nonces of transactions, with turns.

They are in the order in which to take them.  Up to ``ahead`` transactions come first,
and at most ``places`` are refunds.  It reads what is due only, however many refunds
wait.
"""

DUE_ELSEWHERE = _due(
    tenants_in_queue(),
    lambda row: (sa.or_(_is_sweep(row), row.c.chain_id.not_in(_full)),),
)
"""``DUE`` without the refunds of the chains ``full``, which it has to read."""

DUE_SWEEPS = _due(
    sa.select(sa.literal(OPERATOR).label("tenant")).cte("tenants", nesting=True),
    lambda row: (_is_sweep(row),),
)
"""``DUE`` with no other refunds than sweeps, which have other wallets."""

_ids: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)
_nonces: sa.BindParameter[Any] = sa.bindparam("nonces", expanding=True)


def _claim(table: sa.Table, is_claimable: str, found: Any) -> ReturningUpdate[Any]:
    """
    Return the statement that claims due rows of *table* that no other process claims.

    PostgreSQL skips the rows that another process has locked.  SQLite has one writer at
    a time, so there are none.
    """
    key = sa.tuple_(*table.primary_key)
    free = (
        sa.select(*table.primary_key)
        .where(
            found,
            # Again: another process may have claimed it since it was found.
            sa.text(is_claimable),
            sa.or_(table.c.due_at <= _now, table.c.due_at > _far),
        )
        .with_for_update(skip_locked=True)
    )
    return (
        sa.update(table)
        .where(key.in_(free))
        .values(
            version=table.c.version + 1,
            due_at=sa.bindparam("until", type_=UTCDateTime),
        )
        .returning(*table.c)
    )


CLAIM_QUEUED = _claim(refunds, IS_QUEUED, refunds.c.id.in_(_ids))
"""Claims those of the refunds ``ids`` that are queued and due; returns their rows."""

NEW_QUEUED = (
    sa.select(refunds)
    .where(sa.text(IS_QUEUED), refunds.c.version == 0, refunds.c.id.in_(_ids))
    .order_by(refunds.c.id)
)
"""Selects those of the refunds ``ids`` that no process has changed since they were
accepted."""

CLAIM_TRANSACTIONS = _claim(
    transactions, IS_CLAIMABLE, sa.tuple_(*transactions.primary_key).in_(_nonces)
)
"""Claims those of the transactions ``nonces`` that are due, and returns their rows."""


def share(due: Sequence[tuple[T, int]]) -> Sequence[T]:
    """
    Return those of what is *due* in the turns that all tenants with a refund have.

    So a batch is as short as that of the tenant with the fewest refunds, and the others
    have the next one for themselves.

    >>> share([("rf_1", 0), ("rf_2", 1), ("rf_3", 1), ("rf_4", 2)])
    ['rf_1', 'rf_2', 'rf_3']
    >>> share([("rf_1", 1), ("rf_2", 2)])
    ['rf_1', 'rf_2']
    """
    tenants = Counter(turn for _, turn in due)
    last = max((turn for turn in tenants if tenants[turn] == tenants[1]), default=0)
    return [each for each, turn in due if turn <= last]


PART = 200
"""How many rows one transaction changes: others wait for it on SQLite."""


@cache
def postponing(*names: str) -> sa.Update:
    """Return the statement that postpones the queue with the columns *names*."""
    # The index is that of a tenant's queued refunds.  A row that another process is
    # changing is left to it, so none waits for another.
    of_any = refunds.c.tenant.in_(sa.select(tenants_in_queue().c.tenant))
    due = (
        sa.select(refunds.c.id)
        .where(
            sa.text(IS_QUEUED),
            refunds.c.due_at <= sa.bindparam("now", type_=UTCDateTime),
            IS_OF_TENANT,
            *(refunds.c[name] == sa.bindparam(f"of_{name}") for name in names),
            *(() if "tenant" in names else (of_any,)),
        )
        .order_by(refunds.c.due_at, refunds.c.id)
        .limit(sa.bindparam("at_most"))
        .with_for_update(skip_locked=True)
    )
    return (
        sa.update(refunds)
        .where(refunds.c.id.in_(due))
        .values(
            version=refunds.c.version + 1,
            attempts=refunds.c.attempts + 1,
            due_at=sa.bindparam("until", type_=UTCDateTime),
            blocked_by=sa.bindparam("code", type_=refunds.c.blocked_by.type),
        )
    )
