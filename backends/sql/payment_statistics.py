"""Counts of signed transactions and of results, for the automatic stops."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import bindparam, func, select, text

from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.schema import refunds, status_in, transactions
from signer.model.refund import Status
from signer.ports.payment_statistics import Signed


_RESULTS = text(status_in(frozenset({Status.CONFIRMED, Status.FAILED})))

_since = bindparam("since", type_=UTCDateTime)
_signed = (
    transactions.c.chain_id == bindparam("of_chain"),
    transactions.c.signed_at >= _since,
)

# SQLite would add amounts as floats, so they are added here.
BY_TENANT = (
    select(
        refunds.c.tenant,
        refunds.c.token_address,
        refunds.c.amount,
        func.count().filter(transactions.c.attempt == 0),
        func.sum(transactions.c.gas_limit),
    )
    .select_from(transactions)
    .join(refunds, refunds.c.id == transactions.c.refund_id)
    .where(*_signed)
    .group_by(refunds.c.tenant, refunds.c.token_address, refunds.c.amount)
)

_LAST_RESULTS = (
    select(refunds.c.tenant, refunds.c.status, refunds.c.updated_at)
    .where(
        _RESULTS,
        refunds.c.chain_id == bindparam("of_chain"),
        refunds.c.updated_at >= _since,
    )
    .order_by(refunds.c.updated_at.desc())
    .limit(bindparam("at_most"))
)


class PaymentStatisticsTables(Tables):
    """Implements ``signer.ports.PaymentStatistics``."""

    def last_results(
        self, chain_id: int, since: datetime, limit: int
    ) -> Sequence[tuple[str, Status, datetime]]:
        params = {"of_chain": chain_id, "since": since, "at_most": limit}
        rows = self._database.rows(_LAST_RESULTS, **params)
        return tuple((tenant, status, at) for tenant, status, at in rows)

    def signed_by_tenant(self, chain_id: int, since: datetime) -> Mapping[str, Signed]:
        found: dict[str, Signed] = {}
        rows = self._database.rows(BY_TENANT, of_chain=chain_id, since=since)
        for tenant, token, amount, count, gas in rows:
            old = found.get(tenant, Signed())
            sums = {**old.amounts, token: old.amounts.get(token, 0) + amount * count}
            found[tenant] = Signed(old.refunds + count, old.gas + int(gas), sums)
        return found
