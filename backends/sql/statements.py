"""
The statements that change refunds, built once so that they are compiled once.

Their parameters are named after table and column, such as ``refunds_status``.  Each
returns the nonce of the changed row, or no row if its condition did not hold.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    Executable,
    Select,
    Table,
    Update,
    bindparam,
    exists,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from backends.sql.holds import is_stopped, is_token_stopped
from backends.sql.inserts import InsertOfDialect
from backends.sql.schema import (
    ACCEPTED,
    FIRST_EVENT,
    attempts,
    audit_records,
    events,
    refund_moves,
    refunds,
    request_signatures,
)
from signer.model.audit_record import Record
from signer.model.event import Event
from signer.model.refund import UNRESERVED, PaymentPurpose, Refund, SignedTransaction
from signer.model.row import KINDS
from signer.model.signed_request import SignedRequest
from signer.row_macs import RowMACs


Change = ReturningInsert[int | None] | ReturningUpdate[int | None]
Values = Mapping[str, Any]

# The columns that may change after the reservation.  No statement sets any other, above
# all not the nonce: a refund keeps its nonce permanently.
_MOVED = ("status", "updated_at", "version", "due_at", "attempts", "blocked_by")
_OUTCOME = ("tx_hash", "block_number", "block_hash", "failure_code", "failure_detail")
SAVED = (*_MOVED, *_OUTCOME)
RESERVED = (*_MOVED, "sender", "key_id", "gas_limit")


def parameter(table: Table, name: str) -> Any:
    return bindparam(f"{table.name}_{name}", type_=table.c[name].type)


def parameters(table: Table, names: Sequence[str]) -> dict[str, Any]:
    return {name: parameter(table, name) for name in names}


def _has_one_nonce() -> Any:
    """Return the condition that all signed bytes of the refund have its nonce."""
    other = (attempts.c.sender != parameter(refunds, "sender")) | (
        attempts.c.nonce != parameter(refunds, "nonce")
    )
    of_refund = attempts.c.refund_id == parameter(refunds, "id")
    return ~exists().where(of_refund, other)


def names_stopped_token() -> Any:
    """Return the condition that what pays the refund names a token that is held."""
    names = "chain_id", "token_address", "recipient", "amount"
    return is_token_stopped(*parameters(refunds, names).values())


UNCHANGED = update(refunds).where(
    refunds.c.id == parameter(refunds, "id"),
    refunds.c.version == bindparam("before_version", type_=refunds.c.version.type),
)


class Step(Enum):
    """The possible changes of a refund."""

    ACCEPT = "insert a refund, unless it violates a unique constraint"
    ADOPT = "assign a refund without a nonce the transaction that already paid it"
    HOLD = "give a refund without a nonce the one that it had before a restore"
    SAVE = "change the state of a refund"
    POSTPONE = "change when a refund is due"
    RECORD = "change the state of a refund, and insert its signed bytes"


def change(
    step: Step,
    insert_: InsertOfDialect,
    accepted: Sequence[str] = ACCEPTED[PaymentPurpose.REFUND],
) -> Change:
    """
    Return the statement that changes ``refunds`` for *step*.

    *accepted* are the columns of a new refund on PostgreSQL.
    """
    if step is Step.ACCEPT:
        # SQLite has no roles, and cannot give defaults to the columns of a table.
        is_granted = insert_ is postgresql.insert
        names = accepted if is_granted else tuple(refunds.c.keys())
        accept = insert_(refunds).values(parameters(refunds, names))
        return accept.on_conflict_do_nothing().returning(refunds.c.nonce)
    if step in {Step.ADOPT, Step.HOLD}:
        queued = UNCHANGED.where(refunds.c.status.in_(sorted(UNRESERVED)))
        # The role of administrators may hold a nonce, and set no outcome.
        outcome = _OUTCOME if step is Step.ADOPT else ()
        assigned = parameters(refunds, (*RESERVED, *outcome, "nonce"))
        return queued.values(assigned).returning(refunds.c.nonce)
    return _saving(step).returning(refunds.c.nonce)


def _saving(step: Step) -> Update:
    changed = UNCHANGED.values(parameters(refunds, SAVED))
    if step is Step.RECORD:
        # Signed bytes that are not recorded are not broadcast.
        stopped = is_stopped(parameter(refunds, "chain_id"))
        # A no-op has a reason.  It consumes the nonce of a transfer of a held token.
        is_noop = parameter(refunds, "failure_code").is_not(None)
        changed = changed.where(
            _has_one_nonce(), ~stopped, is_noop | ~names_stopped_token()
        )
    return changed


_move = {
    "refund_id": parameter(refunds, "id"),
    "version": parameter(refunds, "version"),
    "status": parameter(refunds, "status"),
    "at": parameter(refunds, "updated_at"),
}
_FIRST_MOVE = {name: _move[name] for name in ("refund_id", "status", "at")}
_record = parameters(attempts, tuple(attempts.c.keys()))
_signed_request = parameters(request_signatures, tuple(request_signatures.c.keys()))
_audit_record = parameters(audit_records, ("id", "body", "mac"))
_EVENT = (*KINDS[Event].covered, "mac")
_event = parameters(events, _EVENT)

_first_event = parameters(events, FIRST_EVENT)

INSERT_MOVE = insert(refund_moves).values(_move)
"""Inserts the row of history of a change."""

INSERT_ATTEMPT = insert(attempts).values(_record)
"""Inserts signed bytes."""

INSERT_AUDIT_RECORD = insert(audit_records).values(_audit_record)
"""Inserts an audit record."""

_NO_RECORD = dict.fromkeys(
    ("audit_records_id", "audit_records_body", "audit_records_mac")
)
_NO_EVENT = dict.fromkeys(f"events_{name}" for name in _EVENT)
_event_values = attrgetter(*_EVENT)

# The inserts of the rows that a change may have, each with the parameter that is None
# if there is no such row.
_audit = "audit_records_id", INSERT_AUDIT_RECORD
_new_event = "events_id", insert(events).values(_event)
_request = (
    "request_signatures_refund_id",
    insert(request_signatures).values(_signed_request),
)
OPTIONAL: Mapping[Step, Sequence[tuple[str, Executable]]] = {
    Step.ACCEPT: (_new_event, _request, _audit),
    Step.ADOPT: (),
    Step.HOLD: (),
    Step.SAVE: (_new_event, _audit),
    Step.RECORD: (_audit,),
}

SAVE_MANY = {step: _saving(step) for step in (Step.SAVE, Step.POSTPONE, Step.RECORD)}
"""The changes of ``refunds`` alone; the number of changed rows shows if all were."""

ON_SQLITE = {step: change(step, sqlite.insert) for step in Step}
"""The changes of ``refunds`` alone; if one returns a row, the inserts must follow."""


def _combine(
    step: Step, accepted: Sequence[str] = ACCEPTED[PaymentPurpose.REFUND]
) -> Executable:
    """
    Return one statement for *step*, its history and its signed bytes.

    A new refund has the columns *accepted*.

    All parts use one snapshot and succeed or fail together.  The inserts select from
    the row that the change returned, so they insert nothing if there is none.
    """
    changed = change(step, postgresql.insert, accepted).cte("changed")
    inserts = [] if step is Step.POSTPONE else [(refund_moves, _move)]
    if step is Step.ACCEPT:
        inserts = [(refund_moves, _FIRST_MOVE)]
    if step is Step.RECORD:
        inserts.append((attempts, _record))
    if step is Step.ACCEPT:
        inserts.append((events, _first_event))
        inserts.append((request_signatures, _signed_request))
    if step is Step.SAVE:
        inserts.append((events, _event))
    if step in {Step.ACCEPT, Step.SAVE, Step.RECORD}:
        inserts.append((audit_records, _audit_record))
    return select(changed.c.nonce).add_cte(
        *(
            insert(table)
            .from_select(list(row), _row(row).select_from(changed))
            .cte(f"new_{table.name}")
            for table, row in inserts
        )
    )


def _row(row: Mapping[str, Any]) -> Select[Any]:
    # Insert nothing for a row without an id.
    id_, *_ = row.values()
    return select(*row.values()).where(id_.is_not(None))


ON_POSTGRESQL = {step: _combine(step) for step in Step}
"""The whole change, in one statement and one round trip."""

ACCEPT = {purpose: _combine(Step.ACCEPT, names) for purpose, names in ACCEPTED.items()}
"""By purpose, ``Step.ACCEPT`` on PostgreSQL: each sets what some roles may set."""


def values(
    before: Refund | None,
    after: Refund,
    transaction: SignedTransaction | None = None,
) -> Values:
    """
    Return the parameters of all statements that change *before* to *after*.

    Those of an audit record and of an event are None; ``record_values`` and
    ``event_values`` return them.
    """
    params = {**_fields(refunds, after), **_NO_RECORD, **_NO_EVENT}
    if before is not None:
        params["before_version"] = before.version
    if transaction is not None:
        params.update(_fields(attempts, transaction))
    return params


def record_values(macs: RowMACs, record: Record) -> Values:
    """Return the parameters that insert *record*."""
    row = record.id, record.body, macs.mac_of(record)
    return dict(zip(_NO_RECORD, row, strict=True))


def event_values(macs: RowMACs, before: Refund | None, after: Refund) -> Values:
    """Return the parameters that insert the event of a change, if it has one."""
    event = Event.of(before, after)
    if event is None:
        return {}
    row = dict(zip(_NO_EVENT, _event_values(event), strict=True))
    return row | {"events_mac": macs.compute(event)}


def signed_values(refund: Refund, signed: SignedRequest | None) -> Values:
    """Return the parameters that insert *signed*, the request for *refund*."""
    of_refund, *names = request_signatures.c.keys()
    row: dict[str, Any] = {of_refund: None if signed is None else refund.id}
    row |= {name: getattr(signed, name, None) for name in names}
    return {f"request_signatures_{name}": value for name, value in row.items()}


def _fields(table: Table, source: object) -> dict[str, Any]:
    names = table.c.keys()
    return {
        f"{table.name}_{name}": value
        for name, value in zip(names, attrgetter(*names)(source), strict=True)
    }
