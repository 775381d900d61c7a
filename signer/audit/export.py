"""Exports the chain as a file that can be verified without the database."""

from collections.abc import Iterable, Iterator

from signer.audit.chain_reader import batches
from signer.audit.export_format import (
    End,
    Entry,
    Header,
    LineReader,
    Note,
    RawRecord,
    checkpoint_line,
    end_line,
    header_line,
    record_lines,
)
from signer.audit.hash_chain import GENESIS
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, Sealed
from signer.ports import Journal


def export(journal: Journal, origin: str) -> Iterator[bytes]:
    """
    Yield the lines of the whole chain, as it is when the first line is read.

    The export starts at the first record: only a whole chain can be verified.  A
    checkpoint of more records than there are is included, since it is evidence.
    """
    # Read before the head, so that no checkpoint covers records after it.
    checkpoints = journal.checkpoints()
    size, head = journal.head()
    yield header_line(origin)
    written = 0
    for each in _until(journal, size):
        yield from record_lines(each)
        while written < len(checkpoints) and checkpoints[written].size <= each.sequence:
            yield checkpoint_line(checkpoints[written].note)
            written += 1
    for checkpoint in checkpoints[written:]:
        yield checkpoint_line(checkpoint.note)
    yield end_line(End(size, head, len(checkpoints)))


def records(lines: Iterable[bytes]) -> Iterator[Record]:
    """Yield the records of a verified export, or raise ``InvalidInputError``."""
    reader = LineReader()
    parsed: Entry | None = None
    before: Entry | None = None
    expected = End(0, GENESIS, 0)
    for number, line in enumerate(lines, 1):
        parsed = reader.read(line)
        if parsed is None:
            continue
        if isinstance(parsed, Header) != (before is None) or isinstance(before, End):
            raise InvalidInputError(
                f"line {number} of the export is in the wrong place"
            )
        before = parsed
        each = parsed.sealed if isinstance(parsed, RawRecord) else parsed
        if isinstance(each, Sealed):
            if each.sequence != expected.records + 1:
                raise InvalidInputError(f"a record is missing before line {number}")
            expected = End(each.sequence, each.hash, expected.checkpoints)
            yield each.record
        elif isinstance(each, Note):
            expected = End(expected.records, expected.hash, expected.checkpoints + 1)
    if parsed != expected:
        raise InvalidInputError("the export is empty or incomplete: export it again")


def _until(journal: Journal, size: int) -> Iterator[Sealed]:
    for batch in batches(journal):
        for each in batch:
            if each.sequence > size:
                return
            yield each
