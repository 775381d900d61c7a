"""
Verifies an export with only a public key, and reports the first bad record.

The hash chain alone detects a change unless all later records were hashed again.
Checkpoints detect that as well, up to the last one.  A checkpoint that was kept
elsewhere detects it even if the whole file was replaced.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from signer.audit.actions import SIGN_FINISHED, SIGN_REQUESTED
from signer.audit.checkpointer import Unsigned, UnsignedTail
from signer.audit.checkpoints import Statement, Verifier
from signer.audit.export import (
    MAX_LINE,
    TORN,
    End,
    Entry,
    ExportHeader,
    LineReader,
    Note,
    RawRecord,
)
from signer.audit.hash_chain import (
    GENESIS,
    Forgeries,
    hash_id,
    link,
    read_fields,
    signed_work,
)
from signer.errors import HotWalletError, InvalidInputError
from signer.model.audit_record import Record, Sealed, made_at


@dataclass(frozen=True, slots=True)
class Forgery:
    """A record that a later one declares forged; both are sequence numbers."""

    sequence: int
    declared_by: int
    is_canonical: bool


@dataclass(frozen=True, slots=True)
class ForgedCheckpoints:
    """
    How many lines are no checkpoint of this chain by a trusted key.

    The first one is on ``line`` (from 1), after ``sequence`` records; ``problem`` is
    what is wrong with it.
    """

    count: int
    line: int
    sequence: int
    problem: str


@dataclass(frozen=True, slots=True)
class BadRecord:
    """The first problem of an export: the first bad record, and its line (from 1)."""

    code: str
    sequence: int
    line: int
    message: str

    def __str__(self) -> str:
        return f"record {self.sequence} (line {self.line}): {self.message}"


@dataclass(frozen=True, slots=True)
class ExportVerdict:
    """
    What an export proves.

    The first ``records`` records form a valid chain with the last hash ``head``.  The
    first ``signed`` of them are covered by a checkpoint, made at ``signed_at`` by the
    clock of the signer, and were not changed since.  A manipulation affects a record
    after those, and none after the one in ``finding``.

    ``forged`` has the records that no process of the service wrote, as the sealer
    declared: another program wrote to the database.  ``forged_checkpoints`` prove
    nothing and were ignored: another program wrote them, or their key is not trusted.

    ``newest_at`` is the time of the last record; it reveals an older copy of the file.
    ``late`` lists records that were without a checkpoint for too long, as after a
    stop: until it was made, they were unprotected.
    """

    origin: str | None
    records: int
    head: bytes
    checkpoints: int
    signed: int
    signed_at: datetime | None
    newest_at: datetime | None
    late: tuple[Unsigned, ...]
    forged: tuple[Forgery, ...]
    forged_checkpoints: ForgedCheckpoints | None
    finding: BadRecord | None

    @property
    def is_good(self) -> bool:
        return self.finding is None


class FoundError(HotWalletError):
    """Ends the verification with a finding; *line* is the current one if None."""

    def __init__(
        self, code: str, sequence: int, message: str, line: int | None = None
    ) -> None:
        super().__init__(message)
        self.finding_code = code
        self.sequence = sequence
        self.line = line


_UNDECLARED = (
    "it does not have the form of a record of the service, and no record declares it"
    " forged: another program wrote it to the database; export again when the service"
    " has run for a minute, and follow docs/how-to/alarms.md, audit-record-forged"
)

_SIGNING = tuple(f'"{event}"' for event in SIGN_REQUESTED | SIGN_FINISHED)

_Unmatched = dict[tuple[str, ...], list[tuple[str, int]]]

_UNREQUESTED = (
    "no intent of the same process, key and refund, batch or digest belongs to this"
    " outcome of a signature: follow docs/how-to/key-compromise.md"
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
        # Of both: the hashes of their ids and of what they belong to.
        self._signing_ids, self._signing_work = array("q"), array("q")

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
        of = signed_work(fields)
        work = tuple(str(fields.get(name)) for name in ("address", "node", "pid"))
        work += (f"digest {fields.get('digest')}" if of is None else of,)
        if fields.get("event") in SIGN_REQUESTED:
            mine, others = self._intents, self._unrequested
        elif fields.get("event") in SIGN_FINISHED:
            mine, others = self._unrequested, self._intents
        else:
            return
        self._signing_ids.append(hash(record.id))
        self._signing_work.append(hash((work, mine is self._intents)))
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
        forged = self._count_forged(declared) if declared else Counter[int]()
        for work, found in self._unrequested.items():
            # A forged outcome may have taken the intent of a genuine one.
            taken = forged[hash((work, False))]
            if len(found) <= taken:
                continue
            for id_, line in found:
                if hash_id(id_) not in declared:
                    number = self._sequences[id_]
                    yield FoundError("unrequested", number, _UNREQUESTED, line)

    def _count_forged(self, declared: Mapping[str, str]) -> Counter[int]:
        """Return how many records of signatures are forged, by the hash of the work."""
        ids = {
            hash(id_) for id_, _ in self._sequences.items() if hash_id(id_) in declared
        }
        signing = zip(self._signing_ids, self._signing_work, strict=True)
        return Counter(work for id_, work in signing if id_ in ids)


_EXPORT_AGAIN = "copy or export it again, then verify the new file"

_COMPARE = (
    "verify again with a checkpoint kept elsewhere (--checkpoint) before another one is"
    " signed"
)


def verify(
    lines: Iterable[bytes],
    verifier: Verifier,
    notes: Iterable[str] = (),
    sequences: Sequences | None = None,
) -> ExportVerdict:
    """
    Verify the *lines* of an export, each with its line feed.

    *notes* are checkpoints that were kept elsewhere.  One that is not signed by a
    trusted key raises ``InvalidInputError``.  *sequences* remembers the id of each
    record, by default in memory, where a record needs about 200 bytes.
    """
    verification = Verification(verifier, notes, sequences)
    finding: BadRecord | None = None
    number = 0
    try:
        for number, line in enumerate(lines, 1):  # noqa: B007 - used after the loop.
            verification.read(line)
        number += 1
        verification.close()
    except FoundError as e:
        finding = BadRecord(e.finding_code, e.sequence, e.line or number, str(e))
    return verification.verdict(finding)


class Verification:
    """The state of the verification after the lines read so far; see ``verify``."""

    def __init__(
        self,
        verifier: Verifier,
        notes: Iterable[str] = (),
        sequences: Sequences | None = None,
    ) -> None:
        self._verifier = verifier
        self._trusted = defaultdict[int, list[Statement]](list)
        for statement in map(verifier.verify, notes):
            self._trusted[statement.size].append(statement)
        self._trusted_origins = {
            statement.origin for each in self._trusted.values() for statement in each
        }
        self._origin: str | None = None
        self._size = 0
        self._head = GENESIS
        self._reader = LineReader()
        self._line = 0
        self._index = RecordIndex({} if sequences is None else sequences)
        self._checkpoints = 0
        self._forged: ForgedCheckpoints | None = None
        self._last: Statement | None = None
        self._tail = UnsignedTail()
        self._late = list[Unsigned]()
        self._newest = ""
        self._ended = False

    def verdict(self, finding: BadRecord | None) -> ExportVerdict:
        return ExportVerdict(
            self._origin,
            self._size,
            self._head,
            self._checkpoints,
            self._last.size if self._last else 0,
            self._last.at if self._last else None,
            made_at(self._newest),
            tuple(self._late),
            tuple(self._index.forged()),
            self._forged,
            finding,
        )

    def read(self, line: bytes) -> None:
        """Verify the next line; raise a finding if it is bad."""
        self._line += 1
        if self._ended:
            raise self._found(
                "trailing",
                f"there are lines after the end of the export: {_EXPORT_AGAIN}",
            )
        match parsed := self._parse(line):
            case ExportHeader() if self._origin is None:
                self._begin(parsed)
            case None if self._origin is not None:
                pass  # A part of a long record.
            case Sealed() if self._origin is not None:
                self._add(parsed)
            case RawRecord(each, is_canonical) if self._origin is not None:
                self._add(each, is_canonical=is_canonical)
            case Note() if self._origin is not None:
                self._check(parsed)
            case End() if self._origin is not None:
                self._end(parsed)
            case _:
                raise self._found("order", "the line is in the wrong place")

    def close(self) -> None:
        """Verify the file as a whole; raise a finding if something is missing."""
        if self._origin is None:
            raise self._found("missing", f"the file is empty: {_EXPORT_AGAIN}")
        if not self._ended:
            raise self._found(
                "missing", f"the file is cut off before its last line: {_EXPORT_AGAIN}"
            )
        beyond = [size for size in self._trusted if size > self._size]
        if beyond:
            raise self._found(
                "missing",
                f"it is missing: a checkpoint kept elsewhere covers {max(beyond)}"
                " records",
            )
        if self._last is None and self._forged is not None:
            raise FoundError(
                "checkpoint",
                max(self._forged.sequence, 1),
                f"no checkpoint counts, and {self._forged.problem}: check --public-key",
                self._forged.line,
            )
        if self._last is None:
            raise FoundError(
                "unsigned",
                1,
                "the file has no checkpoint, so it proves nothing: pass one kept"
                " elsewhere with --checkpoint, or sign one and export again",
            )
        found = [
            *self._index.find_undeclared(),
            *self._index.find_unrequested(),
            *self._find_overdue(),
        ]
        if found:
            raise min(found, key=lambda each: each.sequence)

    def _find_overdue(self) -> Iterator[FoundError]:
        tail = self._tail.at_newest()
        if tail.is_overdue:
            yield FoundError(
                "overdue",
                tail.first,
                f"the last {tail.records} records have no checkpoint, though one was"
                f" overdue: {_COMPARE}",
            )

    def _parse(self, line: bytes) -> Entry | None:
        if not line.endswith(b"\n") and len(line) < MAX_LINE:
            raise self._found(
                "torn", f"{TORN}, the file is cut off in it: {_EXPORT_AGAIN}"
            )
        try:
            return self._reader.read(line)
        except InvalidInputError as e:
            raise self._found("unreadable", str(e)) from None

    def _begin(self, header: ExportHeader) -> None:
        self._origin = header.origin
        if self._trusted_origins - {header.origin}:
            raise self._found(
                "origin",
                "a checkpoint kept elsewhere has another origin: is it of this ledger?",
            )

    def _add(self, each: Sealed, *, is_canonical: bool = True) -> None:
        expected = self._size + 1
        if each.sequence != expected:
            raise self._found(
                "missing", f"it is missing: record {each.sequence} follows instead"
            )
        head = link(self._head, expected, each.record)
        if head != each.hash:
            raise self._found("changed", "it was changed: its hash does not match")
        if not self._index.is_new(each):
            raise self._found("repeated", "an earlier record has the same id")
        self._tail.add(each.record, is_ours=is_canonical)
        for statement in self._trusted.get(expected, ()):
            if statement.hash != head:
                raise self._found(
                    "replaced",
                    "it was replaced: a checkpoint kept elsewhere has another hash",
                )
            self._trust(statement)
        self._index.add(each.record, self._line, is_canonical=is_canonical)
        self._size, self._head = expected, head
        if is_canonical:
            self._newest = each.record.id

    def _check(self, line: Note) -> None:
        statement = self._verify_note(line)
        if statement is None:
            return  # No role can delete it from the database: it must not end this.
        if statement.size > self._size:
            raise self._found(
                "missing",
                f"it is missing: a checkpoint covers {statement.size} records",
            )
        if statement.size < self._size:
            raise self._found("order", "the checkpoint does not follow its record")
        if statement.hash != self._head:
            raise FoundError(
                "replaced",
                self._size,
                "it was replaced: the checkpoint has another hash",
            )
        self._checkpoints += 1
        self._trust(statement)

    def _trust(self, statement: Statement) -> None:
        before = self._tail.at(statement.at)
        if before.is_overdue:
            self._late.append(before)
        self._last, self._tail = statement, UnsignedTail(statement.size, statement.at)

    def _verify_note(self, line: Note) -> Statement | None:
        """Return what the note states; None if it is forged."""
        try:
            statement = self._verifier.verify(line.note)
        except InvalidInputError as e:
            problem = str(e)
        else:
            if statement.origin == self._origin:
                return statement
            problem = "the checkpoint has another origin"
        first = self._forged or ForgedCheckpoints(0, self._line, self._size, problem)
        self._forged = replace(first, count=first.count + 1)
        return None

    def _end(self, end: End) -> None:
        notes = self._checkpoints + (self._forged.count if self._forged else 0)
        if end != End(self._size, self._head, notes):
            raise self._found(
                "missing", f"the last line has other counts: {_EXPORT_AGAIN}"
            )
        self._ended = True

    def _found(self, code: str, message: str) -> FoundError:
        """Return a finding about the next record."""
        return FoundError(code, self._size + 1, message)
