"""
Applies changes of refunds, their transactions, their history and their signed bytes.

A change is a set of statements with one set of parameters.  Several changes execute
each statement once, for all of their rows.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, cast

import sqlalchemy as sa

from backends.sql.advisory_locks import tenant_lock
from backends.sql.prepared import RowStatement, execute
from backends.sql.refund_rows import nonce_of
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
    INSERT_MOVES,
    KEEP,
    LOCK,
    ORDER,
    PLACE,
    RECORD,
    RELEASE,
    RESERVE_TRANSACTION,
    SAVE,
    SAVE_TRANSACTION,
    Values,
    event_values,
    fields_of,
    kept_values,
    record_values,
    refund_values,
)
from backends.sql.tables import attempts, transactions
from backends.sql.urls import SQLITE
from signer.errors import (
    HotWalletError,
    RowNotAuthenticError,
    StaleStateError,
    StoreError,
    StoreUnavailableError,
)
from signer.model.payment import PaymentState
from signer.model.refund import Refund
from signer.model.transaction import (
    Kind,
    SignedTransaction,
    Transaction,
    TransactionKind,
    TransactionStatus,
)
from signer.ports.refund_store import Change
from signer.row_macs import RowMACs


Item = TypeVar("Item")
Result = TypeVar("Result")


class Write(NamedTuple):
    """One execution of a statement; those of one statement are in the order of keys."""

    statement: RowStatement
    key: tuple[Any, ...]
    values: Values


def writes_of(macs: RowMACs, change: Change) -> Iterator[Write]:
    if isinstance(change.before, Refund):
        yield from _steps_of(macs, change.before, cast("Refund", change.after))
    else:
        yield from _moves_of(macs, *change.transactions, change.attempt)
    if change.record is not None:
        key = (change.record.id,)
        yield Write(INSERT_AUDIT_RECORD, key, record_values(macs, change.record))


def _steps_of(macs: RowMACs, before: Refund, after: Refund) -> Iterator[Write]:
    """Yield what changes a refund that has no transaction, and perhaps gives it one."""
    values = refund_values(macs, before, after)
    statements: Sequence[RowStatement] = (SAVE,)
    if after.transaction is not None:
        values = {**values, **fields_of(transactions, after.transaction)}
        is_mined = after.transaction.status is TransactionStatus.MINED
        added = ADOPT_TRANSACTION if is_mined else RESERVE_TRANSACTION
        statements = (PLACE, INSERT_MEMBERSHIP, added)
    yield from (Write(each, (before.id,), values) for each in statements)
    yield from _history(before, after, values)


def _inserts_again(write: Write) -> bool:
    """Return whether another payment's write inserts the same transaction."""
    is_new = write.statement in {RESERVE_TRANSACTION, ADOPT_TRANSACTION}
    return is_new and write.values["refunds_position"] != 0


def _moves_of(
    macs: RowMACs,
    before: Transaction,
    after: Transaction,
    attempt: SignedTransaction | None,
) -> Iterator[Write]:
    """Yield what changes a transaction, and with it the payments that it makes."""
    key = nonce_of(before)
    is_paying = attempt is not None and attempt.kind is Kind.TRANSFER
    values = {
        **fields_of(transactions, after),
        "transactions_before": before.version,
        "payments": len(before.payments),
        "is_noop": not is_paying,
    }
    if attempt is None:
        yield Write(SAVE_TRANSACTION, key, values)
    else:
        yield Write(RECORD, key, values)
        yield Write(INSERT_ATTEMPT, key, fields_of(attempts, attempt))
    is_moved = before.status is not after.status
    if is_moved and any(p.state is PaymentState.ASSIGNED for p in after.payments):
        yield Write(INSERT_MOVES, key, values)
    # No two transfers have the same composition, so a refund that one pays is in no
    # other while it exists.  One of a batch may be.
    is_kept = is_paying and before.kind is TransactionKind.BATCH
    for old, new in zip(before.payments, after.payments, strict=True):
        if old.version != new.version:
            paid = refund_values(macs, old, new)
            yield Write(SAVE if new.nonce is not None else RELEASE, (old.id,), paid)
            yield from _history(old, new, paid)
            continue
        if is_kept:
            yield Write(KEEP, (old.id,), kept_values(new))
        if event := event_values(macs, old, new):
            yield Write(INSERT_EVENT, (old.id,), event)


def _history(before: Refund, after: Refund, values: Values) -> Iterator[Write]:
    if before.state is not after.state:
        yield Write(INSERT_MOVE, (before.id,), values)
    if "events_id" in values:
        yield Write(INSERT_EVENT, (before.id,), values)


def apply_all(connection: sa.Connection, writes: Iterable[Write]) -> None:
    """
    Apply *writes* of changes of different rows, in the transaction of *connection*.

    Raises:
        StaleStateError: One is not possible, or was made by another process.
    """
    rows: dict[RowStatement, list[Write]] = defaultdict(list)
    for write in writes:
        if not _inserts_again(write):
            rows[write.statement].append(write)
    for statement in ORDER:
        # In one order, so that two processes with the same rows do not deadlock.  A
        # revocation changes transactions in the order of their nonces.
        ordered = sorted(rows.get(statement, ()), key=attrgetter("key"))
        if not ordered:
            continue
        done = execute(connection, statement, (each.values for each in ordered))
        if statement in COMPARED and len(done.all()) != len(ordered):
            raise StaleStateError("a refund was changed meanwhile")


def find_reason(connection: sa.Connection, moving: Refund | Transaction) -> StoreError:
    """Return why no statement changed *moving*."""
    for refund in moving.payments:
        params = {"refunds_id": refund.id, "refunds_before": refund.version}
        for table, query in (
            ("transaction_payments", HAS_FORGED_PAYMENT),
            ("attempts", HAS_FORGED_ATTEMPT),
        ):
            if connection.execute(query, params).scalar_one():
                return RowNotAuthenticError(
                    f"a row of `{table}` is about another transaction or signature of"
                    f" the refund {refund.id}, and no process wrote it: the owner of"
                    " the tables must delete it"
                )
    name = " ".join(each.id for each in moving.payments) or moving.id
    return StaleStateError(f"refund {name} or its wallet was changed meanwhile")


def insert_refunds(
    connection: sa.Connection, new: Sequence[tuple[Refund, Values]]
) -> Collection[str]:
    """
    Insert refunds, each with its parameters, and return the ids of those inserted.

    The others have the key, the reference or the id of an earlier one.
    """
    if connection.dialect.name != SQLITE:
        return _insert_on_postgresql(connection, new)
    # SQLite has no roles, and cannot give defaults to the columns of a table.
    rows = [values for _, values in new]
    found = {*execute(connection, ACCEPT_ON_SQLITE, rows).scalars()}
    rows = [values for values in rows if values["refunds_id"] in found]
    for name, insert in ACCEPTED_ON_SQLITE:
        given = [values for values in rows if values[name] is not None]
        if given:
            execute(connection, insert, given)
    return found


def _insert_on_postgresql(
    connection: sa.Connection, new: Sequence[tuple[Refund, Values]]
) -> Collection[str]:
    # Two processes that insert several in different orders could deadlock.
    is_locked = len(new) > 1
    found = set[str]()
    for purpose, accept in ACCEPT_ON_POSTGRESQL.items():
        rows = [
            {**values, LOCK: tenant_lock(refund.tenant) if is_locked else None}
            for refund, values in new
            if refund.purpose is purpose
        ]
        if rows:
            rows.sort(key=lambda row: row[LOCK] or 0)
            found |= {*execute(connection, accept, rows).scalars()}
    return found


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
