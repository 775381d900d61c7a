"""Counts of refunds for metrics and for the runway of the wallet."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import BigInteger, bindparam, func, literal_column, select, text

from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.schema import IS_OPEN, refunds, spendings, status_in
from backends.sql.spending import DATABASE_HOUR, HOURS
from signer.model.refund import FILLER, SWEEPER, Status
from signer.ports.refund_statistics import OpenRefunds, Payment


_GROUP = (
    refunds.c.network,
    refunds.c.tenant,
    refunds.c.status,
    refunds.c.blocked_by,
)

OPEN_REFUNDS = (
    select(
        *_GROUP,
        func.count(),
        func.min(refunds.c.updated_at, type_=UTCDateTime),
    )
    .where(text(IS_OPEN))
    .group_by(*_GROUP)
)

# Ids begin with the time, so a range of them is a range of times.
ACCEPTED = (
    select(refunds.c.network, refunds.c.tenant, func.count())
    .where(refunds.c.id >= bindparam("first"))
    .group_by(refunds.c.network, refunds.c.tenant)
)

LAST_PAYMENTS = (
    select(refunds.c.token_address, refunds.c.amount, refunds.c.gas_limit)
    .where(
        text(status_in(frozenset({Status.CONFIRMED, Status.FAILED}))),
        refunds.c.status == Status.CONFIRMED,
        refunds.c.tenant.not_in((SWEEPER, FILLER)),
        refunds.c.chain_id == bindparam("of_chain"),
    )
    .order_by(refunds.c.updated_at.desc())
    .limit(bindparam("at_most"))
)

SPENT = {
    dialect: select(spendings.c.token_address, spendings.c.amount).where(
        spendings.c.chain_id == bindparam("of_chain"),
        spendings.c.token_address.in_(bindparam("tokens", expanding=True)),
        spendings.c.tenant == literal_column("''"),
        spendings.c.recipient == literal_column("''"),
        spendings.c.hour
        > func.coalesce(
            bindparam("hour", type_=BigInteger), literal_column(current_hour)
        )
        - HOURS,
    )
    for dialect, current_hour in DATABASE_HOUR.items()
}


class StatisticsTables(Tables):
    """Implements ``signer.ports.RefundStatistics``."""

    def open_refunds(self) -> Sequence[OpenRefunds]:
        return tuple(OpenRefunds(*row) for row in self._database.rows(OPEN_REFUNDS))

    def accepted_since(self, since: datetime) -> Mapping[tuple[str, str], int]:
        first = f"rf_{int(since.timestamp() * 1000):012x}"
        rows = self._database.rows(ACCEPTED, first=first)
        return {(network, tenant): count for network, tenant, count in rows}

    def last_payments(self, chain_id: int, limit: int) -> Sequence[Payment]:
        rows = self._database.rows(LAST_PAYMENTS, of_chain=chain_id, at_most=limit)
        return tuple(Payment(*row) for row in rows)

    def spent_in_a_day(
        self, chain_id: int, tokens: Collection[str]
    ) -> Mapping[str, int]:
        params = {"of_chain": chain_id, "tokens": list(tokens)}
        query = SPENT[self._database.dialect]
        sums: Counter[str] = Counter()
        for token, amount in self._database.rows(
            query, hour=self._database.hour(), **params
        ):
            sums[token] += amount  # SQLite would add amounts as floats.
        return sums
