"""The records of an export by id: which are forged, and which should be declared so."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from signer.audit.actions import SIGN_FINISHED, SIGN_REQUESTED
from signer.audit.forgeries import Forgeries, hash_id, read_fields
from signer.audit.verdict import Forgery, FoundError
from signer.model.audit_record import Record, Sealed


_UNDECLARED = (
    "it does not have the form of a record of the service, and no record declares it"
    " forged: another program wrote it to the database; export again when the service"
    " has run for a minute, and follow docs/how-to/alarms.md, audit-record-forged"
)

_SIGNING = tuple(f'"{event}"' for event in SIGN_REQUESTED | SIGN_FINISHED)

_Unmatched = dict[tuple[str, ...], list[tuple[str, int]]]

_UNREQUESTED = (
    "no intent of the same process, key and refund or digest belongs to this outcome of"
    " a signature: follow docs/how-to/key-compromise.md"
)


class Sequences(Protocol):
    """The sequence numbers of records by id; a ``dict`` has them in memory."""

    def setdefault(self, id_: str, sequence: int, /) -> int:
        """Store *sequence* for *id_* unless it has one; return what it has."""
        ...

    def __getitem__(self, id_: str, /) -> int:
        """Return the sequence number of *id_*; raises ``KeyError``."""
        ...

    def items(self) -> Iterable[tuple[str, int]]:
        """Yield each id and its sequence number, in the order of the chain."""
        ...


class RecordIndex:
    """Collects the records of an export, in the order of the chain."""

    def __init__(self, sequences: Sequences) -> None:
        """Remember every id in *sequences*, which is empty."""
        self._sequences = sequences
        self._lines: dict[str, int] = {}  # Of records that are not canonical.
        self._forgeries = Forgeries()
        # Intents without an outcome, and outcomes without an intent: ids and lines.
        self._intents: _Unmatched = {}
        self._unrequested: _Unmatched = {}

    def is_new(self, sealed: Sealed) -> bool:
        """Remember the id of *sealed*; return whether no earlier record has it."""
        sequence = sealed.sequence
        return self._sequences.setdefault(sealed.record.id, sequence) == sequence

    def add(self, record: Record, line: int, *, is_canonical: bool) -> None:
        """Add the next record, which ends on *line* of the export."""
        self._forgeries.add(record)
        if not is_canonical:
            self._lines[record.id] = line
        elif any(event in record.body for event in _SIGNING):
            self._pair(record, line)

    def _pair(self, record: Record, line: int) -> None:
        """Match the outcome of a signature with an intent, in any order."""
        # The order of records that are sealed together is that of a clock.
        fields = read_fields(record)
        names = ("address", "refund_id", "node", "pid")
        work = tuple(str(fields.get(name)) for name in names)
        if fields.get("refund_id") is None:
            work += (str(fields.get("digest")),)
        if fields.get("event") in SIGN_REQUESTED:
            mine, others = self._intents, self._unrequested
        elif fields.get("event") in SIGN_FINISHED:
            mine, others = self._unrequested, self._intents
        else:
            return
        if work not in others:
            mine.setdefault(work, []).append((record.id, line))
            return
        others[work].pop()
        if not others[work]:
            del others[work]

    def forged(self) -> Iterator[Forgery]:
        """Yield the records that a later one declares forged."""
        declared = self._forgeries.declarers()
        for id_, sequence in self._sequences.items() if declared else ():
            if declaration := declared.get(hash_id(id_)):
                by = self._sequences[declaration]
                yield Forgery(sequence, by, is_canonical=id_ not in self._lines)

    def find_undeclared(self) -> Iterator[FoundError]:
        """Yield the first record that is not canonical and not declared forged."""
        declared = self._forgeries.declarers()
        for id_, line in self._lines.items():
            if hash_id(id_) not in declared:
                yield FoundError("undeclared", self._sequences[id_], _UNDECLARED, line)
                return

    def find_unrequested(self) -> Iterator[FoundError]:
        """Yield the outcomes of signatures that no intent precedes."""
        declared = self._forgeries.declarers()
        for found in self._unrequested.values():
            for id_, line in found:
                if hash_id(id_) not in declared:
                    number = self._sequences[id_]
                    yield FoundError("unrequested", number, _UNREQUESTED, line)
