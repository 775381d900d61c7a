"""
Audit records that no process of this service wrote, as the sealer declares them.

No record can be deleted, so a forged one is sealed like the others.  A later record
declares it forged, so that readers of the chain leave it out.  A forged record may look
like a declaration itself; the sealer's declaration after it takes away its effect.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from signer.audit.hash_chain import is_canonical
from signer.model.audit_record import Record
from signer.nesting import is_deeper


EVENT = "audit-records-forged"
"""The event of the record that declares others forged."""

FIELD = "id_sha256"
"""The detail that lists the declared records: the SHA-256 of each id, in hex."""

_QUOTED = f'"{EVENT}"'

_MAX_DEPTH = 64


def hash_id(id_: str) -> str:
    """
    Return the SHA-256 of a record's id, in hex.

    The id of a forged record is any text: it could look like several ids, or like a
    secret that is redacted.
    """
    return hashlib.sha256(id_.encode(errors="surrogatepass")).hexdigest()


def read_fields(record: Record) -> Mapping[str, Any]:
    """Return the fields of *record*, or none if its body is no JSON object."""
    if is_deeper(record.body, _MAX_DEPTH):
        return {}
    try:
        fields = record.fields
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def declared_by(record: Record) -> frozenset[str]:
    """
    Return the hashes of the ids that *record* declares forged.

    One that is not canonical is not the sealer's, and declares nothing.
    """
    if _QUOTED not in record.body or not is_canonical(record):
        return frozenset()
    match read_fields(record):
        case {"event": event, "details": {"id_sha256": list(hashes)}} if event == EVENT:
            return frozenset(map(str, hashes))
    return frozenset()


class Forgeries:
    """Finds the declared records of a chain, once all its records were added."""

    def __init__(self) -> None:
        self._declarations = list[tuple[str, frozenset[str]]]()

    def add(self, record: Record) -> None:
        """Read the next record of the chain."""
        if hashes := declared_by(record):
            self._declarations.append((record.id, hashes))

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield *records* and add each."""
        for record in records:
            self.add(record)
            yield record

    def declarers(self) -> Mapping[str, str]:
        """
        Return, by the hash of each forged record's id, the id of its declaration.

        The sealer's declarations come after what they declare.  So the last one is
        genuine, and from the end to the start each one shows which earlier ones are.
        Of several declarations of a record, the first one is returned.
        """
        forged = dict[str, str]()
        for declaration, hashes in reversed(self._declarations):
            if hash_id(declaration) not in forged:
                forged.update(dict.fromkeys(hashes, declaration))
        return forged

    def without_forged(self, records: Iterable[Record]) -> list[Record]:
        """Return the *records* that no effective declaration names."""
        forged = self.declarers()
        if not forged:
            return list(records)
        return [each for each in records if hash_id(each.id) not in forged]


def genuine(records: Iterable[Record], events: Collection[str]) -> list[Record]:
    """
    Return the records of *events* in the chain *records* that are not forged.

    Other records are not kept in memory: a chain may have millions.
    """
    forgeries = Forgeries()
    found = [each for each in forgeries.watch(records) if _event(each) in events]
    return forgeries.without_forged(found)


def _event(record: Record) -> str:
    return str(read_fields(record).get("event"))
