"""The chain as a file, for somebody who has nothing else; ``lines.py`` draws it."""

from collections.abc import Iterable, Iterator

from signer.audit.lines import (
    End,
    checkpoint_line,
    end_line,
    header_line,
    parse,
    record_line,
)
from signer.audit.record import Record, Sealed
from signer.audit.walking import batches
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

    Raises:
        InvalidInputError: A line is no line of an export.
    """
    for line in lines:
        said = parse(line)
        if isinstance(said, Sealed):
            yield said.record


def _until(journal: Journal, size: int) -> Iterator[Sealed]:
    for batch in batches(journal):
        for each in batch:
            if each.sequence > size:
                return
            yield each
