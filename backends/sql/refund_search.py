"""Searches among the refunds of all tenants, for operators."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    Case,
    ColumnElement,
    Select,
    Subquery,
    and_,
    bindparam,
    case,
    func,
    select,
    text,
)

from backends.sql.columns import UINT256_MAX
from backends.sql.database import Tables
from backends.sql.schema import IS_OPEN, refunds, status_in
from backends.sql.validation import is_storable, require_page
from signer.model.refund import EPOCH, Page, Refund, Status, id_prefix
from signer.ports.refund_search import SEARCHED, RefundFilter


_MOST_DECIMALS = 36  # Of a token, as ``signer/config/networks.py`` allows.

_MILLISECOND = timedelta(milliseconds=1)

# Between them, an id can have the time, and a little more or less.
_FIRST = EPOCH + timedelta(days=1)
_LAST = datetime(9999, 1, 1, tzinfo=UTC)


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
    select(refunds)
    .join(
        _TENANTS,
        and_(
            refunds.c.tenant == _TENANTS.c.tenant,
            refunds.c.reference == bindparam("name"),
        ),
    )
    .order_by(refunds.c.id.desc())
    .limit(bindparam("at_most"))
)


def looked_at(wanted: RefundFilter, *, has_cursor: bool) -> Select[Any]:
    """
    Return the query for the refunds among which *wanted* is looked for, newest first.

    It has the conditions of *wanted* that an index serves.  An id begins with the time
    of the acceptance.
    """
    query = select(refunds)
    if has_cursor:
        query = query.where(refunds.c.id < bindparam("cursor"))
    if wanted.accepted_from is not None:
        query = query.where(refunds.c.id >= bindparam("first_id"))
    if wanted.accepted_before is not None:
        query = query.where(refunds.c.id < bindparam("end_id"))
    if wanted.tenant is not None:
        query = query.where(refunds.c.tenant == bindparam("of_tenant"))
        if wanted.payment_session_id is not None:
            query = query.where(refunds.c.payment_session_id == bindparam("session"))
        elif wanted.status is not None:
            query = query.where(refunds.c.status == wanted.status)
    elif wanted.status is not None and not wanted.status.is_final:
        # Literals, so that both planners use the index of open refunds.
        query = query.where(text(IS_OPEN), text(status_in(frozenset({wanted.status}))))
    return query.order_by(refunds.c.id.desc())


def found_among(wanted: RefundFilter, *, has_cursor: bool) -> Select[Any]:
    """Return the query for the *wanted* refunds among those of ``looked_at``."""
    if wanted == _served_by_index(wanted):
        return looked_at(wanted, has_cursor=has_cursor).limit(bindparam("at_most"))
    part = looked_at(wanted, has_cursor=has_cursor).limit(SEARCHED).subquery()
    query = select(part).where(*_conditions(wanted, part))
    return query.order_by(part.c.id.desc()).limit(bindparam("at_most"))


def _served_by_index(wanted: RefundFilter) -> RefundFilter:
    """Return the conditions of *wanted* with which a page needs no other rows."""
    if wanted.tenant is None:
        return RefundFilter()
    session = wanted.payment_session_id
    status = None if session is not None else wanted.status
    return RefundFilter(wanted.tenant, status, payment_session_id=session)


def _conditions(wanted: RefundFilter, part: Subquery) -> Iterator[ColumnElement[bool]]:
    columns = part.c
    for name in ("status", "recipient", "payment_session_id", "network"):
        value = getattr(wanted, name)
        if value is not None:
            yield columns[name] == value
    if wanted.accepted_from is not None:
        yield columns.created_at >= wanted.accepted_from
    if wanted.accepted_before is not None:
        yield columns.created_at < wanted.accepted_before
    if wanted.min_amount:  # Every amount is at least 0.
        yield columns.amount > _in_units(wanted.min_amount, part, minus=1)
    if wanted.max_amount is not None:
        yield columns.amount <= _in_units(wanted.max_amount, part)


def _in_units(amount: Decimal, part: Subquery, *, minus: int = 0) -> Case[Any]:
    """
    Return the largest number of base units of each row's token up to *amount*.

    With *minus* 1 it is less than *amount*, so that what is more reaches *amount*.
    """
    numerator, denominator = amount.as_integer_ratio()
    units = {}
    for decimals in range(_MOST_DECIMALS + 1):
        bound = (numerator * 10**decimals - minus) // denominator
        value = min(bound, UINT256_MAX)
        units[decimals] = bindparam(None, value, type_=part.c.amount.type)
    return case(units, value=part.c.decimals)


def parameters(wanted: RefundFilter, cursor: str | None) -> Mapping[str, str]:
    """Return the values of the parameters that the queries for *wanted* have."""
    start, end = wanted.accepted_from, wanted.accepted_before
    # A millisecond more on both sides: older versions rounded the time in ids.
    texts = {
        "of_tenant": wanted.tenant,
        "session": wanted.payment_session_id,
        "cursor": cursor,
        "first_id": None
        if start is None
        else id_prefix(max(start, _FIRST) - _MILLISECOND),
        "end_id": None
        if end is None
        else id_prefix(min(end, _LAST) + 2 * _MILLISECOND),
    }
    return {name: value for name, value in texts.items() if value is not None}


class SearchTables(Tables):
    """Implements ``signer.ports.RefundSearch``."""

    def list(
        self,
        tenant: str,
        *,
        payment_session_id: str | None = None,
        status: Status | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        wanted = RefundFilter(tenant, status, payment_session_id=payment_session_id)
        return self.search_refunds(wanted, limit=limit, cursor=cursor)

    def search_refunds(
        self, wanted: RefundFilter, *, limit: int, cursor: str | None = None
    ) -> Page:
        require_page(limit, cursor)
        given = parameters(wanted, cursor)
        texts = wanted.recipient or "", wanted.network or "", *given.values()
        if not all(map(is_storable, texts)):
            return Page((), None)
        has_cursor = cursor is not None
        query = found_among(wanted, has_cursor=has_cursor)
        rows = self._database.rows(query, **given, at_most=limit + 1)
        found = tuple(Refund(*row) for row in rows)
        if len(found) > limit:
            return Page(found[:limit], found[limit - 1].id)
        if wanted == _served_by_index(wanted):
            return Page(found, None)
        # A refund that was inserted since then only moves this one to a newer one, so
        # the next page repeats some, and leaves none out.
        last = looked_at(wanted, has_cursor=has_cursor).with_only_columns(refunds.c.id)
        last = last.offset(SEARCHED - 1).limit(1)
        ends = self._database.rows(last, **given)
        return Page(found, ends[0].id if ends else None)

    def find_by_reference(self, reference: str, limit: int) -> Sequence[Refund]:
        if not is_storable(reference):
            return ()
        rows = self._database.rows(BY_REFERENCE, name=reference, at_most=limit)
        return tuple(Refund(*row) for row in rows)
