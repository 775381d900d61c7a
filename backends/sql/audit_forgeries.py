"""
Finds sealed audit records that no process of this service wrote.

The hashes of the chain need no key, so a program with a worker's role can also seal
its record.  Only the MAC shows it.
"""

from sqlalchemy import Connection, bindparam, select

from backends.sql.schema import audit_records
from signer.audit.canonical_json import is_canonical
from signer.audit.chain_reader import BATCH
from signer.audit.forgeries import declared_by, hash_id
from signer.model.audit_record import Record
from signer.row_macs import RowMACs


_record = audit_records.c

_SEALED = (
    select(_record.sequence, _record.id, _record.body, _record.mac)
    .where(_record.sequence > bindparam("after"))
    .order_by(_record.sequence)
    .limit(2 * BATCH)
)


def find_forged(
    connection: Connection, macs: RowMACs, verified: int | None, size: int
) -> tuple[list[str], int]:
    """
    Return the ids of sealed records that are forged and not declared yet.

    The chain has *size* records; those up to *verified* were verified before.  Also
    return the last sequence that is verified now.  Without *verified*, the last
    ``BATCH`` records are verified, from the first one that has a valid MAC, and as many
    before them are read for that and for declarations.
    """
    after, first = verified or 0, 0
    if verified is None:
        after, first = max(0, size - 2 * BATCH), size - BATCH
    rows = connection.execute(_SEALED, {"after": after}).all()
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
