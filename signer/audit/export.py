"""The chain as a file, for somebody who has nothing else; ``lines.py`` draws it."""

from collections.abc import Iterable, Iterator

from signer.audit.chain_reader import batches
from signer.audit.export_format import (
    End,
    Header,
    Line,
    Note,
    checkpoint_line,
    end_line,
    header_line,
    parse,
    record_line,
)
from signer.audit.hash_chain import GENESIS
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, Sealed
from signer.ports import Journal


def export(journal: Journal, origin: str) -> Iterator[bytes]:
    """
    Yield the lines of the whole chain, as it is when the first one is asked for.

    It begins at the first record: only a whole chain can be verified by itself.  A
    checkpoint of more records than there are is told as well, since it is evidence.

    Raises:
        StoreError: The journal cannot be read.
    """
    # Read before the head, so that none of them is about what comes after it.
    checkpoints = journal.checkpoints()
    size, head = journal.head()
    yield header_line(origin)
    told = 0
    for each in _until(journal, size):
        yield record_line(each)
        while told < len(checkpoints) and checkpoints[told].size <= each.sequence:
            yield checkpoint_line(checkpoints[told].note)
            told += 1
    for checkpoint in checkpoints[told:]:
        yield checkpoint_line(checkpoint.note)
    yield end_line(End(size, head, len(checkpoints)))


def records(lines: Iterable[bytes]) -> Iterator[Record]:
    """
    Yield the records of an export, which somebody else has verified.

    That it is all there is looked at all the same: from the first line to the last one,
    and as many records as that one says.

    Raises:
        InvalidInputError: It is not, or a line is no line of an export.
    """
    said: Line | None = None
    due = End(0, GENESIS, 0)
    for number, line in enumerate(lines, 1):
        before, said = said, parse(line)
        if isinstance(said, Header) != (before is None) or isinstance(before, End):
            raise InvalidInputError(f"line {number} of the export is not at its place")
        if isinstance(said, Sealed):
            if said.sequence != due.records + 1:
                raise InvalidInputError(f"a record is missing before line {number}")
            due = End(said.sequence, said.hash, due.checkpoints)
            yield said.record
        elif isinstance(said, Note):
            due = End(due.records, due.hash, due.checkpoints + 1)
    if said != due:
        raise InvalidInputError("the export is empty, cut off, or not all there")


def _until(journal: Journal, size: int) -> Iterator[Sealed]:
    for batch in batches(journal):
        for each in batch:
            if each.sequence > size:
                return
            yield each
