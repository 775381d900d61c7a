"""
Audit records that no process of this service wrote, as the sealer declares them.

No record can be deleted, so a forged one is sealed like the others.  A record directly
before it declares it forged, so that readers of the chain leave it out.
"""

from collections.abc import Iterable, Iterator, Sequence

from signer.model.audit_record import Record


EVENT = "audit-records-forged"
"""The event of the record that declares others forged."""

_QUOTED = f'"{EVENT}"'


def encode_ids(ids: Sequence[str]) -> str:
    """Return record ids as one value of an audit record."""
    return " ".join(ids)


class Forgeries:
    """Recognises declared records, in chain order; ``ids`` has all so far."""

    def __init__(self) -> None:
        self.ids: set[str] = set()

    def is_forged(self, record: Record) -> bool:
        """Return whether *record* was declared forged; remember what it declares."""
        if record.id in self.ids:
            return True  # What a forged record declares has no meaning.
        if _QUOTED in record.body and record.fields.get("event") == EVENT:
            self.ids.update(str(record.fields["details"]["record_ids"]).split(" "))
        return False


def without_forged(records: Iterable[Record]) -> Iterator[Record]:
    """Yield the *records* that were not declared forged; they are in chain order."""
    forgeries = Forgeries()
    return (record for record in records if not forgeries.is_forged(record))
