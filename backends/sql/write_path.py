"""
Applies a change of a refund, its history and its signed bytes in one transaction.

SQLite executes one statement after the other, which is cheap inside the process.
PostgreSQL executes everything as one statement in one round trip, except reservations.
"""

from typing import Any

from sqlalchemy import Connection, Row

from backends.sql.advisory_locks import lock_chain_and_keys, lock_tenant
from backends.sql.database import Database
from backends.sql.queries import require_open_at_most
from backends.sql.spending import spend
from backends.sql.statements import (
    ACCEPT_ANSWERED,
    AUDITED,
    INSERT_ANSWER,
    INSERT_AUDIT_RECORD,
    INSERT_MOVE,
    INSERT_SIGNED_REQUEST,
    INSERT_TRANSACTION,
    ON_POSTGRESQL,
    ON_SQLITE,
    Step,
    Values,
)
from backends.sql.stops import require_running, require_unblocked
from backends.sql.urls import SQLITE
from signer.model.acceptance import Acceptance
from signer.model.refund import Refund
from signer.model.spending_limits import Limits
from signer.row_macs import RowMACs


Changed = Row[Any] | None
"""A row with the nonce of the changed refund; None if no refund was changed."""


def apply_step(database: Database, step: Step, params: Values) -> Changed:
    """
    Apply *step* in one transaction.

    Raises:
        StoreError: Or one of its children.  Nothing was changed, unless the connection
            was lost during the commit.
    """
    if database.dialect == SQLITE:
        return database.transaction(lambda c: _one_by_one(c, step, params))
    if params["answers_refund_id"] is None:
        return database.run(lambda c: _at_once(c, step, params))

    def work(connection: Connection) -> Changed:
        changed = _at_once(connection, step, params)
        if changed is not None:
            connection.execute(INSERT_ANSWER[connection.dialect.name], params)
        return changed

    return database.transaction(work)


def insert_refund(
    connection: Connection, acceptance: Acceptance, params: Values, *, lock: bool
) -> Changed:
    """
    Insert a refund, unless its key or reference exists.

    With *lock*, other acceptances of the tenant wait for the end of the transaction.

    Raises:
        OpenRefundsLimitError: The tenant would have more than ``max_open``.
    """
    tenant, max_open = acceptance.refund.tenant, acceptance.max_open
    if lock:
        lock_tenant(connection, tenant)
    is_sqlite = connection.dialect.name == SQLITE
    change = _one_by_one if is_sqlite else _at_once
    changed = change(connection, Step.ACCEPT, params)
    # Count after the insertion: a repeated request is answered over the limit too.
    if changed is not None and max_open is not None:
        require_open_at_most(connection, tenant, max_open)
    return changed


def apply_reservation(
    database: Database, macs: RowMACs, refund: Refund, limits: Limits, params: Values
) -> Changed:
    """
    Assign *refund* its nonce and count its amount and gas, alone on the chain.

    If the lock were missing, the unique constraint on nonces would still hold.

    Raises:
        SigningStoppedError, TenantBlockedError: An operator forbids it.
        RowNotAuthenticError: Another program changed a stop or a block.
        LimitReachedError: The refund would exceed a spending limit.
    """
    change = _one_by_one if database.dialect == SQLITE else _at_once

    def work(connection: Connection) -> Changed:
        lock_chain_and_keys(connection, refund.chain_id)
        # The statement has the same conditions, and cannot verify MACs.
        require_running(connection, macs, refund.chain_id)
        require_unblocked(connection, macs, refund.tenant)
        changed = change(connection, Step.RESERVE, params)
        if changed is not None and refund.swept_from is None:
            gas_limit = params["refunds_gas_limit"]
            spend(connection, refund, gas_limit, limits, database.hour())
        return changed

    return database.transaction(work)


def _at_once(connection: Connection, step: Step, params: Values) -> Changed:
    statement = ON_POSTGRESQL[step]
    if step is Step.ACCEPT and params["answers_refund_id"] is not None:
        statement = ACCEPT_ANSWERED
    return connection.execute(statement, params).one_or_none()


def _one_by_one(connection: Connection, step: Step, params: Values) -> Changed:
    changed = connection.execute(ON_SQLITE[step], params).one_or_none()
    if changed is not None and step is not Step.POSTPONE:
        connection.execute(INSERT_MOVE, params)
        if step is Step.RECORD:
            connection.execute(INSERT_TRANSACTION, params)
        if step is Step.ACCEPT and params["request_signatures_refund_id"] is not None:
            connection.execute(INSERT_SIGNED_REQUEST, params)
        if step in AUDITED and params["audit_records_id"] is not None:
            connection.execute(INSERT_AUDIT_RECORD, params)
        if params["answers_refund_id"] is not None:
            connection.execute(INSERT_ANSWER[connection.dialect.name], params)
    return changed
