"""Reads refunds with the transactions that pay them, and verifies the MACs of both."""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from backends.sql.columns import Named
from backends.sql.tables import (
    IS_FILLER,
    attempts,
    refunds,
    transaction_payments,
    transactions,
)
from signer.errors import RowNotAuthenticError
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status
from signer.model.sealed_fields import changed, from_row
from signer.model.transaction import Transaction, TransactionKind
from signer.row_macs import RowMACs


Nonce = tuple[int, str, int]
"""What identifies a transaction: chain, sender and nonce."""

NONCE = ("chain_id", "sender", "nonce")
"""Its columns."""

nonce_of: Callable[[object], Nonce] = attrgetter(*NONCE)
"""Return the nonce of a transaction, or of a refund that it pays."""


def same_nonce(left: Any, right: Any) -> sa.ColumnElement[bool]:
    """Return the condition that rows of two tables name the same transaction."""
    return sa.and_(*(left.c[name] == right.c[name] for name in NONCE))


_PAYS = same_nonce(transactions, refunds)


def pays_refund(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """
    Return the condition that a transaction pays a refund with *conditions*.

    Another program may have inserted some that pay none, which take no places in a
    limited query.
    """
    # Not EXISTS, for which PostgreSQL might read all refunds.
    paid = sa.select(refunds.c.id).where(same_nonce(refunds, transactions), *conditions)
    return paid.limit(sa.literal_column("1")).scalar_subquery().is_not(None)


def pays_or_fills(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Return the condition that it pays one with *conditions*, or is an open filler."""
    return sa.or_(pays_refund(*conditions), sa.text(IS_FILLER))


REFUNDS = sa.select(refunds, transactions).outerjoin_from(refunds, transactions, _PAYS)
"""Selects what ``read_refund`` reads: refunds, each with its transaction or none."""

PAID = sa.select(refunds, transactions).join_from(transactions, refunds, _PAYS)
"""Selects the same of refunds that have a transaction."""

PAYING = sa.select(refunds, transactions).outerjoin_from(transactions, refunds, _PAYS)
"""Selects what ``read_transactions`` reads: a row for each payment, or one without."""


def has_given_nonce(table: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a row of *table* names one of the given ``nonces``."""
    given: Any = sa.bindparam("nonces", expanding=True)
    return sa.tuple_(*(table.c[name] for name in NONCE)).in_(given)


PAYING_GIVEN = PAYING.where(has_given_nonce(transactions))
"""Selects the same of transactions with given nonces."""

_PAYMENTS = sa.select(refunds).where(has_given_nonce(refunds))

_MEMBERS = (
    sa.select(*(transaction_payments.c[name] for name in (*NONCE, "payment_id")))
    .where(has_given_nonce(transaction_payments))
    .order_by(transaction_payments.c.position)
)

ATTEMPTS = sa.select(attempts).join_from(
    refunds, attempts, same_nonce(attempts, refunds)
)
"""Selects the attempts of refunds."""

_WIDTH = len(refunds.c)

_is_assigned = refunds.c.state == PaymentState.ASSIGNED

_moving = sa.func.coalesce(transactions.c.status, Status.RESERVED.value)

STATUS: sa.ColumnElement[Status] = sa.case(
    (_is_assigned, sa.type_coerce(_moving, Named(Status))),
    else_=sa.type_coerce(refunds.c.state, Named(Status)),
)
"""The ``Refund.status`` of what ``REFUNDS`` selects."""


def of_moving(name: str) -> sa.ColumnElement[Any]:
    """Return the field *name* of the ``Refund.moving`` of what ``REFUNDS`` selects."""
    has_one = transactions.c.nonce.is_not(None)
    return sa.case((has_one, transactions.c[name]), else_=refunds.c[name])


def read_refund(row: Sequence[Any]) -> Refund:
    """Return the refund of a row that ``REFUNDS`` selected."""
    own, paid = row[:_WIDTH], row[_WIDTH:]
    transaction = None if paid[0] is None else from_row(Transaction, paid)
    return changed(from_row(Refund, own), transaction=transaction)


def read_moving(row: Sequence[Any]) -> Refund | Transaction:
    """Return the refund of a row that ``PAYING`` selected, or what pays none."""
    if row[0] is None:
        return from_row(Transaction, row[_WIDTH:])
    return read_refund(row)


def read_transactions(rows: Iterable[Sequence[Any]]) -> tuple[Transaction, ...]:
    """
    Return the transactions of *rows* that ``PAYING`` selected, in their order.

    The payments of each are in their order, too.
    """
    found: dict[Nonce, tuple[Transaction, list[Refund]]] = {}
    for row in rows:
        paid = row[_WIDTH:]
        nonce = (*paid[: len(NONCE)],)
        if nonce not in found:
            found[nonce] = from_row(Transaction, paid), []
        if row[0] is not None:
            found[nonce][1].append(from_row(Refund, row[:_WIDTH]))
    return tuple(each.paying_own(payments) for each, payments in found.values())


def with_payments(
    connection: sa.Connection, rows: Iterable[Transaction]
) -> tuple[Transaction, ...]:
    """Return the transactions in *rows* with what they pay, lowest nonces first."""
    found = {nonce_of(row): row for row in sorted(rows, key=nonce_of)}
    payments: dict[Nonce, list[Refund]] = {nonce: [] for nonce in found}
    paying = [n for n, row in found.items() if row.kind is not TransactionKind.FILLER]
    for row in connection.execute(_PAYMENTS, {"nonces": paying}) if paying else ():
        payment = from_row(Refund, row)
        payments[nonce_of(payment)].append(payment)
    return tuple(row.paying_own(payments[nonce]) for nonce, row in found.items())


def with_members(
    connection: sa.Connection, found: Iterable[Transaction]
) -> tuple[Transaction, ...]:
    """
    Return transactions that ``read_transactions`` read, each with all of its members.

    Memberships are read of those whose refunds do not have the digest.  Some of a final
    one's may be queued again; of one that is open, another program changed the rows.
    """
    found = tuple(found)
    nonces = [nonce_of(each) for each in found if not each.is_composed]
    if not nonces:
        return found
    members: dict[Nonce, list[str]] = {nonce: [] for nonce in nonces}
    for *nonce, payment_id in connection.execute(_MEMBERS, {"nonces": nonces}):
        members[(*nonce,)].append(payment_id)
    return tuple(
        each.paying_own([*each.payments, *each.strangers], members[nonce_of(each)])
        if nonce_of(each) in members
        else each
        for each in found
    )


def read_refunds(rows: Iterable[Sequence[Any]]) -> tuple[Refund, ...]:
    """Return the refunds of *rows* that ``REFUNDS`` selected, in their order."""
    return tuple(read_refund(row) for row in rows)


def require_authentic(macs: RowMACs, moving: Refund | Transaction) -> None:
    """
    Require that a refund is what was accepted, or a transaction what was reserved.

    Raises:
        RowNotAuthenticError: A MAC is missing or not valid, or the transaction does not
            have the payments that were reserved for it.
    """
    if isinstance(moving, Transaction):
        for payment in moving.payments:
            macs.require(payment)
        if not moving.is_composed:
            names = " ".join(each.id for each in moving.payments) or moving.id
            raise RowNotAuthenticError(
                f"the transaction of the refund {names} is not the one that was"
                " reserved: another program changed one of them"
            )
        macs.require(moving)
    elif moving.transaction is not None:
        require_authentic(macs, moving.reserved())
    else:
        macs.require(moving)
        if moving.nonce is not None:
            raise RowNotAuthenticError(
                f"the refund {moving.id} has lost its transaction: another program"
                " changed one of them"
            )
