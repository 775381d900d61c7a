"""
The rows of stops and blocked tenants, and the register that lists their versions.

A hold must be present to be lifted.  So a row that was deleted, or replaced by an older
one with its valid MAC, counts as in force.  So does everything while the register is
missing, changed, or older than the one that this process or the audit log knows.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Select,
    bindparam,
    literal,
    select,
    text,
    true,
)

from backends.sql.schema import audit_records, stops, tenant_blocks
from backends.sql.sealed_rows import SealedRows
from signer.errors import RowNotAuthenticError
from signer.model.audit_record import Record
from signer.model.stop import EVERYTHING, Stop
from signer.model.tenant_block import TenantBlock
from signer.row_macs import RowMACs


Row = TypeVar("Row", Stop, TenantBlock)

_REGISTER = -1  # The register is the row of this chain, which no network has.

_ABSENT = -1  # The version of a row that should be there.

_THEN = datetime(1970, 1, 1, tzinfo=UTC)

_register = stops.alias("register")

_ONE_ROW = select(literal(1)).subquery()

_WIDTH = len(_register.c)

_LOCK_REGISTER = select(stops).where(stops.c.chain_id == _REGISTER).with_for_update()

_RECORDED = (
    select(audit_records.c.id, audit_records.c.body, audit_records.c.mac)
    .where(
        text("""body LIKE '%"hold_changes":%'"""),
        audit_records.c.id < bindparam("end"),
    )
    .order_by(audit_records.c.id.desc())
    .limit(200)
)

_END = "\U0010ffff"  # Above the ids of all records of the service.

_NEWEST = 20  # Two processes may record their changes in the other order.

# By engine, which is of one process: the most changes that a register has had.
_newest: WeakKeyDictionary[Engine, int] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Register:
    """``changes`` counts them all; ``versions`` are those of rows, by table and key."""

    changes: int = 0
    versions: dict[str, dict[str, int]] = field(default_factory=dict)


class HoldRows(Generic[Row]):
    """
    The rows of *kind* in the table of *key* for which *is_hold* holds.

    *absent* makes the row that stands for one that should be there.
    """

    def __init__(
        self,
        kind: type[Row],
        key: Column[Any],
        is_hold: ColumnElement[bool],
        absent: Callable[[str], Row],
    ) -> None:
        self._kind: type[Row] = kind
        self._key = key
        self._table: str = key.table.name
        self._absent: Callable[[str], Row] = absent
        self._all = self._select(is_hold)
        self._some = self._select(key.in_(bindparam("wanted", expanding=True)))

    def _select(self, condition: ColumnElement[bool]) -> Select[Any]:
        return (
            select(*_register.c, *self._key.table.c)
            .select_from(_ONE_ROW)
            .outerjoin(_register, _register.c.chain_id == _REGISTER)
            .outerjoin(self._key.table, condition)
        )

    def key_of(self, row: Row) -> Any:
        return getattr(row, self._key.name)

    def select(
        self, connection: Connection, macs: RowMACs, *wanted: object
    ) -> tuple[Register | None, Sequence[Row]]:
        """
        Return the register, and the rows with the keys *wanted*, by default all.

        Rows that should be there are among them.  Without a register, these are those
        with the keys *wanted*, or the stop of everything.
        """
        known = _known_changes(connection, macs)  # Before the statement's snapshot.
        query, params = (self._some, {"wanted": wanted}) if wanted else (self._all, {})
        joined = connection.execute(query, params).all()
        register = _verified(macs, joined[0][:_WIDTH], known)
        rows = [self._kind(*row[_WIDTH:]) for row in joined if row[_WIDTH] is not None]
        stored: dict[str, Row] = {str(self.key_of(row)): row for row in rows}
        keys = {str(key) for key in wanted}
        if register is None:
            versions: Mapping[str, int] = {}
            expected = keys or ({str(EVERYTHING)} if self is STOPS else set())
        else:
            versions = register.versions.get(self._table, {})
            expected = {*versions} & (keys or {*versions})
        flagged = []
        for key, row in stored.items():
            is_listed = versions.get(key) == row.version
            is_authentic = is_listed and macs.is_valid(row.mac, row)
            flagged.append(replace(row, is_authentic=is_authentic))
        flagged += [self._absent(key) for key in expected - {*stored}]
        return register, sorted(flagged, key=self.key_of)

    def put(
        self,
        connection: Connection,
        macs: RowMACs,
        stored: Row | None,
        new: Row,
    ) -> None:
        """
        Replace *stored* by *new*, and list its version; another version is refused.

        Only a stop of everything may begin a new register: nothing lists the holds that
        were deleted with the old one.

        Raises:
            RowNotAuthenticError: There is no valid register.
            StaleStateError: Another process changed the row or the register meanwhile.
        """
        before = connection.execute(_LOCK_REGISTER).one_or_none()
        known = _known_changes(connection, macs)
        register = _verified(macs, before, known) if before else None
        key = self.key_of(new)
        if register is None and not (self is STOPS and key == EVERYTHING):
            raise RowNotAuthenticError(
                "another program changed or deleted the register of stops and blocks:"
                " all of them count as in force, and `hotwallet stop` begins a new one"
            )
        rows = SealedRows(connection, macs, self._key.table, self._kind)
        if stored is None or stored.version == _ABSENT:
            after = rows.insert(new)
        else:
            after = rows.replace(stored, new)
        register = register or Register(known)
        versions = register.versions.get(self._table, {}) | {str(key): after.version}
        all_versions = register.versions | {self._table: versions}
        _write(connection, macs, before, Register(register.changes + 1, all_versions))


STOPS = HoldRows(
    Stop,
    stops.c.chain_id,
    stops.c.chain_id != _REGISTER,
    lambda key: Stop(int(key), _THEN, "", "", version=_ABSENT, is_authentic=False),
)

BLOCKS = HoldRows(
    TenantBlock,
    tenant_blocks.c.tenant,
    true(),
    lambda key: TenantBlock(key, _THEN, "", version=_ABSENT, is_authentic=False),
)


def begin_register(connection: Connection, macs: RowMACs) -> None:
    """Insert the register of a ledger that has just been created."""
    _write(connection, macs, None, Register())


def raise_changes(connection: Connection, macs: RowMACs, changes: int) -> None:
    """Let the register, if it is valid, count at least *changes*."""
    before = connection.execute(_LOCK_REGISTER).one_or_none()
    known = _known_changes(connection, macs)
    register = _verified(macs, before, known) if before else None
    if register is not None and register.changes < changes:
        _write(connection, macs, before, replace(register, changes=changes))


def renew_holds(connection: Connection, macs: RowMACs) -> None:
    """Give the register, and rows that are authentic, a MAC under the current key."""
    _renew(connection, macs, STOPS)
    _renew(connection, macs, BLOCKS)
    before = connection.execute(_LOCK_REGISTER).one_or_none()
    if before is not None and not macs.is_current(before.mac):
        register = _verified(macs, before, _known_changes(connection, macs))
        if register is not None:
            _write(connection, macs, before, register)


def _renew(connection: Connection, macs: RowMACs, kind: HoldRows[Row]) -> None:
    for row in kind.select(connection, macs)[1]:
        if row.is_authentic and not macs.is_current(row.mac):
            kind.put(connection, macs, row, row)


def remember(connection: Connection, register: Register | None) -> None:
    """
    Refuse earlier registers from now on: *register* is committed.

    No transaction may call it, since a register of its own could be rolled back.
    """
    if register is not None:
        known = _newest.get(connection.engine, 0)
        _newest[connection.engine] = max(known, register.changes)


def _known_changes(connection: Connection, macs: RowMACs) -> int:
    """Return how many changes there were, at least."""
    known = _newest.get(connection.engine)
    if known is None:
        recorded = islice(_recorded_changes(connection, macs), _NEWEST)
        known = _newest[connection.engine] = max(recorded, default=0)
    return known


def _recorded_changes(connection: Connection, macs: RowMACs) -> Iterator[int]:
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
    stop = Stop(*row)
    if not macs.is_valid(stop.mac, stop):
        return None
    register = Register(**json.loads(stop.reason))
    return None if register.changes < known else register


def _write(
    connection: Connection, macs: RowMACs, before: Any, register: Register
) -> None:
    rows = SealedRows(connection, macs, stops, Stop)
    new = Stop(_REGISTER, _THEN, json.dumps(asdict(register), sort_keys=True), "")
    if before is None:
        rows.insert(new)
    else:
        rows.replace(Stop(*before), new)
