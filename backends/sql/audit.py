"""The journal of the audit: written once, sealed once, and never changed."""

from collections.abc import Sequence

from sqlalchemy import (
    Connection,
    bindparam,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.types import BigInteger

from backends.sql.advisory_locks import hold_keys
from backends.sql.database import Database
from backends.sql.key_rows import ACTIVE, one
from backends.sql.privileges import liberties
from backends.sql.schema import audit_checkpoints, audit_records, keys
from backends.sql.statements import INSERT
from backends.sql.urls import POSTGRESQL
from signer.audit.hash_chain import GENESIS, sealed
from signer.errors import KeyRotatedError, StaleStateError
from signer.model.audit_record import Record, Sealed
from signer.model.key import SigningCondition
from signer.ports import Checkpoint


_SEALING = 0x6175646974736561  # "auditsea"; whoever seals has this lock.

_KEEP = insert(audit_records)

_STANDS = select(keys.c.address).where(
    keys.c.address == bindparam("of_address", type_=keys.c.address.type),
    keys.c.key_id == bindparam("of_key", type_=keys.c.key_id.type),
    keys.c.state.in_(bindparam("in_states", expanding=True)),
)

_TRY_TO_SEAL = select(
    func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger))
)

# In so many words, so that both databases use the partial index.
_IS_UNSEALED = text("sequence IS NULL")

_UNSEALED = (
    select(audit_records.c.id, audit_records.c.body)
    .where(_IS_UNSEALED)
    .order_by(audit_records.c.id)
    .limit(bindparam("at_most"))
)

_OLDEST = select(audit_records.c.id).where(_IS_UNSEALED).order_by("id").limit(1)

_SEAL = (
    update(audit_records)
    .where(audit_records.c.id == bindparam("of_id"), _IS_UNSEALED)
    .values(sequence=bindparam("place"), hash=bindparam("seal"))
)

# The same for all records at once, whose updates are a round trip each otherwise.
_SEAL_ALL = text(
    "UPDATE audit_records SET sequence = seal.place, hash = seal.hash"
    " FROM unnest(CAST(:ids AS text[]), CAST(:places AS bigint[]),"
    " CAST(:hashes AS bytea[])) AS seal (id, place, hash)"
    " WHERE audit_records.id = seal.id AND audit_records.sequence IS NULL"
)

_HEAD = (
    select(audit_records.c.sequence, audit_records.c.hash)
    .where(text("sequence IS NOT NULL"))
    .order_by(audit_records.c.sequence.desc())
    .limit(1)
)

_SEALED = (
    select(
        audit_records.c.sequence,
        audit_records.c.hash,
        audit_records.c.id,
        audit_records.c.body,
    )
    .where(audit_records.c.sequence > bindparam("after"))
    .order_by(audit_records.c.sequence)
    .limit(bindparam("at_most"))
)

_new_size = bindparam("new_size", type_=BigInteger)

_NEW_CHECKPOINT = select(
    _new_size,
    bindparam("new_note", type_=audit_checkpoints.c.note.type),
    bindparam("new_at", type_=audit_checkpoints.c.at.type),
).where(
    ~select(audit_checkpoints.c.size)
    .where(audit_checkpoints.c.size == _new_size)
    .exists()
)

_CHECKPOINTS = (
    select(audit_checkpoints)
    .where(audit_checkpoints.c.size > bindparam("after"))
    .order_by(audit_checkpoints.c.size)
)


def write(connection: Connection, *records: Record) -> None:
    """Write *records* as a part of the transaction that *connection* is in."""
    rows = [{"id": record.id, "body": record.body} for record in records]
    if len(rows) == 1:
        connection.execute(_KEEP, rows[0])  # Compiled once.
    elif rows:
        connection.execute(_KEEP.values(rows))  # One statement: all of them, or none.


def _require_active(connection: Connection, address: str) -> None:
    active = one(connection, ACTIVE)
    if active is None or active.address != address:
        raise KeyRotatedError("another key is the active one")


class AuditTables:
    """The methods of ``Journal``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(
        self, records: Sequence[Record], *, standing: SigningCondition | None = None
    ) -> None:
        """
        Make *records* durable, all or none.

        Raises:
            KeyRotatedError: No key of the ring has this *standing*, or the address
                that it pays is not the active one's.
            StoreError: The database cannot be written.
        """
        if standing is None:
            if records:
                self._database.write(lambda c: write(c, *records))
            return

        given = {
            "of_address": standing.address,
            "of_key": standing.key_id,
            "in_states": sorted(standing.states),
        }

        def work(connection: Connection) -> None:
            hold_keys(connection, shared=True)
            if connection.execute(_STANDS, given).first() is None:
                raise KeyRotatedError("the key was rotated away from, or relocated")
            if standing.pays is not None:
                _require_active(connection, standing.pays)
            write(connection, *records)

        self._database.transaction(work)

    def seal(self, limit: int = 1000) -> int | None:
        """
        Give the oldest unsealed records their places in the chain; return how many.

        None while another process is at it.
        """
        if self.oldest_unsealed() is None:
            return 0  # Nobody has to wait for nothing.
        return self._database.transaction(lambda c: _seal(c, limit))

    def head(self) -> tuple[int, bytes]:
        """Return the number of sealed records, and the hash of the last one."""
        return self._database.run(_head)

    def sealed(self, after: int, limit: int) -> Sequence[Sealed]:
        """Return sealed records from behind place *after*, in their order."""
        given = {"after": after, "at_most": limit}
        rows = self._database.run(lambda c: c.execute(_SEALED, given).all())
        return tuple(
            Sealed(sequence, bytes(seal), Record(id_, body))
            for sequence, seal, id_, body in rows
        )

    def oldest_unsealed(self) -> str | None:
        """Return the id of the record that has waited longest for its seal."""
        return self._database.run(lambda c: c.execute(_OLDEST).scalar())

    def excess_privileges(self) -> list[str]:
        """Return what our role may do to the journal beyond what it needs."""
        return liberties(self._database)

    def keep_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep *checkpoint*, unless there is one of the same size."""
        keep = INSERT[self._database.dialect](audit_checkpoints)
        # Looked for first: a trigger may see an insert that would do nothing.
        new = keep.from_select(audit_checkpoints.c.keys(), _NEW_CHECKPOINT)
        row = {
            "new_size": checkpoint.size,
            "new_note": checkpoint.note,
            "new_at": checkpoint.at,
        }
        self._database.write(lambda c: c.execute(new.on_conflict_do_nothing(), row))

    def checkpoints(self, after: int = 0) -> Sequence[Checkpoint]:
        """Return the checkpoints of more than *after* records, smallest first."""
        given = {"after": after}
        rows = self._database.run(lambda c: c.execute(_CHECKPOINTS, given).all())
        return tuple(Checkpoint(*row) for row in rows)


def _head(connection: Connection) -> tuple[int, bytes]:
    row = connection.execute(_HEAD).one_or_none()
    return (0, GENESIS) if row is None else (row[0], bytes(row[1]))


def _seal(connection: Connection, limit: int) -> int | None:
    """
    Seal what is unsealed at this moment, oldest first.

    A record that was committed late finds its place behind younger ones: the chain
    says in which order records were sealed, and they themselves when they were made.
    On PostgreSQL the lock is a statement of its own, as in ``hold_chain``.
    """
    if connection.dialect.name == POSTGRESQL and not (
        connection.execute(_TRY_TO_SEAL, {"lock": _SEALING}).scalar()
    ):
        return None
    rows = connection.execute(_UNSEALED, {"at_most": limit}).all()
    placed = sealed(*_head(connection), [Record(*row) for row in rows])
    if placed:
        _put_seals(connection, placed)
    return len(placed)


def _put_seals(connection: Connection, placed: Sequence[Sealed]) -> None:
    if connection.dialect.name == POSTGRESQL:
        done = connection.execute(
            _SEAL_ALL,
            {
                "ids": [each.record.id for each in placed],
                "places": [each.sequence for each in placed],
                "hashes": [each.hash for each in placed],
            },
        )
    else:
        done = connection.execute(
            _SEAL,
            [
                {"of_id": each.record.id, "place": each.sequence, "seal": each.hash}
                for each in placed
            ],
        )
    if done.rowcount != len(placed):  # It would leave a gap.
        raise StaleStateError("somebody else has sealed a record")
