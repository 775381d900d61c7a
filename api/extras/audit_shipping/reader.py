"""Reads the shipped log as an export, for the verifier and for a restore."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

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
        self.is_incomplete = False

    def lines(self) -> Iterator[bytes]:
        # Checkpoints first: what they cover was shipped before them.
        notes = self._read_checkpoints()
        size, head, count = 0, GENESIS, 0
        for stored in self._list(RECORDS):
            first = stored.name.removeprefix(RECORDS).removesuffix(".jsonl")
            if not first.isdigit() or int(first) <= size:
                self.ignored.append(stored.name)
                continue
            self.is_incomplete |= int(first) != size + 1
            for line in self._place.get(stored, _LARGEST).splitlines(keepends=True):
                yield line
                size, head = read_place(line) or (size, head)
                for note in notes.pop(size, ()):
                    count += 1
                    yield checkpoint_line(note)
        for covered in sorted(notes):
            self.is_incomplete = True
            yield from map(checkpoint_line, notes[covered])
        if size:
            yield end_line(End(size, head, count))

    def _read_checkpoints(self) -> dict[int, list[str]]:
        """Return the notes by their size."""
        found = defaultdict[int, list[str]](list)
        for stored in self._list(CHECKPOINTS):
            try:
                line = parse(self._place.get(stored, MAX_LINE))
                if isinstance(line, Note):
                    size = checkpoints.parse(line.note).statement.size
                    found[size].append(line.note)
                    self.notes.append(line.note)
                    continue
            except InvalidInputError:
                pass
            self.ignored.append(stored.name)
        return found

    def _list(self, folder: str) -> Iterator[Stored]:
        for stored in self._place.list(folder):
            if stored.was_replaced:
                self.replaced.append(stored.name)
            if not stored.was_deleted:
                yield stored
