"""
Applies changes of refunds, their history and their signed bytes in one transaction.

SQLite executes one statement after the other, which is cheap inside the process.
PostgreSQL executes a change as one statement in one round trip.  Several changes at
once are one statement for each table, on both.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from sqlalchemy import Connection, Row

from backends.sql.advisory_locks import lock_tenant
from backends.sql.database import Database
from backends.sql.queries import require_open_at_most
from backends.sql.statements import (
    ACCEPT,
    INSERT_ATTEMPT,
    INSERT_MOVE,
    ON_POSTGRESQL,
    ON_SQLITE,
    OPTIONAL,
    SAVE_MANY,
    Step,
    Values,
)
from backends.sql.urls import SQLITE
from signer.errors import (
    HotWalletError,
    StaleStateError,
    StoreError,
    StoreUnavailableError,
)
from signer.model.acceptance import Acceptance


Item = TypeVar("Item")
Result = TypeVar("Result")

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
    return database.run(lambda c: _at_once(c, step, params))


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


def apply_together(database: Database, changes: Sequence[tuple[Step, Values]]) -> None:
    """
    Apply *changes* of different refunds in one transaction, or change nothing.

    Raises:
        StaleStateError: One is not possible, or was made by another process.
        StoreError: Or another one of its children, as ``apply_step``.
    """

    def work(connection: Connection) -> None:
        for step, statement in SAVE_MANY.items():
            rows = [row for each, row in changes if each is step]
            # In one order, so that two processes with the same refunds do not deadlock.
            rows.sort(key=itemgetter("refunds_id"))
            if not rows:
                continue
            if connection.execute(statement, rows).rowcount != len(rows):
                raise StaleStateError("a refund was changed meanwhile")
            _insert(connection, step, rows)

    database.transaction(work)


def all_or_each(
    items: Sequence[Item],
    together: Callable[[Sequence[Item]], Sequence[Result | HotWalletError]],
) -> Sequence[Result | HotWalletError]:
    """
    Return what *together* returns for *items*, or for one after the other.

    Falls back to one item at a time if the database refuses the batch: one row that no
    statement can change must not keep the others from their changes.  An error of
    *together* is the result of each item that it concerns.
    """
    if not items:
        return ()
    try:
        return together(items)
    except HotWalletError as e:
        concerns_all = isinstance(e, StoreUnavailableError) or not isinstance(
            e, StoreError
        )
        if concerns_all or len(items) == 1:
            return [e] * len(items)
    results: list[Result | HotWalletError] = []
    for item in items:
        results += all_or_each([item], together)
        last = results[-1]
        if isinstance(last, StoreUnavailableError):
            # Do not wait for the database as often as there are items.
            return results + [last] * (len(items) - len(results))
    return results


def _at_once(connection: Connection, step: Step, params: Values) -> Changed:
    is_new = step is Step.ACCEPT
    statement = ACCEPT[params["refunds_purpose"]] if is_new else ON_POSTGRESQL[step]
    return connection.execute(statement, params).one_or_none()


def _one_by_one(connection: Connection, step: Step, params: Values) -> Changed:
    changed = connection.execute(ON_SQLITE[step], params).one_or_none()
    if changed is not None:
        _insert(connection, step, [params])
    return changed


def _insert(connection: Connection, step: Step, rows: Sequence[Values]) -> None:
    """Insert what belongs to the changed refunds of *rows*."""
    if step is Step.POSTPONE:
        return
    connection.execute(INSERT_MOVE, rows)
    if step is Step.RECORD:
        connection.execute(INSERT_ATTEMPT, rows)
    for name, insert in OPTIONAL[step]:
        given = [row for row in rows if row[name] is not None]
        if given:
            connection.execute(insert, given)
