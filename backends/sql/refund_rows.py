"""Reads refunds with the transactions that pay them, and verifies the MACs of both."""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
    text,
    tuple_,
    type_coerce,
)

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


def same_nonce(left: Any, right: Any) -> ColumnElement[bool]:
    """Return the condition that rows of two tables name the same transaction."""
    return and_(*(left.c[name] == right.c[name] for name in NONCE))


_PAYS = same_nonce(transactions, refunds)


def pays_refund(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """
    Return the condition that a transaction pays a refund with *conditions*.

    Another program may have inserted some that pay none, which take no places in a
    limited query.
    """
    # Not EXISTS, for which PostgreSQL might read all refunds.
    paid = select(refunds.c.id).where(same_nonce(refunds, transactions), *conditions)
    return paid.limit(literal_column("1")).scalar_subquery().is_not(None)


def pays_or_fills(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition that it pays one with *conditions*, or is an open filler."""
    return or_(pays_refund(*conditions), text(IS_FILLER))


REFUNDS = select(refunds, transactions).outerjoin_from(refunds, transactions, _PAYS)
"""Selects what ``read_refund`` reads: refunds, each with its transaction or none."""

PAID = select(refunds, transactions).join_from(transactions, refunds, _PAYS)
"""Selects the same of refunds that have a transaction."""

PAYING = select(refunds, transactions).outerjoin_from(transactions, refunds, _PAYS)
"""Selects what ``read_transactions`` reads: a row for each payment, or one without."""


def _has_given_nonce(table: Any) -> ColumnElement[bool]:
    given: Any = bindparam("nonces", expanding=True)
    return tuple_(*(table.c[name] for name in NONCE)).in_(given)


PAYING_GIVEN = PAYING.where(_has_given_nonce(transactions))
"""Selects the same of transactions with given nonces."""

_PAYMENTS = select(refunds).where(_has_given_nonce(refunds))

_MEMBERS = (
    select(*(transaction_payments.c[name] for name in (*NONCE, "payment_id")))
    .where(_has_given_nonce(transaction_payments))
    .order_by(transaction_payments.c.position)
)

ATTEMPTS = select(attempts).join_from(refunds, attempts, same_nonce(attempts, refunds))
"""Selects the attempts of refunds."""

_WIDTH = len(refunds.c)

_is_assigned = refunds.c.state == PaymentState.ASSIGNED

_moving = func.coalesce(transactions.c.status, Status.RESERVED.value)

STATUS: ColumnElement[Status] = case(
    (_is_assigned, type_coerce(_moving, Named(Status))),
    else_=type_coerce(refunds.c.state, Named(Status)),
)
"""The ``Refund.status`` of what ``REFUNDS`` selects."""


def of_moving(name: str) -> ColumnElement[Any]:
    """Return the field *name* of the ``Refund.moving`` of what ``REFUNDS`` selects."""
    has_one = transactions.c.nonce.is_not(None)
    return case((has_one, transactions.c[name]), else_=refunds.c[name])


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
    connection: Connection, rows: Iterable[Transaction]
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
    connection: Connection, found: Iterable[Transaction]
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
