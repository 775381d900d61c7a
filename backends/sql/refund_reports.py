"""Counts of refunds, for metrics, the runway and automatic stops; and searches."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from backends.sql.columns import UINT256_MAX, Named, UTCDateTime
from backends.sql.database import Tables
from backends.sql.refund_rows import (
    PAID,
    REFUNDS,
    STATUS,
    of_moving,
    read_refunds,
    same_nonce,
)
from backends.sql.spending import DATABASE_HOUR, HOURS
from backends.sql.tables import (
    IS_FILLER,
    IS_MOVABLE,
    IS_OF_TENANT,
    IS_OPEN,
    attempts,
    refunds,
    spendings,
    state_in,
    transactions,
)
from backends.sql.validation import is_storable, require_page
from signer.model.payment import PaymentState
from signer.model.refund import OPERATOR, Page, Status, id_prefix
from signer.model.transaction import EPOCH
from signer.ports.refund_reports import (
    SEARCHED,
    OpenRefunds,
    RecentPayment,
    RefundFilter,
    SignedTotals,
    SpentLately,
)


_RESULTS = state_in(PaymentState.CONFIRMED, PaymentState.FAILED)

_GROUP = (
    refunds.c.network,
    refunds.c.tenant,
    STATUS,
    of_moving("blocked_by"),
)

# An index has the transactions that are not final: otherwise PostgreSQL might read all.
_IS_MOVING = sa.and_(same_nonce(transactions, refunds), sa.text(IS_MOVABLE))

_OF_FILLER = (
    transactions.c.network,
    sa.type_coerce(transactions.c.status, Named(Status)),
    transactions.c.blocked_by,
)

_FILLERS = (
    sa.select(
        _OF_FILLER[0],
        sa.literal(OPERATOR),
        *_OF_FILLER[1:],
        sa.func.count(),
        sa.func.min(transactions.c.updated_at, type_=UTCDateTime),
    )
    .where(sa.text(IS_FILLER), sa.text(IS_MOVABLE))
    .group_by(*_OF_FILLER)
)

OPEN_REFUNDS = sa.union_all(
    sa.select(
        *_GROUP,
        sa.func.count(),
        sa.func.min(of_moving("updated_at"), type_=UTCDateTime),
    )
    .outerjoin_from(refunds, transactions, _IS_MOVING)
    .where(sa.text(IS_OPEN))
    .group_by(*_GROUP),
    # The service owes them to itself.
    _FILLERS,
)

# Ids begin with the time, so a range of them is a range of times.
ACCEPTED = (
    sa.select(refunds.c.network, refunds.c.tenant, sa.func.count())
    .where(refunds.c.id >= sa.bindparam("first"))
    .group_by(refunds.c.network, refunds.c.tenant)
)

_payments = refunds.alias()
_PAYMENTS = (
    sa.select(sa.func.count())
    .where(same_nonce(_payments, transactions))
    .correlate(transactions)
    .scalar_subquery()
)


def _share(
    gas: sa.ColumnElement[int], payments: sa.ColumnElement[int]
) -> sa.ColumnElement[int]:
    """Return a refund's share of *gas*, rounded up; the payments are one or more."""
    return (gas + payments - 1) // payments


LAST_PAYMENTS = (
    PAID.with_only_columns(
        refunds.c.token_address,
        refunds.c.amount,
        _share(transactions.c.gas_limit, _PAYMENTS),
    )
    .where(
        sa.text(_RESULTS),
        refunds.c.state == PaymentState.CONFIRMED,
        IS_OF_TENANT,
        refunds.c.chain_id == sa.bindparam("of_chain"),
    )
    .order_by(refunds.c.updated_at.desc())
    .limit(sa.bindparam("at_most"))
)


def _spent(current_hour: str) -> sa.Select[Any]:
    """Return the query for what was reserved per hour, and whether in this one."""
    given = sa.bindparam("hour", type_=sa.BigInteger)
    hour = sa.func.coalesce(given, sa.literal_column(current_hour))
    return sa.select(
        spendings.c.token_address, spendings.c.amount, spendings.c.hour >= hour
    ).where(
        spendings.c.chain_id == sa.bindparam("of_chain"),
        spendings.c.token_address.in_(sa.bindparam("tokens", expanding=True)),
        spendings.c.tenant == sa.bindparam("of_tenant"),
        spendings.c.recipient == sa.literal_column("''"),
        spendings.c.hour > hour - HOURS,
    )


SPENT = {dialect: _spent(hour) for dialect, hour in DATABASE_HOUR.items()}


def id_at(moment: datetime) -> str:
    """Return what sorts before the ids of all refunds accepted from *moment* on."""
    return f"rf_{int(moment.timestamp() * 1000):012x}"


_since = sa.bindparam("since", type_=UTCDateTime)
_signed = (
    attempts.c.chain_id == sa.bindparam("of_chain"),
    attempts.c.signed_at >= _since,
)

_of_attempt = sa.func.count().over(partition_by=attempts.c.tx_hash)
_paid_by = (
    sa.select(
        *refunds.c["tenant", "token_address", "amount"],
        attempts.c.attempt,
        _share(attempts.c.gas_limit, _of_attempt).label("gas"),
    )
    .outerjoin_from(attempts, refunds, same_nonce(refunds, attempts))
    .where(*_signed)
    .subquery()
    .c
)
_kind = _paid_by["tenant", "token_address", "amount"]

# SQLite would add amounts as floats, so they are added here.
BY_TENANT = sa.select(
    *_kind, sa.func.count().filter(_paid_by.attempt == 0), sa.func.sum(_paid_by.gas)
).group_by(*_kind)

_LAST_RESULTS = (
    sa.select(refunds.c.tenant, refunds.c.state, refunds.c.updated_at)
    .where(
        sa.text(_RESULTS),
        refunds.c.chain_id == sa.bindparam("of_chain"),
        refunds.c.updated_at >= _since,
    )
    .order_by(refunds.c.updated_at.desc())
    .limit(sa.bindparam("at_most"))
)


_MOST_DECIMALS = 36  # Of a token, as ``signer/config/networks.py`` allows.

_MILLISECOND = timedelta(milliseconds=1)

# Between them, an id can have the time, and a little more or less.
_FIRST = EPOCH + timedelta(days=1)
_LAST = datetime(9999, 1, 1, tzinfo=UTC)


def looked_at(wanted: RefundFilter, *, has_cursor: bool) -> sa.Select[Any]:
    """
    Return the query for the refunds among which *wanted* is looked for, newest first.

    It has the conditions of *wanted* that an index serves.  An id begins with the time
    of the acceptance.
    """
    query = REFUNDS
    if has_cursor:
        query = query.where(refunds.c.id < sa.bindparam("cursor"))
    if wanted.accepted_from is not None:
        query = query.where(refunds.c.id >= sa.bindparam("first_id"))
    if wanted.accepted_before is not None:
        query = query.where(refunds.c.id < sa.bindparam("end_id"))
    if wanted.tenant is not None:
        query = query.where(refunds.c.tenant == sa.bindparam("of_tenant"))
        if wanted.payment_session_id is not None:
            query = query.where(refunds.c.payment_session_id == sa.bindparam("session"))
        elif wanted.status is not None:
            query = query.where(refunds.c.state == wanted.status.state)
    elif wanted.status is not None and not wanted.status.is_final:
        # Literals, so that both planners use the index of open refunds.
        query = query.where(sa.text(IS_OPEN), sa.text(state_in(wanted.status.state)))
    return query.order_by(refunds.c.id.desc())


def found_among(wanted: RefundFilter, *, has_cursor: bool) -> sa.Select[Any]:
    """Return the query for the *wanted* refunds among those of ``looked_at``."""
    if wanted == _served_by_index(wanted):
        return looked_at(wanted, has_cursor=has_cursor).limit(sa.bindparam("at_most"))
    read = looked_at(wanted, has_cursor=has_cursor).limit(SEARCHED)
    part = read.add_columns(STATUS.label("shown")).subquery()
    *columns, _ = part.c
    query = sa.select(*columns).where(*_conditions(wanted, part))
    return query.order_by(part.c.id.desc()).limit(sa.bindparam("at_most"))


def _served_by_index(wanted: RefundFilter) -> RefundFilter:
    """Return the conditions of *wanted* with which a page needs no other rows."""
    if wanted.tenant is None:
        return RefundFilter()
    session, status = wanted.payment_session_id, wanted.status
    is_moving = status is not None and status.state is PaymentState.ASSIGNED
    if session is not None or is_moving:
        status = None
    return RefundFilter(wanted.tenant, status, payment_session_id=session)


def _conditions(
    wanted: RefundFilter, part: sa.Subquery
) -> Iterator[sa.ColumnElement[bool]]:
    columns = part.c
    if wanted.status is not None:
        yield columns.shown == wanted.status
    for name in ("recipient", "payment_session_id", "network"):
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


def _in_units(amount: Decimal, part: sa.Subquery, *, minus: int = 0) -> sa.Case[Any]:
    """
    Return the largest number of base units of each row's token up to *amount*.

    With *minus* 1 it is less than *amount*, so that what is more reaches *amount*.
    """
    numerator, denominator = amount.as_integer_ratio()
    units = {}
    for decimals in range(_MOST_DECIMALS + 1):
        bound = (numerator * 10**decimals - minus) // denominator
        value = min(bound, UINT256_MAX)
        units[decimals] = sa.bindparam(None, value, type_=part.c.amount.type)
    return sa.case(units, value=part.c.decimals)


def parameters(wanted: RefundFilter, cursor: str | None) -> Mapping[str, str]:
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


class ReportTables(Tables):
    """Implements ``RefundReports``."""

    def open_refunds(self) -> Sequence[OpenRefunds]:
        return tuple(OpenRefunds(*row) for row in self._database.report(OPEN_REFUNDS))

    def accepted_since(self, since: datetime) -> Mapping[tuple[str, str], int]:
        rows = self._database.report(ACCEPTED, first=id_at(since))
        return {(network, tenant): count for network, tenant, count in rows}

    def last_payments(self, chain_id: int, limit: int) -> Sequence[RecentPayment]:
        rows = self._database.report(LAST_PAYMENTS, of_chain=chain_id, at_most=limit)
        return tuple(RecentPayment(*row) for row in rows)

    def spent_lately(
        self, chain_id: int, tokens: Collection[str], tenant: str | None = None
    ) -> Mapping[str, SpentLately]:
        params = {
            "of_chain": chain_id,
            "tokens": list(tokens),
            "of_tenant": tenant or "",
            "hour": self._database.hour(),
        }
        sums: dict[str, SpentLately] = {}
        rows = self._database.report(SPENT[self._database.dialect], **params)
        for token, amount, is_this_hour in rows:  # SQLite would add them as floats.
            before = sums.get(token, SpentLately())
            hour = before.hour + (amount if is_this_hour else 0)
            sums[token] = SpentLately(hour, before.day + amount)
        return sums

    def last_results(
        self, chain_id: int, since: datetime, limit: int
    ) -> Sequence[tuple[str, Status, datetime]]:
        params = {"of_chain": chain_id, "since": since, "at_most": limit}
        rows = self._database.report(_LAST_RESULTS, **params)
        return tuple((tenant, Status(state), at) for tenant, state, at in rows)

    def signed_by_tenant(
        self, chain_id: int, since: datetime
    ) -> Mapping[str, SignedTotals]:
        found: dict[str, SignedTotals] = {}
        rows = self._database.report(BY_TENANT, of_chain=chain_id, since=since)
        for tenant, token, amount, count, gas in rows:
            old = found.get(tenant or OPERATOR, SignedTotals())
            if tenant is None:  # A filler pays nothing.
                found[OPERATOR] = replace(old, gas=old.gas + int(gas))
                continue
            sums = {**old.amounts, token: old.amounts.get(token, 0) + amount * count}
            found[tenant] = SignedTotals(old.refunds + count, old.gas + int(gas), sums)
        return found

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
        rows = self._database.report(query, **given, at_most=limit + 1)
        found = read_refunds(rows)
        if len(found) > limit:
            return Page(found[:limit], found[limit - 1].id)
        if wanted == _served_by_index(wanted):
            return Page(found, None)
        # A refund that was inserted since then only moves this one to a newer one, so
        # the next page repeats some, and leaves none out.
        last = looked_at(wanted, has_cursor=has_cursor).with_only_columns(refunds.c.id)
        last = last.offset(SEARCHED - 1).limit(1)
        ends = self._database.report(last, **given)
        return Page(found, ends[0].id if ends else None)
