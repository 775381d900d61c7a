"""What was given out in the last hours: the ledger's side of the limits of value."""

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
"""In the column of recipients: all of them together."""

_RECENT = select(spendings.c.recipient, spendings.c.hour, spendings.c.amount).where(
    spendings.c.chain_id == bindparam("chain_id"),
    spendings.c.token_address == bindparam("token_address"),
    spendings.c.recipient.in_([_ALL, bindparam("recipient")]),
    spendings.c.hour > bindparam("since_hour"),
)

_KEY = [
    spendings.c.chain_id,
    spendings.c.token_address,
    spendings.c.recipient,
    spendings.c.hour,
]


def _book(dialect: str) -> sqlite.Insert | postgresql.Insert:
    added = INSERT[dialect](spendings)
    return added.on_conflict_do_update(
        index_elements=_KEY, set_={"amount": added.excluded.amount}
    )


_BOOK = {dialect: _book(dialect) for dialect in INSERT}


def spend(connection: Connection, refund: Refund, limits: Limits, at: datetime) -> None:
    """
    Add *refund* to what this hour gives out; nobody else may reserve meanwhile.

    What is given out stays so, even if it is never mined: better too careful.  Hours
    ahead of this one, which a wrong clock made, count as well.

    Raises:
        LimitReachedError: It would be too much.  The transaction must not commit.
    """
    hour = hour_number(at)
    key = {"chain_id": refund.chain_id, "token_address": refund.token_address}
    given = {**key, "recipient": refund.recipient, "since_hour": hour - _HOURS}
    recent: dict[str, dict[int, int]] = {_ALL: {}, refund.recipient: {}}
    for recipient, booked_hour, amount in connection.execute(_RECENT, given):
        recent[recipient][booked_hour] = amount
    spent = Spent(
        hour=sum(amount for each, amount in recent[_ALL].items() if each >= hour),
        day=sum(recent[_ALL].values()),
        recipient=sum(recent[refund.recipient].values()),
    )
    reached = limits.first_exceeded(refund.amount, spent)
    if reached is not None:
        raise LimitReachedError(f"{refund.token}'s {reached} is reached")
    rows = [
        {**key, "recipient": recipient, "hour": hour}
        | {"amount": hours.get(hour, 0) + refund.amount}
        for recipient, hours in recent.items()
    ]
    connection.execute(_BOOK[connection.dialect.name], rows)
