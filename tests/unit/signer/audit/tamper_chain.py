"""The export that ``tampering`` changes: ``SIZE`` records, with forged ones in it."""

import random
from collections.abc import Iterable

from signer.audit.export import End, end_line, record_lines
from signer.audit.hash_chain import EVENT, FIELD, GENESIS, hash_id, sealed
from signer.model.audit_record import Record, Sealed
from tests.support.audit import START, chain, exported, record


SIZE = 60
EVERY = 10
SIZES = range(EVERY, SIZE + 1, EVERY)

FORGED = {7: "au_0", 34: ""}
"""Records with these ids are not canonical; a later one declares them forged."""


def _chain_with_forgeries() -> list[Sealed]:
    """Return a chain in which record 45 declares those of ``FORGED``."""
    links = [each.record for each in chain(SIZE, seconds=60 / EVERY)]
    for place, id_ in FORGED.items():
        links[place - 1] = Record(id_, f'{{"event": "forged {place}"}}')
    hashes = [hash_id(id_) for id_ in FORGED.values()]
    declaration = {"event": EVENT, "details": {FIELD: hashes}}
    links[44] = Record(links[44].id, Record.of(declaration, START).body)
    return sealed(0, GENESIS, links)


LINKS = _chain_with_forgeries()
OTHERS = chain(SIZE, seconds=60 / EVERY)


def exported_as(links: list[Sealed], sizes: Iterable[int]) -> list[bytes]:
    """Return the export of *links* with the original checkpoints of *sizes*."""
    return with_checkpoints(links, [note_line(LINKS, size) for size in sizes])


def rehashed(place: int) -> list[Sealed]:
    """Return the chain with one record changed, and all later ones hashed again."""
    records = [each.record for each in LINKS]
    records[place - 1] = edited(place)
    return sealed(0, GENESIS, records)


def whole() -> list[bytes]:
    """Return the export that is changed."""
    return exported(LINKS, SIZES)


def line_of(each: Sealed) -> bytes:
    """Return the line of a record."""
    (line,) = record_lines(each)
    return line


def place_in(chance: random.Random) -> int:
    """Return the sequence number of any record."""
    return chance.randrange(1, SIZE + 1)


def index_of(place: int) -> int:
    """Return the index of the line of a record, after header and checkpoints."""
    return place + (place - 1) // EVERY


def first_covering(place: int) -> int:
    """Return the size of the first checkpoint that covers *place*."""
    return -(-place // EVERY) * EVERY


def edited(place: int) -> Record:
    """Return a record with the id of another one and a new body."""
    return Record(LINKS[place - 1].record.id, record(-1).body)


def note_line(links: list[Sealed], size: int) -> bytes:
    """Return the line of a checkpoint."""
    (line,) = exported(links[:size], [size])[-2:-1]
    return line


def with_checkpoints(links: list[Sealed], notes: list[bytes]) -> list[bytes]:
    """Return an export of *links* with *notes* after every ``EVERY`` records."""
    lines = exported(links, ())
    body = lines[1:-1]
    written = [lines[0]]
    for number, note in enumerate(notes):
        written += [*body[number * EVERY : (number + 1) * EVERY], note]
    written += body[len(notes) * EVERY :]
    return [*written, end_line(End(len(links), links[-1].hash, len(notes)))]
