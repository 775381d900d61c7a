"""
Applies changes of refunds, their transactions, their history and their signed bytes.

A change is a set of statements with one set of parameters.  Several changes execute
each statement once, for all of their rows.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection, Executable

from backends.sql.advisory_locks import lock_tenant
from backends.sql.schema import attempts, transactions
from backends.sql.statements import (
    ACCEPT_ON_POSTGRESQL,
    ACCEPT_ON_SQLITE,
    ACCEPTED_ON_SQLITE,
    ADOPT_TRANSACTION,
    COMPARED,
    HAS_FORGED_ATTEMPT,
    HAS_FORGED_PAYMENT,
    INSERT_ATTEMPT,
    INSERT_AUDIT_RECORD,
    INSERT_EVENT,
    INSERT_MEMBERSHIP,
    INSERT_MOVE,
    ORDER,
    PLACE,
    RECORD,
    RESERVE_TRANSACTION,
    SAVE,
    SAVE_TRANSACTION,
    Values,
    fields_of,
    record_values,
    refund_values,
)
from backends.sql.urls import SQLITE
from signer.errors import (
    HotWalletError,
    RowNotAuthenticError,
    StaleStateError,
    StoreError,
    StoreUnavailableError,
)
from signer.model.refund import Refund
from signer.model.transaction import TransactionStatus
from signer.ports.refund_store import Change
from signer.row_macs import RowMACs


Item = TypeVar("Item")
Result = TypeVar("Result")


class Write(NamedTuple):
    """The statements of one change, and their parameters."""

    refund: Refund
    statements: Collection[Executable]
    values: Values


def write_of(macs: RowMACs, change: Change) -> Write:
    """Return what stores *change*."""
    before, after, signed = change.before, change.after, change.transaction
    values = {**refund_values(macs, before, after)}
    if after.transaction is not None:
        values |= fields_of(transactions, after.transaction)
    if before.transaction is not None:
        values["transactions_before"] = before.transaction.version
    statements = _compared(change)
    if before.status is not after.status:
        statements.append(INSERT_MOVE)
    if "events_id" in values:
        statements.append(INSERT_EVENT)
    if signed is not None:
        statements.append(INSERT_ATTEMPT)
        values |= fields_of(attempts, signed)
    if change.record is not None:
        statements.append(INSERT_AUDIT_RECORD)
        values |= record_values(macs, change.record)
    return Write(before, statements, values)


def _compared(change: Change) -> list[Executable]:
    """Return the statements that change a refund, its transaction, or both."""
    before, after = change.before, change.after
    old, new = before.transaction, after.transaction
    if old is None and new is not None:
        is_mined = new.status is TransactionStatus.MINED
        added = ADOPT_TRANSACTION if is_mined else RESERVE_TRANSACTION
        return [PLACE, INSERT_MEMBERSHIP, added]
    statements: list[Executable] = []
    if old != new:
        statements.append(SAVE_TRANSACTION if change.transaction is None else RECORD)
    if before.version != after.version:
        statements.append(SAVE)
    return statements


def apply_all(connection: Connection, writes: Sequence[Write]) -> None:
    """
    Apply *writes* of different refunds, in the transaction of *connection*.

    Raises:
        StaleStateError: One is not possible, or was made by another process.
    """
    # In one order, so that two processes with the same rows do not deadlock.  A
    # revocation changes transactions in the order of their nonces.
    by_id = sorted(writes, key=lambda each: each.refund.id)
    by_nonce = sorted(writes, key=_nonce)
    for statement in ORDER:
        ordered = by_nonce if statement in {RECORD, SAVE_TRANSACTION} else by_id
        rows = [each.values for each in ordered if statement in each.statements]
        if not rows:
            continue
        done = connection.execute(statement, rows)
        if statement in COMPARED and done.rowcount != len(rows):
            raise StaleStateError("a refund was changed meanwhile")


def find_reason(connection: Connection, refund: Refund) -> StoreError:
    """Return why no statement changed *refund*."""
    params = {"refunds_id": refund.id, "refunds_before": refund.version}
    for table, query in (
        ("transaction_payments", HAS_FORGED_PAYMENT),
        ("attempts", HAS_FORGED_ATTEMPT),
    ):
        if connection.execute(query, params).scalar_one():
            return RowNotAuthenticError(
                f"a row of `{table}` is about another transaction or signature of the"
                f" refund {refund.id}, and no process wrote it: the owner of the tables"
                " must delete it"
            )
    return StaleStateError(f"refund {refund.id} or its wallet was changed meanwhile")


def _nonce(write: Write) -> tuple[int, str, int]:
    refund = write.refund
    return refund.chain_id, refund.sender or "", refund.nonce or 0


def insert_refund(
    connection: Connection, refund: Refund, params: Values, *, lock: bool
) -> bool:
    """
    Insert *refund*, unless its key or reference exists; return whether it did.

    With *lock*, other acceptances of the tenant wait for the end of the transaction.
    """
    if lock:
        lock_tenant(connection, refund.tenant)
    is_sqlite = connection.dialect.name == SQLITE
    # SQLite has no roles, and cannot give defaults to the columns of a table.
    accept = ACCEPT_ON_SQLITE if is_sqlite else ACCEPT_ON_POSTGRESQL[refund.purpose]
    is_new = connection.execute(accept, params).one_or_none() is not None
    if is_new and is_sqlite:
        for name, insert in ACCEPTED_ON_SQLITE:
            if params[name] is not None:
                connection.execute(insert, params)
    return is_new


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
