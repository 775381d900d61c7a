"""
How a change, its line of history and its signed bytes become one transaction.

SQLite runs one statement after the other, which costs nothing in the same process.
PostgreSQL does all in one statement and one round trip, except for reservations.
"""

import hashlib
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select
from sqlalchemy.types import BigInteger

from backends.sql.database import Database
from backends.sql.statements import (
    MOVE,
    ON_POSTGRESQL,
    ON_SQLITE,
    RECORD,
    Step,
    Values,
)
from backends.sql.urls import SQLITE


Changed = Row[Any] | None
"""The nonce of the row that changed; None when nothing did."""

_LOCK = select(func.pg_advisory_xact_lock(bindparam("wallet", type_=BigInteger)))


def apply(database: Database, step: Step, given: Values) -> Changed:
    """
    Do *step* in one transaction.

    Raises:
        StoreError: Or one of its children; nothing was changed, unless the
            connection was lost while the database committed.
    """
    if database.dialect == SQLITE:
        return database.transaction(lambda c: _one_by_one(c, step, given))
    if step is Step.RESERVE:
        return database.transaction(lambda c: _in_turn(c, given))
    return database.run(lambda c: c.execute(ON_POSTGRESQL[step], given).one_or_none())


def _one_by_one(connection: Connection, step: Step, given: Values) -> Changed:
    changed = connection.execute(ON_SQLITE[step], given).one_or_none()
    if changed is not None:
        connection.execute(MOVE, given)
        if step is Step.RECORD:
            connection.execute(RECORD, given)
    return changed


def _in_turn(connection: Connection, given: Values) -> Changed:
    """
    Reserve while no other transaction reserves for the same wallet.

    The lock is a statement of its own: the next one then takes its snapshot when
    the lock is held, and sees the nonce that the last holder committed.  It needs no
    row, leaves no dead one behind, and goes with the transaction or the connection.
    The unique constraint stands behind it, should somebody forget the lock.
    """
    connection.execute(_LOCK, {"wallet": _wallet(given)})
    return connection.execute(ON_POSTGRESQL[Step.RESERVE], given).one_or_none()


def _wallet(given: Values) -> int:
    """Return 64 bits that name chain and sender; a collision is a needless wait."""
    name = f"hotwallet nonce {given['refunds_chain_id']} {given['refunds_sender']}"
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
