"""Reads refunds with the transactions that pay them, and verifies the MACs of both."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    case,
    func,
    literal_column,
    select,
    type_coerce,
)

from backends.sql.columns import Named
from backends.sql.schema import attempts, refunds, transactions
from signer.errors import RowNotAuthenticError
from signer.model.refund import PaymentState, Refund, Status
from signer.model.transaction import Transaction, compose
from signer.row_macs import RowMACs


def same_nonce(left: Any, right: Any) -> ColumnElement[bool]:
    """Return the condition that rows of two tables name the same transaction."""
    return and_(
        *(left.c[name] == right.c[name] for name in ("chain_id", "sender", "nonce"))
    )


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


REFUNDS = select(refunds, transactions).outerjoin_from(refunds, transactions, _PAYS)
"""Selects what ``read_refund`` reads: refunds, each with its transaction or none."""

PAID = select(refunds, transactions).join_from(transactions, refunds, _PAYS)
"""Selects the same of refunds that have a transaction."""

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
    transaction = None if paid[0] is None else Transaction(*paid)
    return replace(Refund(*own), transaction=transaction)


def read_refunds(rows: Iterable[Sequence[Any]]) -> tuple[Refund, ...]:
    """Return the refunds of *rows* that ``REFUNDS`` selected, in their order."""
    return tuple(read_refund(row) for row in rows)


def require_authentic(macs: RowMACs, refund: Refund) -> None:
    """
    Require that *refund* is what was accepted, and its transaction what was reserved.

    Raises:
        RowNotAuthenticError: A MAC is missing or not valid, or the transaction is that
            of another refund.
    """
    macs.require(refund)
    if refund.nonce is None:
        return
    transaction = refund.transaction
    if transaction is None or transaction.composition != compose([refund.id]):
        raise RowNotAuthenticError(
            f"the refund {refund.id} does not have the transaction that was reserved"
            " for it: another program changed one of them"
        )
    macs.require(transaction)
