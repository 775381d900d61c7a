"""
The rows of holds, and the register that lists their versions.

A hold must be present to be lifted.  So a row that was deleted, or replaced by an older
one with its valid MAC, counts as in force.  So does everything while the register is
missing, changed, or older than the one that this process or the audit log knows.
"""

import json
import math
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from backends.sql.advisory_locks import lock_keys
from backends.sql.approvals import use_approval
from backends.sql.database import Tables
from backends.sql.tables import audit_records, holds
from backends.sql.versioned_rows import SealedRows
from signer.errors import RowNotAuthenticError, StaleStateError, StoreUnavailableError
from signer.model.approval import ApprovalUse
from signer.model.audit_record import Record
from signer.model.hold import (
    EVERYTHING,
    STOPS,
    Hold,
    Scope,
    name_of_chain,
    name_of_tenant,
)
from signer.row_macs import RowMACs


_REGISTER = "register"  # The name of the register's row; no hold has it.

_CHAIN_ID = re.compile(r"-?[1-9][0-9]{0,18}")

_TOKEN = re.compile(r"[1-9][0-9]{0,18} 0x[0-9a-f]{40}")

_ABSENT = -1  # The version of a row that should be there.

_THEN = datetime(1970, 1, 1, tzinfo=UTC)

_register = holds.alias("register")

_WIDTH = len(_register.c)


def _select(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Return the query of the register, joined with the holds of *condition*."""
    return (
        sa.select(*_register.c, *holds.c)
        .select_from(sa.select(sa.literal(1)).subquery())
        .outerjoin(_register, _register.c.name == _REGISTER)
        .outerjoin(holds, condition)
    )


_ALL = _select(holds.c.name != _REGISTER)

_OF_TOKENS = (holds.c.name > sa.bindparam("tokens")) & (
    holds.c.name < sa.bindparam("end")
)

_FEW = ("first", "second", "third")

# SQLAlchemy renders a list of unknown length again at each execution.
_SOME_OF_FEW = _select(
    holds.c.name.in_([sa.bindparam(name) for name in _FEW]) | _OF_TOKENS
)

_SOME = _select(holds.c.name.in_(sa.bindparam("wanted", expanding=True)) | _OF_TOKENS)

_LOCK_REGISTER = sa.select(holds).where(holds.c.name == _REGISTER).with_for_update()

_RECORDED = (
    sa.select(audit_records.c.id, audit_records.c.body, audit_records.c.mac)
    .where(
        sa.text("""body LIKE '%"hold_changes":%'"""),
        audit_records.c.id < sa.bindparam("end"),
    )
    .order_by(audit_records.c.id.desc())
    .limit(200)
)

_END = "\U0010ffff"  # Above the ids of all records of the service.

_NEWEST = 20  # Two processes may record their changes in the other order.

_READ_AGAIN_SECONDS = 10.0


@dataclass(slots=True)
class _Known:
    """The most changes that a register has had, and when the audit log was read."""

    changes: int = 0
    read_at: float = -math.inf


# By engine, which is of one process.
_newest: WeakKeyDictionary[sa.Engine, _Known] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Register:
    """``changes`` counts them all; ``versions`` are those of the holds, by name."""

    changes: int = 0
    versions: dict[str, int] = field(default_factory=dict)


def select_holds(
    connection: sa.Connection, macs: RowMACs, *wanted: str, tokens_of: int | None = None
) -> tuple[Register | None, Sequence[Hold]]:
    """
    Return the register, and the holds with the names *wanted*, by default all.

    With *wanted*, those of the tokens of the chain *tokens_of* are among them.  Those
    that should be there are among them, too.  Without a register, these are those with
    the names *wanted*, or the stop of everything.
    """
    known = _known_changes(connection, macs)  # Before the statement's snapshot.
    tokens = f"{Scope.TOKEN} {tokens_of} "
    params: dict[str, Any] = {"tokens": tokens, "end": f"{tokens}~"}
    if not wanted:
        joined = connection.execute(_ALL).all()
    elif len(wanted) <= len(_FEW):
        params |= {each: wanted[min(n, len(wanted) - 1)] for n, each in enumerate(_FEW)}
        joined = connection.execute(_SOME_OF_FEW, params).all()
    else:
        joined = connection.execute(_SOME, params | {"wanted": wanted}).all()
    register = _verified(macs, joined[0][:_WIDTH], known)
    rows = [Hold(*row[_WIDTH:]) for row in joined if row[_WIDTH] is not None]
    stored = {row.name: row for row in rows if _is_name(row.name)}
    if register is None:
        versions: Mapping[str, int] = {}
        expected = {*wanted} or {name_of_chain(EVERYTHING)}
    else:
        versions = register.versions
        expected = {
            name
            for name in versions
            if not wanted or name in wanted or name.startswith(tokens)
        }
    flagged = []
    for name, row in stored.items():
        is_authentic = versions.get(name) == row.version and macs.is_valid(row.mac, row)
        flagged.append(replace(row, is_authentic=is_authentic))
    flagged += [
        Hold(name, _THEN, "", "", version=_ABSENT, is_authentic=False)
        for name in expected - {*stored}
    ]
    return register, sorted(flagged, key=_order)


def _is_name(name: str) -> bool:
    """Return whether *name* can be that of a hold: another program may insert any."""
    scope, _, subject = name.partition(" ")
    if scope == Scope.NETWORK:
        # Another spelling would be a second stop of the chain, which no command ends.
        return _CHAIN_ID.fullmatch(subject) is not None
    if scope == Scope.TOKEN:
        return _TOKEN.fullmatch(subject) is not None
    return scope in {*Scope} and (scope == Scope.EVERYTHING) == (not subject)


def _order(hold: Hold) -> tuple[Any, ...]:
    chain_id = hold.chain_id if hold.scope in STOPS else 0
    return hold.scope is Scope.TENANT, bool(hold.token), chain_id, hold.subject


def of_scopes(scopes: Collection[Scope], found: Sequence[Hold]) -> Sequence[Hold]:
    return tuple(hold for hold in found if hold.scope in scopes)


def _put(
    connection: sa.Connection, macs: RowMACs, stored: Hold | None, new: Hold
) -> Register:
    """
    Replace *stored* by *new*, and list its version in the register, which is returned.

    Only a stop of everything may begin a new register: nothing lists the holds that
    were deleted with the old one.

    Raises:
        RowNotAuthenticError: There is no valid register.
        StaleStateError: Another process changed the row or the register meanwhile.
    """
    before = connection.execute(_LOCK_REGISTER).one_or_none()
    known = _known_changes(connection, macs)
    register = _verified(macs, before, known) if before else None
    if register is None and new.scope is not Scope.EVERYTHING:
        raise RowNotAuthenticError(
            "another program changed or deleted the register of holds: all of them"
            " count as in force, and `hotwallet stop` begins a new one"
        )
    rows = SealedRows(connection, macs, holds, Hold)
    if stored is None or stored.version == _ABSENT:
        after = rows.insert(new)
    else:
        after = rows.replace(stored, new)
    register = register or Register(known)
    versions = register.versions | {after.name: after.version}
    changed = Register(register.changes + 1, versions)
    _write(connection, macs, before, changed)
    return changed


def begin_register(connection: sa.Connection, macs: RowMACs) -> None:
    """Insert the register of a ledger that has just been created."""
    _write(connection, macs, None, Register())


def renew_holds(connection: sa.Connection, macs: RowMACs) -> None:
    """Give the register, and rows that are authentic, a MAC under the current key."""
    for row in select_holds(connection, macs)[1]:
        if row.is_authentic and not macs.is_current(row.mac):
            _put(connection, macs, row, row)
    before = connection.execute(_LOCK_REGISTER).one_or_none()
    if before is not None and not macs.is_current(before.mac):
        register = _verified(macs, before, _known_changes(connection, macs))
        if register is not None:
            _write(connection, macs, before, register)


def _remember(connection: sa.Connection, register: Register | None) -> None:
    """
    Refuse earlier registers from now on: *register* is committed.

    No transaction may call it, since a register of its own could be rolled back.
    """
    if register is not None:
        known = _newest.setdefault(connection.engine, _Known())
        known.changes = max(known.changes, register.changes)


def _known_changes(connection: sa.Connection, macs: RowMACs) -> int:
    """
    Return how many changes there were, at least.

    The audit log is read now and then: another program may have put the register back
    before this process saw a change of another one.
    """
    known, now = _newest.setdefault(connection.engine, _Known()), time.monotonic()
    if now - known.read_at >= _READ_AGAIN_SECONDS:
        recorded = islice(_recorded_changes(connection, macs), _NEWEST)
        known.changes = max(known.changes, *recorded, 0)
        known.read_at = now
    return known.changes


def _recorded_changes(connection: sa.Connection, macs: RowMACs) -> Iterator[int]:
    """
    Yield the counts of changes in the audit log, the newest record first.

    Every process may insert records: those without a valid MAC do not count, and must
    not hide the others, however many there are.
    """
    end = _END
    while rows := connection.execute(_RECORDED, {"end": end}).all():
        for record in (Record(*row) for row in rows):
            if macs.is_valid(record.mac, record):
                yield record.fields["details"]["hold_changes"]
        end = rows[-1].id


def _verified(macs: RowMACs, row: Any, known: int) -> Register | None:
    """Return the register in *row* if it is authentic and has the *known* changes."""
    stored = Hold(*row)
    if not macs.is_valid(stored.mac, stored):
        return None
    register = Register(**json.loads(stored.reason))
    return None if register.changes < known else register


def _write(
    connection: sa.Connection, macs: RowMACs, before: Any, register: Register
) -> None:
    rows = SealedRows(connection, macs, holds, Hold)
    new = Hold(_REGISTER, _THEN, json.dumps(asdict(register), sort_keys=True), "")
    if before is None:
        rows.insert(new)
    else:
        rows.replace(Hold(*before), new)


class HoldTables(Tables):
    """The holds of ``signer.ports.control_store.ControlStore``."""

    def begin_hold(self, new: Hold) -> bool:
        def work(connection: sa.Connection) -> Register | None:
            _, found = select_holds(connection, self._macs, new.name)
            stored = found[0] if found else None
            if stored is not None and stored.is_authentic and stored.in_force:
                return None
            # A row that another program changed must not prevent a hold.
            return _put(connection, self._macs, stored, new)

        try:
            changed = self._change_register(work)
        except StaleStateError:  # Another process wrote the row meanwhile.
            changed = self._change_register(work)
        # It is in force.  Wait for reservations and intents that may have begun before:
        # they share this lock.  One that hangs must not fail the command, and what it
        # signs under a stop is not recorded.
        with suppress(StoreUnavailableError):
            self._database.transaction(lambda c: lock_keys(c, shared=False))
        return changed

    def end_hold(
        self,
        name: str,
        at: datetime,
        version: int | None = None,
        use: ApprovalUse | None = None,
    ) -> bool:
        def work(connection: sa.Connection) -> Register | None:
            _, found = select_holds(connection, self._macs, name)
            stored = next((hold for hold in found if hold.in_force), None)
            if stored is None:
                return None
            if not stored.is_authentic:
                raise stored.error()
            if version is not None and stored.version != version:
                raise StaleStateError("the row was changed meanwhile: try again")
            register = _put(
                connection, self._macs, stored, replace(stored, ended_at=at)
            )
            use_approval(connection, self._macs, use)
            return register

        return self._change_register(work)

    def _change_register(
        self, work: Callable[[sa.Connection], Register | None]
    ) -> bool:
        """Return whether *work* changed the register, whose state is remembered."""
        register = self._database.transaction(work)
        self._database.run(lambda c: _remember(c, register))
        return register is not None

    def stops(self) -> Sequence[Hold]:
        return of_scopes(STOPS, self._read())

    def find_stop(self, chain_id: int, named: str = "") -> Hold | None:
        names = name_of_chain(EVERYTHING), name_of_chain(chain_id)
        found = self._read(*names, tokens_of=chain_id)
        in_force = (each for each in found if each.in_force and each.forbids(named))
        return next(in_force, None)

    def blocks(self) -> Sequence[Hold]:
        return tuple(hold for hold in self.last_blocks() if hold.in_force)

    def last_blocks(self) -> Sequence[Hold]:
        return of_scopes({Scope.TENANT}, self._read())

    def find_block(self, tenant: str) -> Hold | None:
        found = self._read(name_of_tenant(tenant))
        return next((hold for hold in found if hold.in_force), None)

    def hold_changes(self) -> int:
        def work(connection: sa.Connection) -> int:
            register, _ = select_holds(connection, self._macs, Scope.EVERYTHING)
            _remember(connection, register)
            return _known_changes(connection, self._macs)

        return self._database.run(work)

    def raise_hold_changes(self, changes: int) -> None:
        def work(connection: sa.Connection) -> None:
            before = connection.execute(_LOCK_REGISTER).one_or_none()
            known = _known_changes(connection, self._macs)
            register = _verified(self._macs, before, known) if before else None
            if register is not None and register.changes < changes:
                raised = replace(register, changes=changes)
                _write(connection, self._macs, before, raised)

        self._database.transaction(work)

    def _read(self, *names: str, tokens_of: int | None = None) -> Sequence[Hold]:
        def work(connection: sa.Connection) -> Sequence[Hold]:
            register, found = select_holds(
                connection, self._macs, *names, tokens_of=tokens_of
            )
            _remember(connection, register)
            return tuple(found)

        return self._database.run(work)
