"""
The statements that change the ledger, written once and compiled once.

Their parameters are named for table and column: ``refunds_status``.  Each change
returns the row's nonce, or no row when it did not apply.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    Boolean,
    Executable,
    Integer,
    Select,
    Table,
    bindparam,
    exists,
    func,
    insert,
    literal_column,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from backends.sql.columns import UTCDateTime
from backends.sql.schema import (
    IS_CLAIMABLE,
    audit_records,
    keys,
    refund_moves,
    refunds,
    sightings,
    stops,
    transactions,
    wallets,
)
from signer.model.audit_record import Record
from signer.model.refund import Refund, SignedTransaction, Status


Change = ReturningInsert[int | None] | ReturningUpdate[int | None]
InsertOfDialect = Callable[[Table], sqlite.Insert | postgresql.Insert]
INSERT: Mapping[str, InsertOfDialect] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
"""By dialect: the insert that knows what to do on a conflict."""


def insert_new(dialect: str, table: Table) -> ReturningInsert[Any]:
    """Return an insert that does nothing, and returns no row, where the key exists."""
    insert_ = INSERT[dialect](table).on_conflict_do_nothing()
    # The drivers report different row counts for an insert; a returned row is exact.
    return insert_.returning(literal_column("1", Integer))


Values = Mapping[str, Any]

# What may change after the reservation.  The rest of a row, above all its nonce,
# stands in no other statement's SET: one refund keeps one nonce for life.
SAVED = (
    "status",
    "updated_at",
    "version",
    "tx_hash",
    "block_number",
    "block_hash",
    "failure_code",
    "failure_detail",
    "due_at",
    "attempts",
    "blocked_by",
)
_RESERVED = (
    "status",
    "updated_at",
    "version",
    "due_at",
    "attempts",
    "blocked_by",
    "sender",
    "key_id",
    "gas_limit",
)


def _parameter(table: Table, name: str) -> Any:
    return bindparam(f"{table.name}_{name}", type_=table.c[name].type)


def _parameters(table: Table, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: _parameter(table, name) for name in names}


def next_nonce(chain_id: Any, sender: Any) -> Any:
    """
    Return one past the highest nonce that a refund or a sighting of the wallet has.

    Each is ordered by a unique index, so that it costs the same in a ledger of
    millions.  It is never less than the wallet's first one.
    """

    def one_past(table: Table) -> Any:
        taken = table.alias()
        return (
            select(taken.c.nonce + 1)
            .where(
                taken.c.chain_id == chain_id,
                taken.c.sender == sender,
                taken.c.nonce.is_not(None),
            )
            .order_by(taken.c.nonce.desc())
            .limit(1)
            .scalar_subquery()
        )

    first = (
        select(wallets.c.first_nonce)
        .where(wallets.c.chain_id == chain_id, wallets.c.sender == sender)
        .scalar_subquery()
    )
    each = union_all(
        *(
            select(nonce.label("nonce"))
            for nonce in (one_past(refunds), one_past(sightings), first)
        )
    ).subquery()
    return select(func.max(each.c.nonce)).scalar_subquery()


def _may_reserve() -> tuple[Any, ...]:
    """
    Return what a reservation requires of the wallet, and of the refund's past.

    The process has looked before; what happened since then, the statement sees.
    """
    chain_id, sender = _parameter(refunds, "chain_id"), _parameter(refunds, "sender")
    counted = bindparam("counted", type_=refunds.c.nonce.type)
    mark = bindparam("mark", type_=sightings.c.mark.type)
    going_on = exists().where(
        wallets.c.chain_id == chain_id,
        wallets.c.sender == sender,
        wallets.c.paused_by.is_(None),
    )
    paid = exists().where(sightings.c.chain_id == chain_id, sightings.c.mark == mark)
    stopped = exists().where(stops.c.chain_id == chain_id)
    # A sweep is paid by a key that pays nothing else any more.
    states = "keys.state = 'active' AND NOT :sweeps"
    former = "keys.state IN ('draining', 'retired') AND :sweeps"
    sweeps = bindparam("sweeps", type_=Boolean)
    may_pay = text(f"({states} OR {former})").bindparams(sweeps)
    # Another place of the same key is not where it is asked to sign any more.
    place = keys.c.key_id == _parameter(refunds, "key_id")
    active = exists().where(keys.c.address == sender, place, may_pay)
    # And it pays the active one, not whichever was that when it was asked for.
    heirs = keys.alias("heirs")
    is_heir = (
        heirs.c.address == _parameter(refunds, "recipient"),
        text("heirs.state = 'active'"),
    )
    destined = exists().where(*is_heir) | ~sweeps
    ahead = next_nonce(chain_id, sender) >= counted
    return (active, destined, going_on, ~stopped, ~paid, ahead)


_everything = _parameters(refunds, tuple(refunds.c.keys()))
_unmoved = update(refunds).where(
    refunds.c.id == _parameter(refunds, "id"),
    refunds.c.version == bindparam("before_version", type_=refunds.c.version.type),
)


class Step(Enum):
    """The changes there are."""

    ACCEPT = "insert a refund, unless a unique constraint knows it"
    RESERVE = "give a queued refund the next nonce of its wallet"
    ADOPT = "give a queued refund the transaction that has paid it"
    SAVE = "move a refund on"
    POSTPONE = "let a refund be due at another time"
    RECORD = "move a refund on, and keep its signed bytes"


AUDITED = frozenset({Step.RESERVE, Step.RECORD})
"""The changes that may come with a record of the audit."""


def change(step: Step, insert_: InsertOfDialect) -> Change:
    """Return the statement that changes ``refunds`` for *step*."""
    if step is Step.ACCEPT:
        accept = insert_(refunds).values(_everything).on_conflict_do_nothing()
        return accept.returning(refunds.c.nonce)
    queued = _unmoved.where(refunds.c.status == Status.QUEUED)
    if step is Step.RESERVE:
        wallet = _parameter(refunds, "chain_id"), _parameter(refunds, "sender")
        given = {**_parameters(refunds, _RESERVED), "nonce": next_nonce(*wallet)}
        return queued.where(*_may_reserve()).values(given).returning(refunds.c.nonce)
    saved = _parameters(refunds, SAVED)
    if step is Step.ADOPT:
        given = {**saved, **_parameters(refunds, (*_RESERVED, "nonce"))}
        return queued.values(given).returning(refunds.c.nonce)
    return _unmoved.values(saved).returning(refunds.c.nonce)


_move = {
    "refund_id": _parameter(refunds, "id"),
    "version": _parameter(refunds, "version"),
    "status": _parameter(refunds, "status"),
    "at": _parameter(refunds, "updated_at"),
}
_record = _parameters(transactions, tuple(transactions.c.keys()))
_evidence = _parameters(audit_records, ("id", "body"))

MOVE = insert(refund_moves).values(_move)
"""Write the line of history that belongs to a change."""

RECORD = insert(transactions).values(_record)
"""Keep signed bytes."""

EVIDENCE = insert(audit_records).values(_evidence)
"""Keep a record of the audit."""


ON_SQLITE = {step: change(step, sqlite.insert) for step in Step}
"""What changes ``refunds``; ``MOVE`` and ``RECORD`` follow, if it returned a row."""


def _together(step: Step) -> Executable:
    """
    Return one statement for *step*, its line of history and its signed bytes.

    Its parts see one snapshot and stand or fall together; the inserts select from
    what the change returned, and do nothing when that is nothing.
    """
    changed = change(step, postgresql.insert).cte("changed")
    inserts = [] if step is Step.POSTPONE else [(refund_moves, _move)]
    if step is Step.RECORD:
        inserts.append((transactions, _record))
    if step in AUDITED:
        inserts.append((audit_records, _evidence))
    return select(changed.c.nonce).add_cte(
        *(
            insert(table)
            .from_select(list(row), _row(row).select_from(changed))
            .cte(f"new_{table.name}")
            for table, row in inserts
        )
    )


def _row(row: Mapping[str, Any]) -> Select[Any]:
    # Not every change has a record; none is written without its id.
    id_ = row.get("id")
    chosen = select(*row.values())
    return chosen if id_ is None else chosen.where(id_.is_not(None))


def _claim() -> ReturningUpdate[Any]:
    """
    Return the statement that takes up refunds which are due.

    PostgreSQL passes over rows that somebody else is about to take; SQLite, where
    one writes at a time, has no such rows.
    """
    due_at = refunds.c.due_at
    given = {name: bindparam(name, type_=UTCDateTime) for name in ("now", "far")}
    due = (
        select(refunds.c.id)
        .where(text(IS_CLAIMABLE), (due_at <= given["now"]) | (due_at > given["far"]))
        .order_by(due_at)
        .limit(bindparam("at_most"))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return (
        update(refunds)
        .where(refunds.c.id.in_(select(due.c.id)))
        .values(
            version=refunds.c.version + 1,
            due_at=bindparam("until", type_=UTCDateTime),
        )
        .returning(refunds)
    )


CLAIM = _claim()

ON_POSTGRESQL = {step: _together(step) for step in Step}
"""The whole change, in one statement and so in one round trip."""


def values(
    before: Refund | None,
    after: Refund,
    transaction: SignedTransaction | None = None,
    record: Record | None = None,
) -> Values:
    """Return the parameters of every statement about the step to *after*."""
    given = _fields(refunds, after)
    given["audit_records_id"] = None if record is None else record.id
    given["audit_records_body"] = None if record is None else record.body
    if before is not None:
        given["before_version"] = before.version
    if transaction is not None:
        given.update(_fields(transactions, transaction))
    return given


def _fields(table: Table, source: object) -> dict[str, Any]:
    names = table.c.keys()
    return {
        f"{table.name}_{name}": value
        for name, value in zip(names, attrgetter(*names)(source), strict=True)
    }
