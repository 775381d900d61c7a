"""Counts what was reserved per hour, and applies the spending limits to it."""

from datetime import datetime

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from backends.sql.schema import spendings
from backends.sql.statements import INSERT
from signer.errors import LimitReachedError
from signer.model.refund import Refund
from signer.model.spending_limits import Limits, Spent, hour_number


_HOURS = 24

_ALL = ""
"""The recipient of the rows that sum over all recipients."""

_RECENT = select(spendings.c.recipient, spendings.c.hour, spendings.c.amount).where(
    spendings.c.chain_id == bindparam("chain_id"),
    spendings.c.token_address == bindparam("token_address"),
    spendings.c.recipient.in_([_ALL, bindparam("recipient")]),
    spendings.c.hour > bindparam("since_hour"),
)


def _upsert(dialect: str) -> sqlite.Insert | postgresql.Insert:
    insert = INSERT[dialect](spendings)
    return insert.on_conflict_do_update(
        index_elements=list(spendings.primary_key),
        set_={"amount": insert.excluded.amount},
    )


_UPSERT = {dialect: _upsert(dialect) for dialect in INSERT}


def spend(connection: Connection, refund: Refund, limits: Limits, at: datetime) -> None:
    """
    Add the amount of *refund* to this hour, unless a limit would be exceeded.

    The caller holds the lock of the chain.  The amount stays counted even if the refund
    is never mined, which errs on the safe side.  Later hours, which a host with a wrong
    clock may have written, count as well.

    Raises:
        LimitReachedError: The refund would exceed a limit.  The transaction must be
            rolled back.
    """
    hour = hour_number(at)
    key = {"chain_id": refund.chain_id, "token_address": refund.token_address}
    parameters = {**key, "recipient": refund.recipient, "since_hour": hour - _HOURS}
    recent: dict[str, dict[int, int]] = {_ALL: {}, refund.recipient: {}}
    for recipient, spent_hour, amount in connection.execute(_RECENT, parameters):
        recent[recipient][spent_hour] = amount
    spent = Spent(
        hour=sum(amount for each, amount in recent[_ALL].items() if each >= hour),
        day=sum(recent[_ALL].values()),
        recipient=sum(recent[refund.recipient].values()),
    )
    reached = limits.first_exceeded(refund.amount, spent)
    if reached is not None:
        raise LimitReachedError(f"the {reached} of {refund.token} is reached")
    rows = [
        {**key, "recipient": recipient, "hour": hour}
        | {"amount": hours.get(hour, 0) + refund.amount}
        for recipient, hours in recent.items()
    ]
    connection.execute(_UPSERT[connection.dialect.name], rows)
