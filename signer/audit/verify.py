"""
Read an export with nothing but a public key, and name the first record that is bad.

A chain alone proves that nothing was changed *unless everything behind it was hashed
again*; checkpoints prove that it was not, up to where they reach, which is near to the
end; and a checkpoint that was kept elsewhere proves it even where somebody has replaced
the whole file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from signer.audit.checkpoint_schedule import Tail, Unsigned
from signer.audit.checkpoints import Statement, Verifier
from signer.audit.export_format import MAX_LINE, TORN, End, Header, Line, Note, parse
from signer.audit.hash_chain import GENESIS, link
from signer.audit.sealing_monitor import made_at
from signer.errors import HotWalletError, InvalidInputError
from signer.model.audit_record import Sealed


@dataclass(frozen=True, slots=True)
class Finding:
    """
    The first thing that is wrong.

    ``sequence`` is the first record that does not fit; ``line`` is where it shows in
    the file, from 1.
    """

    code: str
    sequence: int
    line: int
    message: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"record {self.sequence} (line {self.line}): {self.message}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What an export proves.

    ``records`` follow from each other, and from the first one on.  Of these the first
    ``signed`` are as a checkpoint says, made at ``signed_at`` by the signer's clock:
    those nobody has changed.  Whatever was done, was done to a record behind them, and
    not later than to that of ``finding``.  ``newest_at`` is when the last record says
    that it was made: an older copy of the file shows by that alone.  ``late`` is what
    was signed for late, as after a stop, and unproved until then.
    """

    origin: str | None
    records: int
    head: bytes
    checkpoints: int
    signed: int
    signed_at: datetime | None
    newest_at: datetime | None
    late: tuple[Unsigned, ...]
    finding: Finding | None

    @property
    def is_good(self) -> bool:
        """Whether nothing was found."""
        return self.finding is None


_AGAIN = "copy or export it again, and verify that"
"""What to do about a file that is not all there: nothing in it can be mended."""

_HOLD = "hold them against one that was kept elsewhere before anybody signs for them"


class _FoundError(HotWalletError):
    """Ends the reading."""

    def __init__(self, code: str, sequence: int, message: str) -> None:
        super().__init__(message)
        self.finding_code = code
        self.sequence = sequence


def verify(
    lines: Iterable[bytes], verifier: Verifier, kept: Iterable[str] = ()
) -> Verdict:
    """
    Return what an export's *lines*, each with its line feed, prove.

    *kept* are notes of checkpoints that were kept elsewhere.

    Raises:
        InvalidInputError: One of *kept* is not a checkpoint by a key of ours.
    """
    reading = _Reading(verifier, [verifier.verify(note) for note in kept])
    finding: Finding | None = None
    number = 0
    try:
        for number, line in enumerate(lines, 1):  # noqa: B007 - told when it ends.
            reading.read(line)
        number += 1
        reading.close()
    except _FoundError as e:
        finding = Finding(e.finding_code, e.sequence, number, str(e))
    return reading.verdict(finding)


class _Reading:
    """How far an export was read, and what holds up to there."""

    def __init__(self, verifier: Verifier, kept: Iterable[Statement]) -> None:
        self._verifier = verifier
        self._kept = _by_size(kept)
        self._origins = {
            statement.origin for each in self._kept.values() for statement in each
        }
        self._origin: str | None = None
        self._size = 0
        self._head = GENESIS
        self._ids: set[str] = set()
        self._checkpoints = 0
        self._last: Statement | None = None
        self._tail = Tail()
        self._late = list[Unsigned]()
        self._newest = ""
        self._ended = False

    def verdict(self, finding: Finding | None) -> Verdict:
        """Return what was found out."""
        return Verdict(
            self._origin,
            self._size,
            self._head,
            self._checkpoints,
            self._last.size if self._last else 0,
            self._last.at if self._last else None,
            made_at(self._newest),
            tuple(self._late),
            finding,
        )

    def read(self, line: bytes) -> None:
        """Take in one line, or raise what is wrong with it."""
        if self._ended:
            raise self._found("trailing", "there is more behind the last line")
        said = self._parsed(line)
        match said:
            case Header() if self._origin is None:
                self._begin(said)
            case Sealed() if self._origin is not None:
                self._add(said)
            case Note() if self._origin is not None:
                self._check(said)
            case End() if self._origin is not None:
                self._end(said)
            case _:
                raise self._found("order", "the line is not at its place")

    def close(self) -> None:
        """Judge the whole, or raise what is missing."""
        if self._origin is None:
            raise self._found("missing", f"the file is empty: {_AGAIN}")
        if not self._ended:
            raise self._found(
                "missing", f"the file was cut off before its last line: {_AGAIN}"
            )
        beyond = [size for size in self._kept if size > self._size]
        if beyond:
            raise self._found(
                "missing",
                f"missing: a checkpoint kept elsewhere is of {max(beyond)} records",
            )
        if self._last is None:
            raise _FoundError(
                "unsigned", 1, "no checkpoint: anybody could have made it"
            )
        tail = self._tail.unsigned()
        if tail.is_overdue:
            raise _FoundError(
                "overdue",
                tail.first,
                f"nobody has signed for the last {tail.records} records, though a"
                f" checkpoint was long due: {_HOLD}",
            )

    def _parsed(self, line: bytes) -> Line:
        if not line.endswith(b"\n") and len(line) < MAX_LINE:
            raise self._found("torn", f"{TORN}, the file was cut off in it: {_AGAIN}")
        try:
            return parse(line)
        except InvalidInputError as e:
            problem = str(e)
        raise self._found("unreadable", problem)

    def _begin(self, header: Header) -> None:
        self._origin = header.origin
        if self._origins - {header.origin}:
            raise self._found(
                "origin", "a checkpoint kept elsewhere has another origin"
            )

    def _add(self, each: Sealed) -> None:
        due = self._size + 1
        if each.sequence != due:
            raise self._found("missing", f"missing: record {each.sequence} is there")
        head = link(self._head, due, each.record)
        if head != each.hash:
            raise self._found("changed", "the hash does not follow")
        if each.record.id in self._ids:
            raise self._found("repeated", "there is a record of this id before it")
        self._tail.add(each.record)
        for statement in self._kept.get(due, ()):
            if statement.hash != head:
                raise self._found(
                    "replaced", "a checkpoint kept elsewhere has another hash"
                )
            self._trust(statement)
        self._ids.add(each.record.id)
        self._size, self._head, self._newest = due, head, each.record.id

    def _check(self, said: Note) -> None:
        statement = self._believed(said)
        if statement.size > self._size:
            raise self._found(
                "missing", f"missing: a checkpoint is of {statement.size}"
            )
        if statement.size < self._size:
            raise self._found("order", "a checkpoint is not behind its record")
        if statement.hash != self._head:
            raise _FoundError(
                "replaced", self._size, "the checkpoint behind it has another hash"
            )
        self._checkpoints += 1
        self._trust(statement)

    def _trust(self, statement: Statement) -> None:
        before = self._tail.unsigned_at(statement.at)
        if before.is_overdue:
            self._late.append(before)
        self._last, self._tail = statement, Tail(statement.size, statement.at)

    def _believed(self, said: Note) -> Statement:
        try:
            statement = self._verifier.verify(said.note)
        except InvalidInputError as e:
            problem = str(e)
        else:
            if statement.origin == self._origin:
                return statement
            problem = "the checkpoint is of another origin"
        raise _FoundError("checkpoint", max(self._size, 1), problem)

    def _end(self, end: End) -> None:
        if end != End(self._size, self._head, self._checkpoints):
            raise self._found("missing", "the last line tells of another file")
        self._ended = True

    def _found(self, code: str, message: str) -> _FoundError:
        """Return a finding that the next record would have been."""
        return _FoundError(code, self._size + 1, message)


def _by_size(statements: Iterable[Statement]) -> Mapping[int, list[Statement]]:
    sorted_out: dict[int, list[Statement]] = {}
    for statement in statements:
        sorted_out.setdefault(statement.size, []).append(statement)
    return sorted_out
