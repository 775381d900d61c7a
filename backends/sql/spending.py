"""
Counts per hour what was reserved, and applies the spending limits to it.

The hour is the database's, so that a host whose clock is wrong gets no fresh limit.  On
PostgreSQL that is the server's clock.  On SQLite it is the clock of the one host.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from backends.sql.advisory_locks import lock_chain
from backends.sql.prepared import execute
from backends.sql.refund_rows import REFUNDS, read_refunds
from backends.sql.tables import refunds, spendings, state_in
from backends.sql.versioned_rows import INSERT
from signer.errors import LimitReachedError
from signer.model.payment import PaymentState
from signer.model.refund import Refund
from signer.model.spending_limits import (
    NO_LIMITS,
    Limits,
    PaymentTotals,
    Spending,
    Spent,
    hour_number,
)
from signer.ports.refund_reports import GAS
from signer.ports.refund_store import Reservation
from signer.row_macs import RowMACs


HOURS = 24
"""How many clock hours a daily limit counts."""

_CONFIRMED_READ = 8
"""How many confirmed refunds are read to find one with a valid MAC."""

_ALL = ""
"""The tenant or recipient of the rows that sum over all of them."""


class _Counter(NamedTuple):
    """The columns, besides chain and hour, that identify a sum."""

    token_address: str
    tenant: str
    recipient: str


# Numbered as by ``hour_number``.  ``now()`` is when the transaction began.
DATABASE_HOUR = {
    "sqlite": "CAST(strftime('%s', 'now') AS INTEGER) / 3600",
    "postgresql": "CAST(floor(extract(epoch FROM now()) / 3600) AS BIGINT)",
}
"""By dialect: the number of the current hour, by the database's clock."""


# SQLite looks up each pair of a tenant and a recipient, so it is given those that the
# refunds have.  PostgreSQL plans a list of pairs slowly, and does not look up all.
_OF_PAYMENTS: Mapping[str, sa.ColumnElement[bool]] = {
    "sqlite": sa.tuple_(spendings.c.tenant, spendings.c.recipient).in_(
        sa.bindparam("payments", expanding=True)
    ),
    "postgresql": sa.and_(
        spendings.c.tenant.in_(sa.bindparam("tenants", expanding=True)),
        spendings.c.recipient.in_(sa.bindparam("recipients", expanding=True)),
    ),
}


def _recent(dialect: str) -> sa.Select[Any]:
    """Return the query for the current hour, and for the counts since 23 before it."""
    given = sa.bindparam("hour", type_=sa.BigInteger)
    hour = sa.func.coalesce(given, sa.literal_column(DATABASE_HOUR[dialect]))
    clock = sa.select(hour.label("current_hour")).subquery("clock")
    counts = sa.and_(
        spendings.c.chain_id == sa.bindparam("chain_id"),
        spendings.c.token_address.in_(sa.bindparam("tokens", expanding=True)),
        _OF_PAYMENTS[dialect],
        spendings.c.hour > clock.c.current_hour - HOURS,
    )
    # The outer join returns the current hour even if nothing was counted.
    return sa.select(
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


# Counts are never deleted.
_EVER: sa.Select[Any] = (
    sa.select(sa.literal_column("1"))
    .select_from(spendings)
    .where(
        *(
            spendings.c[name] == sa.bindparam(name)
            for name in ("chain_id", "token_address", "tenant", "recipient")
        )
    )
    .limit(1)
)

# A confirmed refund stays as it is, so that ``updated_at`` is when it was confirmed.
_FIRST_CONFIRMED: sa.Select[Any] = (
    REFUNDS.where(
        sa.text(state_in(PaymentState.CONFIRMED)),  # For the partial index.
        *(
            refunds.c[name] == sa.bindparam(name)
            for name in ("chain_id", "token_address", "recipient")
        ),
    )
    .order_by(refunds.c.updated_at, refunds.c.id)
    .limit(_CONFIRMED_READ)
)

_RECENT = {dialect: _recent(dialect) for dialect in INSERT}
_UPSERT = {dialect: _upsert(dialect) for dialect in INSERT}


class Spendings:
    """
    What the refunds of one chain have spent, while a transaction reserves more.

    The caller holds the lock of the chain.  Amount and gas stay counted even if a
    refund is never mined, which errs on the safe side.  A replacement is not counted,
    since at most one transaction of a nonce is mined.  Later hours, in which the
    database's clock was wrong, count as well.
    """

    def __init__(
        self,
        connection: sa.Connection,
        macs: RowMACs,
        payments: Sequence[Refund | Spending],
        hour: int | None,
    ) -> None:
        """
        Read what counts for *payments*, which are of one chain.

        *hour* replaces the database's clock, in tests.
        """
        self._connection = connection
        self._macs = macs
        self._chain_id = payments[0].chain_id
        pairs = {
            (tenant, recipient)
            for payment in payments
            for tenant in (_ALL, payment.tenant)
            for recipient in (_ALL, payment.recipient)
        }
        parameters = {
            "hour": hour,
            "chain_id": self._chain_id,
            "tokens": [GAS, *{payment.token_address for payment in payments}],
            "payments": list(pairs),
            "tenants": list({tenant for tenant, _ in pairs}),
            "recipients": list({recipient for _, recipient in pairs}),
        }
        recent = _RECENT[connection.dialect.name]
        rows = connection.execute(recent, parameters).all()
        self._hour: int = rows[0].current_hour
        self._counts: dict[_Counter, dict[int, int]] = defaultdict(dict)
        for _, *counter, counted_hour, amount in rows:
            self._counts[_Counter(*counter)][counted_hour] = amount
        self._added: set[_Counter] = set()

    def add(self, reservation: Reservation, gas: int) -> None:
        """
        Count the amount of *reservation*, and the *gas* that it adds, in this hour.

        Raises:
            LimitReachedError: The refund would exceed a limit; it is not counted.
            PolicyViolationError: Its ``permit`` raised it; the refund is not counted.
        """
        refund, permit = reservation.refund, reservation.permit
        added = self._within(refund, gas, reservation.limits)
        if permit is not None:
            permit(self.totals(refund))
        self._count(added)

    def add_document(self, spending: Spending) -> None:
        """
        Count what a document lets leave, which costs no gas; as ``add``.

        Raises:
            LimitReachedError: It would exceed a limit; it is not counted.
        """
        self._count(self._within(spending, 0, spending.limits))

    def _within(
        self, payment: Refund | Spending, gas_limit: int, limits: Limits
    ) -> dict[_Counter, int]:
        """Return what *payment* adds to the counters; raise as ``add``."""
        tenant, recipient = payment.tenant, payment.recipient
        added: dict[_Counter, int] = {}
        for scope, bounds in ((_ALL, limits), (tenant, limits.tenant or NO_LIMITS)):
            total, paid, gas = _counters(payment.token_address, scope, recipient)
            spent = self._spent(total, paid, gas)
            reached = bounds.first_exceeded(payment.amount, gas_limit, spent)
            if reached is not None:
                owner = "" if scope == _ALL else "tenant's "
                raise LimitReachedError(
                    f"the {owner}{reached} of {payment.token} is reached"
                )
            added |= {total: payment.amount, paid: payment.amount, gas: gas_limit}
        return added

    def _count(self, added: Mapping[_Counter, int]) -> None:
        self._added.update(added)
        for counter, amount in added.items():
            self._counts[counter][self._hour] = self._this_hour(counter) + amount

    def totals(self, refund: Refund) -> PaymentTotals:
        """Return what rules of the policy know about the payments before *refund*."""
        everyone, of_tenant = self.of(refund)
        if not self._was_paid(refund):
            return PaymentTotals(everyone, of_tenant, is_first_payment=True)
        first = self._first_confirmed(refund)
        if first is None:
            return PaymentTotals(everyone, of_tenant, is_first_payment=False)
        # The MAC covers ``created_at`` only: a changed row is no older than that.
        since = hour_number(max(first.created_at, first.updated_at))
        return PaymentTotals(
            everyone,
            of_tenant,
            is_first_payment=False,
            first_paid_hours=max(0, self._hour - since - 1),
            first_paid_amount=first.amount,
        )

    def of(self, refund: Refund) -> tuple[Spent, Spent]:
        """Return what all tenants have spent, and what that of *refund* has."""
        token, recipient = refund.token_address, refund.recipient
        everyone = _counters(token, _ALL, recipient)
        of_tenant = _counters(token, refund.tenant, recipient)
        return self._spent(*everyone), self._spent(*of_tenant)

    def save(self) -> None:
        upserts = [
            {**counter._asdict(), "chain_id": self._chain_id, "hour": self._hour}
            | {"amount": self._this_hour(counter)}
            for counter in sorted(self._added)
        ]
        if upserts:
            upsert = _UPSERT[self._connection.dialect.name]
            execute(self._connection, upsert, upserts)

    def _was_paid(self, refund: Refund) -> bool:
        counter = _Counter(refund.token_address, _ALL, refund.recipient)
        if self._counts[counter]:
            return True
        key = {**counter._asdict(), "chain_id": self._chain_id}
        return self._connection.execute(_EVER, key).first() is not None

    def _first_confirmed(self, refund: Refund) -> Refund | None:
        """Return the first confirmed refund of the token to the recipient."""
        names = ("chain_id", "token_address", "recipient")
        params = {name: getattr(refund, name) for name in names}
        rows = self._connection.execute(_FIRST_CONFIRMED, params)
        found = read_refunds(rows)
        return next((row for row in found if self._macs.is_valid(row.mac, row)), None)

    def _spent(self, total: _Counter, paid: _Counter, gas: _Counter) -> Spent:
        return Spent(
            hour=self._since(self._hour, total),
            day=self._since(0, total),
            recipient=self._since(0, paid),
            gas=self._since(self._hour, gas),
        )

    def _this_hour(self, counter: _Counter) -> int:
        return self._counts[counter].get(self._hour, 0)

    def _since(self, hour: int, counter: _Counter) -> int:
        amounts = self._counts[counter]
        return sum(amount for each, amount in amounts.items() if each >= hour)


def count_documents(
    connection: sa.Connection,
    macs: RowMACs,
    spendings: Sequence[Spending],
    hour: int | None,
) -> None:
    """
    Count *spendings*, which one signature lets leave, under the locks of their chains.

    Raises:
        LimitReachedError: One would exceed a limit.
    """
    by_chain: dict[int, list[Spending]] = defaultdict(list)
    for spending in spendings:
        by_chain[spending.chain_id].append(spending)
    for chain_id, of_chain in sorted(by_chain.items()):
        lock_chain(connection, chain_id)
        counted = Spendings(connection, macs, of_chain, hour)
        for spending in of_chain:
            counted.add_document(spending)
        counted.save()


def _counters(
    token: str, tenant: str, recipient: str
) -> tuple[_Counter, _Counter, _Counter]:
    """Return the counters of amounts, of amounts to *recipient*, and of gas."""
    return (
        _Counter(token, tenant, _ALL),
        _Counter(token, tenant, recipient),
        _Counter(GAS, tenant, _ALL),
    )
