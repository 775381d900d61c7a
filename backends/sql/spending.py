"""
Counts per hour what was reserved, and applies the spending limits to it.

The hour is the database's, so that a host whose clock is wrong gets no fresh limit.  On
PostgreSQL that is the server's clock.  On SQLite it is the clock of the one host.
"""

from collections import defaultdict
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    and_,
    bindparam,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from backends.sql.inserts import INSERT
from backends.sql.schema import spendings
from signer.errors import LimitReachedError
from signer.model.refund import Refund
from signer.model.spending_limits import NO_LIMITS, Limits, Spent


_HOURS = 24

_ALL = ""
"""The tenant or recipient of the rows that sum over all of them."""

_GAS = "gas"
"""The token address of the rows that count gas."""


class _Counter(NamedTuple):
    """The columns, besides chain and hour, that identify a sum."""

    token_address: str
    tenant: str
    recipient: str


# Numbered as by ``hour_number``.  ``now()`` is when the transaction began.
_DATABASE_HOUR = {
    "sqlite": "CAST(strftime('%s', 'now') AS INTEGER) / 3600",
    "postgresql": "CAST(floor(extract(epoch FROM now()) / 3600) AS BIGINT)",
}


def _recent(dialect: str) -> Select[Any]:
    """Return the query for the current hour, and for the counts since 23 before it."""
    given = bindparam("hour", type_=BigInteger)
    hour = func.coalesce(given, literal_column(_DATABASE_HOUR[dialect]))
    clock = select(hour.label("current_hour")).subquery("clock")
    counts = and_(
        spendings.c.chain_id == bindparam("chain_id"),
        spendings.c.token_address.in_([bindparam("token_address"), _GAS]),
        spendings.c.tenant.in_([bindparam("tenant"), _ALL]),
        spendings.c.recipient.in_([bindparam("recipient"), _ALL]),
        spendings.c.hour > clock.c.current_hour - _HOURS,
    )
    # The outer join returns the current hour even if nothing was counted.
    return select(
        clock.c.current_hour,
        spendings.c.token_address,
        spendings.c.tenant,
        spendings.c.recipient,
        spendings.c.hour,
        spendings.c.amount,
    ).select_from(clock.outerjoin(spendings, counts))


def _upsert(dialect: str) -> sqlite.Insert | postgresql.Insert:
    insert = INSERT[dialect](spendings)
    return insert.on_conflict_do_update(
        index_elements=list(spendings.primary_key),
        set_={"amount": insert.excluded.amount},
    )


_RECENT = {dialect: _recent(dialect) for dialect in INSERT}
_UPSERT = {dialect: _upsert(dialect) for dialect in INSERT}


def spend(
    connection: Connection,
    refund: Refund,
    gas_limit: int,
    limits: Limits,
    hour: int | None,
) -> None:
    """
    Add the amount and the gas of *refund* to this hour, unless a limit is exceeded.

    *hour* replaces the database's clock, in tests.

    The caller holds the lock of the chain.  Amount and gas stay counted even if the
    refund is never mined, which errs on the safe side.  A replacement is not counted,
    since at most one transaction of a nonce is mined.  Later hours, in which the
    database's clock was wrong, count as well.

    Raises:
        LimitReachedError: The refund would exceed a limit.  The transaction must be
            rolled back.
    """
    dialect = connection.dialect.name
    tenant, recipient, token = refund.tenant, refund.recipient, refund.token_address
    parameters = {
        "hour": hour,
        "chain_id": refund.chain_id,
        "token_address": token,
        "tenant": tenant,
        "recipient": recipient,
    }
    rows = connection.execute(_RECENT[dialect], parameters).all()
    current = rows[0].current_hour
    counts: dict[_Counter, dict[int, int]] = defaultdict(dict)
    for _, *counter, counted_hour, amount in rows:
        counts[_Counter(*counter)][counted_hour] = amount
    added: dict[_Counter, int] = {}
    for scope, bounds in ((_ALL, limits), (tenant, limits.tenant or NO_LIMITS)):
        total, paid = _Counter(token, scope, _ALL), _Counter(token, scope, recipient)
        gas = _Counter(_GAS, scope, _ALL)
        spent = Spent(
            hour=_since(current, counts[total]),
            day=sum(counts[total].values()),
            recipient=sum(counts[paid].values()),
            gas=_since(current, counts[gas]),
        )
        reached = bounds.first_exceeded(refund.amount, gas_limit, spent)
        if reached is not None:
            owner = "" if scope == _ALL else "tenant's "
            raise LimitReachedError(
                f"the {owner}{reached} of {refund.token} is reached"
            )
        added |= {total: refund.amount, paid: refund.amount, gas: gas_limit}
    upserts = [
        {**counter._asdict(), "chain_id": refund.chain_id, "hour": current}
        | {"amount": counts[counter].get(current, 0) + amount}
        for counter, amount in added.items()
    ]
    connection.execute(_UPSERT[dialect], upserts)


def _since(hour: int, amounts: dict[int, int]) -> int:
    return sum(amount for each, amount in amounts.items() if each >= hour)
