"""The audit log: its records are written once, sealed once and never changed."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.types import BigInteger

from backends.sql.advisory_locks import lock_keys
from backends.sql.audit_rows import write
from backends.sql.database import Tables
from backends.sql.excess_privileges import excess_privileges
from backends.sql.hold_checks import require_running
from backends.sql.key_rows import KeyRows
from backends.sql.prepared import RowUpdate, execute
from backends.sql.spending import count_documents
from backends.sql.tables import audit_checkpoints, audit_records, audit_shipping
from backends.sql.urls import POSTGRESQL
from backends.sql.versioned_rows import SealedRows, select_flagged
from signer.audit.hash_chain import (
    BATCH,
    GENESIS,
    declared_by,
    hash_id,
    is_canonical,
    sealed,
)
from signer.errors import KeyRotatedError, StaleStateError
from signer.model.audit_record import AuditShipping, Record, Sealed
from signer.model.key import SigningCondition
from signer.ports.audit_journal import Checkpoint, DeclareForged, Sealing
from signer.row_macs import RowMACs


_record = audit_records.c

_SEALED_ROWS = (
    sa.select(_record.sequence, _record.id, _record.body, _record.mac)
    .where(_record.sequence > sa.bindparam("after"))
    .order_by(_record.sequence)
    .limit(2 * BATCH)
)


def find_forged(
    connection: sa.Connection, macs: RowMACs, verified: int | None, size: int
) -> tuple[list[str], int]:
    """
    Return the ids of sealed records that are forged and not declared yet.

    The hashes of the chain need no key, so a program with a worker's role can also seal
    its record.  Only the MAC shows it.

    The chain has *size* records; those up to *verified* were verified before.  Also
    return the last sequence that is verified now.  Without *verified*, the last
    ``BATCH`` records are verified, from the first one that has a valid MAC, and as many
    before them are read for that and for declarations.
    """
    after, first = verified or 0, 0
    if verified is None:
        after, first = max(0, size - 2 * BATCH), size - BATCH
    rows = connection.execute(_SEALED_ROWS, {"after": after}).all()
    found = list[str]()
    declared = set[str]()
    # The oldest records may be from before a rotation of the MAC key.  They prove
    # nothing, and are not forged, unless they have a form that no record of ours has.
    is_after_ours = verified is not None
    for sequence, id_, body, mac in rows:
        record = Record(id_, body)
        if macs.is_valid(mac, record):
            declared |= declared_by(record)
            is_after_ours = True
        elif sequence > first and (is_after_ours or not is_canonical(record)):
            found.append(id_)
    forged = [id_ for id_ in found if hash_id(id_) not in declared]
    return forged, rows[-1].sequence if rows else size


SEALING_LOCK = 0x6175646974736561  # "auditsea"; the sealing process holds it.

_TRY_TO_SEAL = sa.select(
    sa.func.pg_try_advisory_xact_lock(sa.bindparam("lock", type_=BigInteger))
)

# Literal text, so that both databases use the partial index.
_IS_UNSEALED = sa.text("sequence IS NULL")

_UNSEALED = (
    sa.select(_record.id, _record.body, _record.mac)
    .where(_IS_UNSEALED)
    .order_by(_record.id)
    .limit(sa.bindparam("at_most"))
)

_OLDEST_UNSEALED = sa.select(_record.id).where(_IS_UNSEALED).order_by("id").limit(1)

_SEAL = RowUpdate(audit_records, ("sequence", "hash"), _IS_UNSEALED)

_IDS = 500

_STORED = sa.select(_record.id).where(
    _record.id.in_(sa.bindparam("ids", type_=_record.id.type, expanding=True))
)

_PAGE = 10

_PAGES = 100
"""How many pages of start-up records are read to find one with a valid MAC."""

_END = "av"
"""Sorts after the id of each record that a process made: these begin with au_."""

# Literal text, so that both databases use the partial index.
_CONFIGURATION = (
    sa.select(_record.id, _record.body, _record.mac)
    .where(
        sa.text("""body LIKE '%"event":"configuration-loaded"%'"""),
        _record.body.contains(sa.bindparam("process", type_=_record.body.type)),
        _record.id < sa.bindparam("before"),
    )
    .order_by(_record.id.desc())
    .limit(_PAGE)
)

_HEAD = (
    sa.select(_record.sequence, _record.hash)
    .where(sa.text("sequence IS NOT NULL"))
    .order_by(_record.sequence.desc())
    .limit(1)
)

_SEALED = (
    sa.select(_record.sequence, _record.hash, _record.id, _record.body, _record.mac)
    .where(_record.sequence > sa.bindparam("after"))
    .order_by(_record.sequence)
    .limit(sa.bindparam("at_most"))
)

_checkpoint = audit_checkpoints.c

_CHECKPOINTS = (
    sa.select(audit_checkpoints)
    .where(
        sa.tuple_(_checkpoint.size, _checkpoint.note)
        > sa.tuple_(sa.bindparam("size"), sa.bindparam("note"))
    )
    .order_by(_checkpoint.size, _checkpoint.note)
    .limit(sa.bindparam("at_most"))
)

_NEWEST_CHECKPOINTS = (
    sa.select(audit_checkpoints)
    .where(
        _checkpoint.size > sa.bindparam("after"),
        _checkpoint.size <= sa.bindparam("upto"),
    )
    .order_by(_checkpoint.size.desc(), _checkpoint.note.desc())
    .limit(sa.bindparam("at_most"))
)


_SHIPPING = sa.select(audit_shipping)


class AuditTables(Tables):
    """Implements ``signer.ports.Journal``."""

    # The last sequence whose MAC was verified; None in a new process.
    _verified: int | None = None

    def authenticate(self, record: Record) -> Record:
        return Record(record.id, record.body, self._macs.compute(record))

    def append(
        self, records: Sequence[Record], *, condition: SigningCondition | None = None
    ) -> None:
        if condition is None:
            if records:
                self._database.write(lambda c: write(c, self._macs, *records))
            return

        def work(connection: sa.Connection) -> None:
            lock_keys(connection, shared=True)
            rows = KeyRows(connection, self._macs)
            key = rows.find_by_address(condition.address)
            if (
                key is None
                or key.key_id != condition.key_id
                or key.state not in condition.states
            ):
                raise KeyRotatedError(
                    "the key was rotated, revoked or moved to its replica meanwhile"
                )
            active = rows.active() if condition.pays else None
            if condition.pays and (active is None or active.address != condition.pays):
                raise KeyRotatedError("another key is active now")
            if condition.stopped_by is not None:
                require_running(
                    connection, self._macs, condition.stopped_by, condition.named
                )
            hour = self._database.hour()
            count_documents(connection, self._macs, condition.spendings, hour)
            write(connection, self._macs, *records)

        self._database.transaction(work)

    def seal(self, limit: int, declare: DeclareForged) -> Sealing | None:
        is_idle = self.oldest_unsealed() is None
        if is_idle and self.head()[0] == (self._verified or 0):
            return Sealing(0)  # Do not take the write lock for nothing.
        done = self._database.transaction(lambda c: self._seal(c, limit, declare))
        if done is None:
            return None
        sealing, self._verified = done  # Only after the commit.
        return sealing

    def head(self) -> tuple[int, bytes]:
        return self._database.run(_head)

    def sealed(self, after: int, limit: int) -> Sequence[Sealed]:
        return tuple(
            Sealed(sequence, bytes(seal), Record(id_, body, mac))
            for sequence, seal, id_, body, mac in self._database.rows(
                _SEALED, after=after, at_most=limit
            )
        )

    def missing_records(self, records: Sequence[Record]) -> Sequence[Record]:
        missing: list[Record] = []
        for start in range(0, len(records), _IDS):
            some = records[start : start + _IDS]
            ids = [record.id for record in some]
            stored = {row.id for row in self._database.rows(_STORED, ids=ids)}
            missing += [record for record in some if record.id not in stored]
        return missing

    def oldest_unsealed(self) -> str | None:
        return self._database.run(lambda c: c.execute(_OLDEST_UNSEALED).scalar())

    def last_configuration(self, process: str) -> Record | None:
        named = f'"process":{json.dumps(process)}'
        before = _END
        for _ in range(_PAGES):
            rows = self._database.rows(_CONFIGURATION, process=named, before=before)
            for id_, body, mac in rows:
                if self._macs.is_valid(mac, record := Record(id_, body)):
                    return record
            if len(rows) < _PAGE:
                break
            before = rows[-1].id
        return None

    def excess_privileges(self, role: str) -> list[str]:
        return excess_privileges(self._database, role)

    def keep_checkpoint(self, checkpoint: Checkpoint) -> None:
        row = asdict(checkpoint)
        self._database.write(lambda c: c.execute(sa.insert(audit_checkpoints), row))

    def checkpoints(
        self, after: Checkpoint | None = None, limit: int = BATCH
    ) -> Sequence[Checkpoint]:
        start = asdict(after or Checkpoint(0, ""))
        rows = self._database.rows(_CHECKPOINTS, at_most=limit, **start)
        return tuple(Checkpoint(*row) for row in rows)

    def newest_checkpoints(
        self, after: int, upto: int, limit: int
    ) -> Sequence[Checkpoint]:
        rows = self._database.rows(
            _NEWEST_CHECKPOINTS, after=after, upto=upto, at_most=limit
        )
        return tuple(Checkpoint(*row) for row in rows)

    def shipping(self) -> AuditShipping | None:
        rows = self._shipping_rows
        found = self._database.run(lambda c: select_flagged(rows(c), _SHIPPING))
        return found[0] if found else None

    def keep_shipping(
        self, before: AuditShipping | None, after: AuditShipping
    ) -> AuditShipping:
        def work(connection: sa.Connection) -> AuditShipping:
            rows = self._shipping_rows(connection)
            return rows.insert(after) if before is None else rows.replace(before, after)

        return self._database.transaction(work)

    def _shipping_rows(self, connection: sa.Connection) -> SealedRows[AuditShipping]:
        return SealedRows(connection, self._macs, audit_shipping, AuditShipping)

    def _seal(
        self, connection: sa.Connection, limit: int, declare: DeclareForged
    ) -> tuple[Sealing, int] | None:
        """
        Seal the records that are unsealed now, oldest first.

        Also return the last sequence whose MAC is verified.

        A record that was committed late is sealed after younger ones: the chain shows
        the order of sealing, and each record its own time.  On PostgreSQL the lock is a
        statement of its own, as in ``lock_chain``.
        """
        if connection.dialect.name == POSTGRESQL and not (
            connection.execute(_TRY_TO_SEAL, {"lock": SEALING_LOCK}).scalar()
        ):
            return None
        rows = connection.execute(_UNSEALED, {"at_most": limit}).all()
        records = [Record(id_, body, mac) for id_, body, mac in rows]
        size, head = _head(connection)
        forged, verified = find_forged(connection, self._macs, self._verified, size)
        genuine = [r for r in records if self._macs.is_valid(r.mac, r)]
        if len(genuine) < len(records):
            known = {record.id for record in genuine}
            forged += [record.id for record in records if record.id not in known]
        if forged:
            # It comes last: a forged record that looks like a declaration has no
            # effect, because a later one names it.
            records.append(declare(forged))
            write(connection, self._macs, records[-1])
        new = sealed(size, head, records)
        if new:
            _write_seals(connection, new)
        if verified == size:
            verified += len(new)
        return Sealing(len(rows), tuple(forged), genuine), verified


def _head(connection: sa.Connection) -> tuple[int, bytes]:
    row = connection.execute(_HEAD).one_or_none()
    return (0, GENESIS) if row is None else (row[0], bytes(row[1]))


def _write_seals(connection: sa.Connection, new: Sequence[Sealed]) -> None:
    rows = [
        {
            "audit_records_id": each.record.id,
            "audit_records_sequence": each.sequence,
            "audit_records_hash": each.hash,
        }
        for each in new
    ]
    done = execute(connection, _SEAL, rows).all()
    if len(done) != len(new):  # The chain would have a gap.
        raise StaleStateError("another process sealed one of these records")
