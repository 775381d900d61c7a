"""Exports the chain as a file that can be verified without the database."""

from collections.abc import Iterable, Iterator

from signer.audit.chain_reader import BATCH, batches
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
from signer.audit.stored_checkpoints import MAX_SIZE, statement_of
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, Sealed
from signer.ports.audit_journal import Checkpoint, Journal


def export(journal: Journal, origin: str) -> Iterator[bytes]:
    """
    Yield the lines of the whole chain, as it is when the first line is read.

    The export starts at the first record: only a whole chain can be verified.  A
    checkpoint of more records than there are is included, since it is evidence.  What
    is stored as a checkpoint and is none of *origin* is left out; a forged signature is
    not detected here, since the keys may have changed.
    """
    # Read before the head, so that no checkpoint covers records after it.
    beyond = journal.newest_checkpoints(journal.head()[0], MAX_SIZE, BATCH)
    size, head = journal.head()
    yield header_line(origin)
    written = 0
    stored = _checkpoints(journal, origin, size)
    checkpoint = next(stored, None)
    for each in _until(journal, size):
        yield from record_lines(each)
        while checkpoint is not None and checkpoint.size <= each.sequence:
            yield checkpoint_line(checkpoint.note)
            written += 1
            checkpoint = next(stored, None)
    for checkpoint in reversed(beyond):
        if checkpoint.size > size and statement_of(checkpoint, origin) is not None:
            yield checkpoint_line(checkpoint.note)
            written += 1
    yield end_line(End(size, head, written))


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


def _checkpoints(journal: Journal, origin: str, size: int) -> Iterator[Checkpoint]:
    """Yield what has the form of a checkpoint of *origin*, up to *size* records."""
    after = None
    while batch := journal.checkpoints(after):
        for after in batch:
            if after.size > size:
                return
            if statement_of(after, origin) is not None:
                yield after


def _until(journal: Journal, size: int) -> Iterator[Sealed]:
    for batch in batches(journal):
        for each in batch:
            if each.sequence > size:
                return
            yield each
