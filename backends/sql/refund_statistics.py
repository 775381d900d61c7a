"""Counts of refunds for metrics and for the runway of the wallet."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Select,
    bindparam,
    func,
    literal_column,
    select,
    text,
)

from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.schema import (
    IS_OPEN,
    refund_moves,
    refunds,
    spendings,
    status_in,
)
from backends.sql.spending import DATABASE_HOUR, HOURS
from signer.model.refund import FILLER, SWEEPER, Status
from signer.ports.refund_statistics import OpenRefunds, Payment, SpentLately


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


def _spent(current_hour: str) -> Select[Any]:
    """Return the query for what was reserved per hour, and whether in this one."""
    given = bindparam("hour", type_=BigInteger)
    hour = func.coalesce(given, literal_column(current_hour))
    return select(
        spendings.c.token_address, spendings.c.amount, spendings.c.hour >= hour
    ).where(
        spendings.c.chain_id == bindparam("of_chain"),
        spendings.c.token_address.in_(bindparam("tokens", expanding=True)),
        spendings.c.tenant == bindparam("of_tenant"),
        spendings.c.recipient == literal_column("''"),
        spendings.c.hour > hour - HOURS,
    )


SPENT = {dialect: _spent(hour) for dialect, hour in DATABASE_HOUR.items()}

_accepted = (
    select(refunds.c.status)
    .where(
        refunds.c.id >= bindparam("first"),
        refunds.c.id < bindparam("last"),
        refunds.c.tenant.not_in((SWEEPER, FILLER)),
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


class StatisticsTables(Tables):
    """Implements ``signer.ports.RefundStatistics``."""

    def open_refunds(self) -> Sequence[OpenRefunds]:
        return tuple(OpenRefunds(*row) for row in self._database.rows(OPEN_REFUNDS))

    def accepted_since(self, since: datetime) -> Mapping[tuple[str, str], int]:
        rows = self._database.rows(ACCEPTED, first=_id_at(since))
        return {(network, tenant): count for network, tenant, count in rows}

    def last_payments(self, chain_id: int, limit: int) -> Sequence[Payment]:
        rows = self._database.rows(LAST_PAYMENTS, of_chain=chain_id, at_most=limit)
        return tuple(Payment(*row) for row in rows)

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
        rows = self._database.rows(SPENT[self._database.dialect], **params)
        for token, amount, is_this_hour in rows:  # SQLite would add them as floats.
            before = sums.get(token, SpentLately())
            hour = before.hour + (amount if is_this_hour else 0)
            sums[token] = SpentLately(hour, before.day + amount)
        return sums

    def results_between(
        self, since: datetime, until: datetime, limit: int
    ) -> Mapping[Status, int]:
        rows = self._database.rows(RESULTS, at_most=limit, **_ids(since, until))
        return {row[0]: row[1] for row in rows}

    def broadcast_seconds(
        self, since: datetime, until: datetime, limit: int
    ) -> Sequence[float]:
        params = {**_ids(since, until), "at_most": limit}
        rows = self._database.rows(FIRST_BROADCASTS, **params)
        return sorted(
            max(0.0, at.timestamp() - int(id_[3:15], 16) / 1000) for id_, at in rows
        )


def _id_at(moment: datetime) -> str:
    """Return what sorts before the ids of all refunds accepted from *moment* on."""
    return f"rf_{int(moment.timestamp() * 1000):012x}"


def _ids(since: datetime, until: datetime) -> Mapping[str, str]:
    return {"first": _id_at(since), "last": _id_at(until)}
