"""Reads the shipped log as an export, for the verifier and for a restore."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from api.extras.audit_shipping.places import Place, Stored, open_place
from signer.audit import checkpoints
from signer.audit.export import (
    MAX_LINE,
    End,
    Note,
    checkpoint_line,
    end_line,
    parse,
    read_place,
)
from signer.audit.hash_chain import GENESIS
from signer.errors import InvalidInputError


RECORDS, CHECKPOINTS = "records/", "checkpoints/"

_LARGEST = 64 * 2**20
"""How much of an object is read, which others may have written; ours are smaller."""

_SEGMENT = re.compile(rf"{RECORDS}([0-9]{{20}})\.jsonl")


def segment_name(first: int) -> str:
    return f"{RECORDS}{first:020}.jsonl"


def open_log(url: str, environ: Mapping[str, str]) -> "ShippedLog":
    """Return the log at *url*; raises ``InvalidInputError``."""
    endpoint, region = environ.get("AWS_ENDPOINT_URL_S3"), environ.get("AWS_REGION")
    return ShippedLog(open_place(url, endpoint or None, region or None))


class ShippedLog:
    """Implements ``signer.ports.shipped_log.ShippedLog`` for a place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.notes: list[str] = []
        self.replaced: list[str] = []
        self.ignored: list[str] = []

    def lines(self) -> Iterator[bytes]:
        # Checkpoints first: what they cover was shipped before them.
        notes = self._read_checkpoints()
        size, head, count = 0, GENESIS, 0
        for stored in self._place.list(RECORDS):
            named = _SEGMENT.fullmatch(stored.name)
            if named is None or int(named[1]) <= size:
                self.ignored.append(stored.name)
                continue
            for line in self._read(stored):
                yield line
                place = read_place(line)
                # Another program may have written any number.
                if place is not None and place[0] == size + 1:
                    size, head = place
                for note in notes.pop(size, ()):
                    count += 1
                    yield checkpoint_line(note)
        for covered in sorted(notes):
            count += len(notes[covered])
            yield from map(checkpoint_line, notes[covered])
        if size:
            yield end_line(End(size, head, count))

    def _read(self, stored: Stored) -> Sequence[bytes]:
        """Return the lines of a segment."""
        if stored.was_replaced:
            self.replaced.append(stored.name)
        if stored.was_deleted:
            return ()
        # An empty segment counts as a torn one, since the log cannot go on after it.
        return self._place.get(stored, _LARGEST).splitlines(keepends=True) or (b"",)

    def _read_checkpoints(self) -> dict[int, list[str]]:
        """Return the notes by their size."""
        found = defaultdict[int, list[str]](list)
        for stored in self._place.list(CHECKPOINTS):
            try:
                content = (
                    b"" if stored.was_deleted else self._place.get(stored, MAX_LINE)
                )
                if isinstance(line := parse(content), Note):
                    size = checkpoints.parse(line.note).statement.size
                    found[size].append(line.note)
                    self.notes.append(line.note)
                    continue
            except InvalidInputError:
                pass
            self.ignored.append(stored.name)
        return found
