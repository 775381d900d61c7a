"""
How a change, its line of history and its signed bytes become one transaction.

SQLite runs one statement after the other, which costs nothing in the same process.
PostgreSQL does all in one statement and one round trip, except for reservations.
"""

from typing import Any

from sqlalchemy import Connection, Row

from backends.sql.advisory_locks import hold_chain_and_key
from backends.sql.database import Database
from backends.sql.spending import spend
from backends.sql.statements import (
    AUDITED,
    EVIDENCE,
    MOVE,
    ON_POSTGRESQL,
    ON_SQLITE,
    RECORD,
    Step,
    Values,
)
from backends.sql.urls import SQLITE
from signer.model.refund import Refund
from signer.model.spending_limits import Limits


Changed = Row[Any] | None
"""The nonce of the row that changed; None when nothing did."""


def apply(database: Database, step: Step, given: Values) -> Changed:
    """
    Do *step* in one transaction.

    Raises:
        StoreError: Or one of its children; nothing was changed, unless the
            connection was lost while the database committed.
    """
    if database.dialect == SQLITE:
        return database.transaction(lambda c: _one_by_one(c, step, given))
    return database.run(lambda c: _at_once(c, step, given))


def reserve(
    database: Database, refund: Refund, limits: Limits, given: Values
) -> Changed:
    """
    Give *refund* its nonce, and count what it pays, while nobody else does.

    The unique constraint stands behind the lock, should somebody forget it.

    Raises:
        LimitReachedError: It would pay too much.
        StoreError: As ``apply``.
    """
    change = _one_by_one if database.dialect == SQLITE else _at_once

    def work(connection: Connection) -> Changed:
        hold_chain_and_key(connection, refund.chain_id)
        changed = change(connection, Step.RESERVE, given)
        if changed is not None and refund.swept_from is None:
            spend(connection, refund, limits, given["refunds_updated_at"])
        return changed

    return database.transaction(work)


def _at_once(connection: Connection, step: Step, given: Values) -> Changed:
    return connection.execute(ON_POSTGRESQL[step], given).one_or_none()


def _one_by_one(connection: Connection, step: Step, given: Values) -> Changed:
    changed = connection.execute(ON_SQLITE[step], given).one_or_none()
    if changed is not None and step is not Step.POSTPONE:
        connection.execute(MOVE, given)
        if step is Step.RECORD:
            connection.execute(RECORD, given)
        if step in AUDITED and given["audit_records_id"] is not None:
            connection.execute(EVIDENCE, given)
    return changed
