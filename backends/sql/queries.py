"""The questions that the ledger answers.  Each is served by an index."""

from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    literal_column,
    select,
    text,
)

from backends.sql.columns import StatusText
from backends.sql.schema import IS_OPEN, refund_moves, refunds, transactions
from signer.errors import ConflictError, IdempotencyMismatchError, StoreError
from signer.refunds.refund import Refund


BY_ID = select(refunds).where(refunds.c.id == bindparam("given"))

OPEN = (
    select(refunds)
    .where(text(IS_OPEN), refunds.c.id > bindparam("after"))
    .order_by(refunds.c.id)
    .limit(bindparam("at_most"))
)

TRANSACTIONS = (
    select(transactions)
    .where(transactions.c.refund_id == bindparam("given"))
    .order_by(transactions.c.attempt)
)

HISTORY = (
    select(refund_moves)
    .where(refund_moves.c.refund_id == bindparam("given"))
    .order_by(refund_moves.c.version)
)

BY_KEY = select(refunds).where(
    refunds.c.client == bindparam("of_client"),
    refunds.c.idempotency_key == bindparam("key"),
)

_BY_REFERENCE = select(refunds.c.id).where(
    refunds.c.client == bindparam("of_client"),
    refunds.c.reference == bindparam("name"),
)


@cache
def newest(*filters: str) -> Select[Any]:
    """
    Return the question for a client's refunds, newest first.

    *filters* are among ``payment_session_id``, ``status`` and ``cursor``.  Its
    parameters have their names; ``of_client`` and ``at_most`` are always asked for.
    """
    wanted = select(refunds).where(refunds.c.client == bindparam("of_client"))
    for name in filters:
        wanted = wanted.where(_condition(name, among=filters))
    return wanted.order_by(refunds.c.id.desc()).limit(bindparam("at_most"))


def _condition(name: str, *, among: tuple[str, ...]) -> ColumnElement[bool]:
    if name == "cursor":
        return refunds.c.id < bindparam("cursor")
    if name == "status" and "payment_session_id" in among:
        # A session has few refunds and a status has many; SQLite cannot know, and
        # would take the index of the status.  It cannot take it for an expression.
        return literal_column("status || ''") == bindparam("status", type_=StatusText)
    return refunds.c[name] == bindparam(name)


def found(connection: Connection, refund: Refund) -> Refund:
    """
    Return the refund that kept *refund* from being inserted.

    Raises:
        IdempotencyMismatchError: Its key belongs to another request.
        ConflictError: Its reference belongs to another key.
    """
    key = {"of_client": refund.client, "key": refund.idempotency_key}
    row = connection.execute(BY_KEY, key).one_or_none()
    if row is not None:
        stored = Refund(*row)
        if stored.fingerprint == refund.fingerprint:
            return stored
        raise IdempotencyMismatchError(
            f"the idempotency key was used for another request, refund {stored.id}"
        )
    reference = {"of_client": refund.client, "name": refund.reference}
    taken = connection.execute(_BY_REFERENCE, reference).scalar_one_or_none()
    if taken is None:
        raise StoreError("the refund's id is taken")
    raise ConflictError(f"the reference already belongs to refund {taken}")
