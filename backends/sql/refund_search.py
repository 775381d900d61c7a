"""Searches among the refunds of all tenants, for operators."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, and_, bindparam, func, select, text

from backends.sql.database import Tables
from backends.sql.schema import IS_OPEN, refunds, status_in
from backends.sql.validation import is_storable, require_page
from signer.model.refund import Page, Refund
from signer.ports.refund_search import SEARCHED, RefundFilter


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

    It has the conditions of *wanted* that an index serves.
    """
    query = select(refunds)
    if has_cursor:
        query = query.where(refunds.c.id < bindparam("cursor"))
    if wanted.tenant is not None:
        query = query.where(refunds.c.tenant == bindparam("of_tenant"))
        if wanted.status is not None:
            query = query.where(refunds.c.status == wanted.status)
    elif wanted.status is not None and not wanted.status.is_final:
        # Literals, so that both planners use the index of open refunds.
        query = query.where(text(IS_OPEN), text(status_in(frozenset({wanted.status}))))
    return query.order_by(refunds.c.id.desc())


def found_among(wanted: RefundFilter, *, has_cursor: bool) -> Select[Any]:
    """Return the query for the *wanted* refunds among those of ``looked_at``."""
    part = looked_at(wanted, has_cursor=has_cursor).limit(SEARCHED).subquery()
    query = select(part)
    if wanted.status is not None:
        query = query.where(part.c.status == wanted.status)
    if wanted.recipient is not None:
        query = query.where(part.c.recipient == bindparam("to"))
    return query.order_by(part.c.id.desc()).limit(bindparam("at_most"))


class SearchTables(Tables):
    """Implements ``signer.ports.RefundSearch``."""

    def search_refunds(
        self, wanted: RefundFilter, *, limit: int, cursor: str | None = None
    ) -> Page:
        require_page(limit, cursor)
        texts = {"of_tenant": wanted.tenant, "to": wanted.recipient, "cursor": cursor}
        given = {name: value for name, value in texts.items() if value is not None}
        if not all(map(is_storable, given.values())):
            return Page((), None)
        has_cursor = cursor is not None
        query = found_among(wanted, has_cursor=has_cursor)
        rows = self._database.rows(query, at_most=limit + 1, **given)
        found = tuple(Refund(*row) for row in rows)
        if len(found) > limit:
            return Page(found[:limit], found[limit - 1].id)
        # A refund that was inserted since then only moves this one to a newer one, so
        # the next page repeats some, and leaves none out.
        last = looked_at(wanted, has_cursor=has_cursor).with_only_columns(refunds.c.id)
        given.pop("to", None)
        ends = self._database.rows(last.offset(SEARCHED - 1).limit(1), **given)
        return Page(found, ends[0].id if ends else None)

    def find_by_reference(self, reference: str, limit: int) -> Sequence[Refund]:
        if not is_storable(reference):
            return ()
        rows = self._database.rows(BY_REFERENCE, name=reference, at_most=limit)
        return tuple(Refund(*row) for row in rows)
