"""
The statements that change refunds, built once so that they are compiled once.

Their parameters are named after table and column, such as ``refunds_state``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from backends.sql import audit_rows
from backends.sql.hold_checks import is_stopped, is_token_stopped
from backends.sql.prepared import (
    RowInsert,
    RowStatement,
    RowUpdate,
    given_rows,
    parameter,
    parameters,
)
from backends.sql.refund_rows import NONCE, same_nonce
from backends.sql.tables import (
    ACCEPTED,
    FIRST_EVENT,
    HELD,
    attempts,
    audit_records,
    events,
    refund_moves,
    refunds,
    request_signatures,
    state_in,
    transaction_payments,
    transactions,
)
from backends.sql.versioned_rows import InsertOfDialect
from signer.model.acceptance import SignedRequest
from signer.model.audit_record import Record
from signer.model.event import Event
from signer.model.refund import UNRESERVED, Refund
from signer.model.sealed_fields import KINDS
from signer.model.transaction import TransactionStatus
from signer.row_macs import RowMACs


Values = Mapping[str, Any]

# The columns that may change.  No statement sets any other: what is paid, and with
# which nonce and key, stays as it is.
_MOVED = ("updated_at", "version", "due_at", "attempts", "blocked_by")
SAVED = ("state", *_MOVED, "failure_code", "failure_detail")
ASSIGNED = ("state", *_MOVED, "sender", "position")
SAVED_TRANSACTION = (
    "status",
    *_MOVED,
    *("tx_hash", "block_number", "block_hash"),
)


def update_unchanged(
    table: sa.Table, names: Sequence[str], *conditions: Any
) -> RowUpdate:
    """Return the update of a row that still has the version that was read."""
    before = sa.bindparam(f"{table.name}_before", type_=table.c.version.type)
    return RowUpdate(table, names, table.c.version == before, *conditions)


def _membership(payment_id: Any, *conditions: Any) -> Any:
    return sa.exists().where(
        transaction_payments.c.payment_id == payment_id, *conditions
    )


def _is_other(values: Callable[[str], Any]) -> Any:
    return sa.or_(*(transaction_payments.c[name] != values(name) for name in NONCE))


_ended = transactions.alias("ended_batch")

# A final batch may have skipped a payment, which then gets another transaction.
_MAY_PAY = ~sa.exists().where(
    same_nonce(_ended, transaction_payments),
    sa.text(
        "ended_batch.kind = 'batch' AND ended_batch.status IN ('confirmed', 'failed')"
    ),
)


def had_others_than(earlier: Any) -> Any:
    """
    Return the condition that the refund was given other transactions than *earlier*.

    They are so many final batches.  A changed row could ask for a second transaction;
    memberships are never deleted once something was signed.
    """
    own = parameter(refunds, "id")
    of_own = sa.select(sa.func.count()).where(transaction_payments.c.payment_id == own)
    return sa.or_(of_own.scalar_subquery() != earlier, _membership(own, _MAY_PAY))


def is_elsewhere() -> Any:
    """Return the condition that another transaction of the refund may pay it."""
    own = partial(parameter, refunds)
    return _membership(own("id"), _is_other(own), _MAY_PAY)


def _is_taken(table: sa.Table) -> Any:
    """Return the condition that a row of *table* has the nonce of the refund."""
    return sa.exists().where(
        *(table.c[name] == parameter(refunds, name) for name in NONCE)
    )


_TOKEN = ("chain_id", "token_address", "recipient", "amount")


def names_stopped_token() -> Any:
    """Return the condition that what pays the refund names a token that is held."""
    return is_token_stopped(*parameters(refunds, _TOKEN).values())


# A transaction's own refunds have the positions from 0 on (``Refund.inside``).  Another
# program may have pointed more to it, at higher ones.
_PAID = (
    *(refunds.c[name] == parameter(transactions, name) for name in NONCE),
    refunds.c.position < sa.bindparam("payments", type_=refunds.c.position.type),
)


def _pays(*conditions: Any) -> Any:
    """Return the condition that a refund of the transaction fulfils *conditions*."""
    return sa.exists().where(*_PAID, *conditions)


_IS_ELSEWHERE = _membership(refunds.c.id, _is_other(refunds.c.__getitem__), _MAY_PAY)


# A revocation frees a nonce, which another refund may get while a process still holds
# the deleted transaction: versions begin at 0 again.
_update_transaction = partial(
    update_unchanged,
    transactions,
    SAVED_TRANSACTION,
    transactions.c.composition == parameter(transactions, "composition"),
)

SAVE = update_unchanged(refunds, SAVED)
"""Changes the state of a refund, or when it is due."""

RELEASE = update_unchanged(refunds, (*SAVED, "sender", "nonce", "position"))
"""Takes a refund out of its final transaction, which has not paid it."""

_PLACE = (*NONCE, "position")

# With its position, PostgreSQL finds it alone in either index.
KEEP = update_unchanged(
    refunds, (), *(refunds.c[name] == parameter(refunds, name) for name in _PLACE)
)
"""Requires that a refund is unchanged and in its transaction, and locks its row."""

PLACE = update_unchanged(
    refunds,
    (*ASSIGNED, "nonce"),
    sa.text(state_in(*(each.state for each in UNRESERVED))),
    ~is_elsewhere(),
    ~_is_taken(transactions),
    ~_is_taken(attempts),
)
"""Gives a refund without a nonce a known one, which it had before a restore."""

SAVE_TRANSACTION = _update_transaction()
"""Changes the status of a transaction, or when it is due."""

# Signed bytes that are not recorded are not broadcast.  A no-op consumes the nonce of a
# transfer of a held token.  One statement changes both kinds in the order of nonces.
RECORD = _update_transaction(
    ~_pays(_IS_ELSEWHERE),
    ~is_stopped(parameter(transactions, "chain_id")),
    sa.or_(
        sa.bindparam("is_noop", type_=sa.Boolean),
        ~_pays(is_token_stopped(*(refunds.c[name] for name in _TOKEN))),
    ),
)
"""Changes the status of a transaction that was signed, unless signing is stopped."""

RESERVE_TRANSACTION = RowInsert(transactions, parameters(transactions, HELD))
"""Inserts a transaction that is reserved."""

ADOPT_TRANSACTION = RowInsert(
    transactions, parameters(transactions, tuple(transactions.c.keys()))
)
"""Inserts a transaction that the ledger had lost, and that is mined."""

INSERT_MEMBERSHIP = RowInsert(
    transaction_payments,
    {
        **parameters(refunds, _PLACE),
        "payment_id": parameter(refunds, "id"),
    },
)
"""Inserts that a refund belongs to its transaction."""

_move = {
    "refund_id": parameter(refunds, "id"),
    "version": sa.bindparam("revision", type_=refund_moves.c.version.type),
    "status": sa.bindparam("status", type_=refund_moves.c.status.type),
    "at": sa.bindparam("moved_at", type_=refund_moves.c.at.type),
}
_FIRST_MOVE = {name: _move[name] for name in ("refund_id", "status", "at")}
_EVENT = (*KINDS[Event].covered, "mac")

INSERT_MOVE = RowInsert(refund_moves, _move)
"""Inserts the row of history of a change."""

INSERT_MOVES = RowInsert(
    refund_moves,
    {
        "refund_id": refunds.c.id,
        "version": refunds.c.version + parameter(transactions, "version"),
        "status": parameter(transactions, "status"),
        "at": parameter(transactions, "updated_at"),
    },
    *_PAID,
    # "= 'assigned'" would let PostgreSQL read an index of all open refunds.
    sa.literal_column("refunds.state NOT IN ('confirmed', 'failed')"),
)
"""Inserts that of each refund of a transaction, which moves with it."""

INSERT_ATTEMPT = RowInsert(attempts, parameters(attempts, tuple(attempts.c.keys())))
"""Inserts signed bytes."""

INSERT_EVENT = RowInsert(events, parameters(events, _EVENT))
"""Inserts what the tenant of a refund learns of a change."""

INSERT_AUDIT_RECORD = audit_rows.INSERT

COMPARED = (RECORD, SAVE_TRANSACTION, PLACE, SAVE, RELEASE, KEEP)
"""Statements that change one row, or none if it is not what was read."""

HAS_FORGED_PAYMENT = sa.select(
    sa.exists().where(
        refunds.c.id == parameter(refunds, "id"),
        refunds.c.version == sa.bindparam("refunds_before"),
        _membership(
            refunds.c.id,
            sa.or_(refunds.c.nonce.is_(None), _is_other(refunds.c.__getitem__)),
            _MAY_PAY,
        ),
    )
)
"""Whether another transaction than its own may pay an unchanged refund."""

HAS_OTHERS = sa.select(
    sa.exists().where(
        refunds.c.id == parameter(refunds, "id"),
        refunds.c.version == sa.bindparam("refunds_before"),
        had_others_than(sa.bindparam("earlier", type_=sa.Integer)),
    )
)
"""Whether an unchanged refund was given other transactions than so many."""

HAS_FORGED_ATTEMPT = sa.select(
    sa.exists().where(
        refunds.c.id == parameter(refunds, "id"),
        same_nonce(transactions, refunds),
        transactions.c.status == TransactionStatus.RESERVED,
        same_nonce(attempts, transactions),
    )
)
"""Whether a transaction has an attempt although nothing was signed."""

ORDER: Sequence[RowStatement] = (
    *COMPARED,
    RESERVE_TRANSACTION,
    ADOPT_TRANSACTION,
    INSERT_MEMBERSHIP,
    INSERT_MOVE,
    INSERT_MOVES,
    INSERT_ATTEMPT,
    INSERT_EVENT,
    INSERT_AUDIT_RECORD,
)
"""The order of the statements of a change, in which no two processes deadlock."""


# What an acceptance inserts besides the refund, each with its table.
_ACCEPTED_WITH = (
    (refund_moves, _FIRST_MOVE),
    (events, parameters(events, FIRST_EVENT)),
    (request_signatures, parameters(request_signatures, request_signatures.c.keys())),
    (audit_records, parameters(audit_records, ("id", "body", "mac"))),
)


def _accept(insert_: InsertOfDialect, names: Sequence[str]) -> Any:
    """Return the statement that inserts a refund with the columns *names*."""
    accept = insert_(refunds).values(parameters(refunds, names))
    return accept.on_conflict_do_nothing().returning(refunds.c.id)


ACCEPT_ON_SQLITE = _accept(sqlite.insert, tuple(refunds.c.keys()))
"""Inserts refunds, and returns a row for each; ``ACCEPTED_ON_SQLITE`` follow."""

ACCEPTED_ON_SQLITE = tuple(
    (next(iter(row.values())).key, RowInsert(table, row))
    for table, row in _ACCEPTED_WITH
)
"""What is inserted with a refund, each with the parameter that is None if it is not."""


LOCK = "lock"
"""The parameter of an acceptance on PostgreSQL that is the lock of its tenant."""


def _accept_together(names: Sequence[str]) -> sa.Executable:
    """
    Return one statement that inserts refunds with the columns *names*, and the rest.

    All parts use one snapshot and succeed or fail together.  The inserts select from
    the rows that the first returned, so they insert nothing for an earlier refund.  The
    lock ``LOCK`` of a row is taken before it is inserted, until the transaction ends.
    """
    own = parameters(refunds, names)
    needed = [*own.values(), *(v for _, row in _ACCEPTED_WITH for v in row.values())]
    types = {each.key: each.type for each in needed}
    rows = given_rows({**types, LOCK: sa.BigInteger()})
    locked = sa.func.pg_advisory_xact_lock(rows.c[LOCK]).label("locked")
    given = sa.select(rows, locked).cte("given")
    insert_ = postgresql.insert(refunds).from_select(
        names, sa.select(*(given.c[each.key] for each in own.values()))
    )
    accepted = insert_.on_conflict_do_nothing().returning(refunds.c.id).cte("accepted")
    is_new = given.c[own["id"].key] == accepted.c.id
    return sa.select(accepted.c.id).add_cte(
        *(
            sa.insert(table)
            .from_select(
                list(row), _rows(given, row).join_from(given, accepted, is_new)
            )
            .cte(f"new_{table.name}")
            for table, row in _ACCEPTED_WITH
        )
    )


def _rows(given: sa.CTE, row: Mapping[str, Any]) -> sa.Select[Any]:
    # Insert nothing for a row without an id.
    id_, *_ = columns = [given.c[each.key] for each in row.values()]
    return sa.select(*columns).where(id_.is_not(None))


ACCEPT_ON_POSTGRESQL = {
    purpose: _accept_together(names) for purpose, names in ACCEPTED.items()
}
"""By purpose, whole acceptances in one round trip; each sets what its roles may."""

_NO_RECORD = dict.fromkeys(
    ("audit_records_id", "audit_records_body", "audit_records_mac")
)
_NO_EVENT = dict.fromkeys(f"events_{name}" for name in _EVENT)
_event_values = attrgetter(*_EVENT)


def accepted_values(
    macs: RowMACs, refund: Refund, record: Record | None, signed: SignedRequest | None
) -> Values:
    """Return the parameters that accept *refund*, whose MAC it has."""
    of_refund, *names = request_signatures.c.keys()
    request: dict[str, Any] = {of_refund: None if signed is None else refund.id}
    request |= {name: getattr(signed, name, None) for name in names}
    return {
        **_NO_EVENT,
        **_NO_RECORD,
        **refund_values(macs, None, refund),
        **({} if record is None else record_values(macs, record)),
        **{f"request_signatures_{name}": value for name, value in request.items()},
    }


def refund_values(macs: RowMACs, before: Refund | None, after: Refund) -> Values:
    """Return the parameters of a change of a refund, its history and its event."""
    params = {
        **fields_of(refunds, after),
        "revision": after.revision,
        "status": after.status,
        "moved_at": after.moving.updated_at,
        **event_values(macs, before, after),
    }
    if before is not None:
        params["refunds_before"] = before.version
    return params


def kept_values(refund: Refund) -> Values:
    """Return the parameters of ``KEEP``."""
    params = {f"refunds_{name}": getattr(refund, name) for name in ("id", *_PLACE)}
    return {**params, "refunds_before": refund.version}


def event_values(macs: RowMACs, before: Refund | None, after: Refund) -> Values:
    """Return the parameters of the event of a change of a refund, if it has one."""
    event = Event.of(before, after)
    if event is None:
        return {}
    row = dict(zip(_NO_EVENT, _event_values(event), strict=True))
    return {**row, "events_mac": macs.compute(event)}


def record_values(macs: RowMACs, record: Record) -> Values:
    """Return the parameters that insert *record*."""
    row = record.id, record.body, macs.mac_of(record)
    return dict(zip(_NO_RECORD, row, strict=True))


@lru_cache
def _fields(table: sa.Table) -> tuple[Sequence[str], Callable[[object], Any]]:
    names = table.c.keys()
    return [f"{table.name}_{name}" for name in names], attrgetter(*names)


def fields_of(table: sa.Table, source: object) -> dict[str, Any]:
    """Return the parameters of all columns of *table*."""
    names, values = _fields(table)
    return dict(zip(names, values(source), strict=True))
