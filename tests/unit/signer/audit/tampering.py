"""
Manipulations of an export, and the record at which each must be detected.

Each function changes an export of ``SIZE`` records with a checkpoint every ``EVERY``
records (every minute).  It returns the lines, the first changed record, and the record
at which that can be detected.
"""

import random
from collections.abc import Callable, Iterable

from signer.audit.checkpoints import CheckpointKey
from signer.audit.export import (
    End,
    checkpoint_line,
    end_line,
    raw_lines,
    record_line,
    record_lines,
)
from signer.audit.hash_chain import EVENT, FIELD, GENESIS, hash_id, link, sealed
from signer.model.audit_record import Record, Sealed
from tests.support.audit import START, chain, checkpoint, exported, record


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


WHOLE = tuple(exported(LINKS, SIZES))


def whole() -> list[bytes]:
    """Return the export that is changed."""
    return [*WHOLE]


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


INTRUDER = CheckpointKey.generate()

Tampered = tuple[list[bytes], int, int]


def edit(chance: random.Random) -> Tampered:
    """Change the body of a record."""
    lines, place = whole(), place_in(chance)
    tampered = Sealed(place, LINKS[place - 1].hash, edited(place))
    lines[index_of(place)] = line_of(tampered)
    return lines, place, place


def edit_the_id(chance: random.Random) -> Tampered:
    """Change the id of a record."""
    lines, place = whole(), place_in(chance)
    was = LINKS[place - 1]
    renamed = Record(OTHERS[place - 1].record.id, was.record.body)
    lines[index_of(place)] = line_of(Sealed(place, was.hash, renamed))
    return lines, place, place


def flip_a_bit(chance: random.Random) -> Tampered:
    """Flip one bit of a line."""
    lines, place = whole(), place_in(chance)
    line = bytearray(lines[index_of(place)])
    line[chance.randrange(len(line) - 1)] ^= 1 << chance.randrange(8)
    lines[index_of(place)] = bytes(line)
    return lines, place, place


def respell(chance: random.Random) -> Tampered:
    """Write the same record in another encoding."""
    lines, place = whole(), place_in(chance)
    line = lines[index_of(place)]
    lines[index_of(place)] = chance.choice(
        (
            line.replace(b":", b": ", 1),
            line.replace(b'"event"', b'"\\u0065vent"'),
            line.replace(b'"sequence":', b'"sequence":0'),
            line.replace(b"\n", b"\r\n"),
            line.replace(b'"event":', b'"event":"first","event":'),
        )
    )
    return lines, place, place


def encode_otherwise(chance: random.Random) -> Tampered:
    """Write the same record as bytes instead of JSON, or as JSON instead of bytes."""
    lines, place = whole(), place_in(chance)
    each = LINKS[place - 1]
    encoded = [record_line(each)] if place in FORGED else raw_lines(each)
    lines[index_of(place)] = b"".join(encoded)
    return lines, place, place


def edit_and_hash(chance: random.Random) -> Tampered:
    """Change a record and its hash, but no later hash."""
    lines, place = whole(), place_in(chance)
    tampered = rehashed(place)[place - 1]
    lines[index_of(place)] = line_of(tampered)
    return lines, place, place if place in SIZES else place + 1


def delete(chance: random.Random) -> Tampered:
    """Remove a record."""
    lines, place = whole(), place_in(chance)
    del lines[index_of(place)]
    return lines, place, place


def delete_some(chance: random.Random) -> Tampered:
    """Remove records, with the checkpoints between them."""
    first, last = sorted(chance.sample(range(1, SIZE + 1), 2))
    lines = whole()
    del lines[index_of(first) : index_of(last) + 1]
    return lines, first, first


def swap(chance: random.Random) -> Tampered:
    """Swap two records."""
    first, last = sorted(chance.sample(range(1, SIZE + 1), 2))
    lines, one, other = whole(), index_of(first), index_of(last)
    lines[one], lines[other] = lines[other], lines[one]
    return lines, first, first


def duplicate(chance: random.Random) -> Tampered:
    """Repeat a record, at once or later."""
    first, last = sorted(chance.choices(range(1, SIZE + 1), k=2))
    lines = whole()
    lines.insert(index_of(last) + 1, lines[index_of(first)])
    return lines, last + 1, last + 1


def insert(chance: random.Random) -> Tampered:
    """Insert a record."""
    lines, place = whole(), place_in(chance)
    forged = Sealed(place, chance.randbytes(32), record(-1))
    lines.insert(index_of(place), line_of(forged))
    return lines, place, place


def insert_and_hash(chance: random.Random) -> Tampered:
    """Insert a record whose hash follows from the one before it."""
    lines, place = whole(), place_in(chance)
    before = LINKS[place - 2].hash if place > 1 else GENESIS
    forged = record(-1)
    tampered = Sealed(place, link(before, place, forged), forged)
    lines.insert(index_of(place), line_of(tampered))
    # The kept checkpoint covers the last record.
    return lines, place, place if place == SIZE else place + 1


def replace(chance: random.Random) -> Tampered:
    """Replace a record by one of another chain."""
    lines, place = whole(), place_in(chance)
    lines[index_of(place)] = line_of(OTHERS[place - 1])
    # The first record of every chain follows from the genesis hash.
    return lines, place, max(place, 2)


def truncate(chance: random.Random) -> Tampered:
    """Cut the file off after a record."""
    place = place_in(chance)
    return whole()[: index_of(place)], place, place


def tear(chance: random.Random) -> Tampered:
    """Cut the file off within a record."""
    lines, place = whole(), place_in(chance)
    line = lines[index_of(place)]
    torn = line[: chance.randrange(1, len(line))]
    return [*lines[: index_of(place)], torn], place, place


def restore(chance: random.Random) -> Tampered:
    """Replace the file by an older copy."""
    size = chance.randrange(EVERY, SIZE)
    sizes = [each for each in SIZES if each <= size]
    return exported(LINKS[:size], sizes), size + 1, size + 1


def rehash(chance: random.Random) -> Tampered:
    """Change a record, and hash all later ones again."""
    place = place_in(chance)
    tampered = rehashed(place)
    lines = with_checkpoints(tampered, [note_line(LINKS, size) for size in SIZES])
    return lines, place, first_covering(place)


def rehash_and_sign(chance: random.Random) -> Tampered:
    """Change a record, hash all later ones again, and sign with another key."""
    place = place_in(chance)
    tampered = rehashed(place)
    notes = [
        note_line(LINKS, size)
        if size < place
        else checkpoint_line(checkpoint(tampered, size, key=INTRUDER).note)
        for size in SIZES
    ]
    return with_checkpoints(tampered, notes), place, SIZE


def rehash_and_hide(chance: random.Random) -> Tampered:
    """Change a record, hash all later ones again, and remove their checkpoints."""
    place = place_in(chance)
    sizes = [size for size in SIZES if size < place]
    return exported_as(rehashed(place), sizes), place, SIZE


def replace_all(chance: random.Random) -> Tampered:
    """Replace everything by another chain with another key."""
    size = chance.randrange(1, 2 * SIZE)
    lines = exported(chain(size), (), key=INTRUDER)
    return lines, 1, min(size + 1, SIZE)


TAMPERINGS: tuple[Callable[[random.Random], Tampered], ...] = (
    *(edit, edit_the_id, flip_a_bit, respell, encode_otherwise, edit_and_hash, delete),
    *(delete_some, swap, duplicate, insert, insert_and_hash, replace, truncate, tear),
    *(restore, rehash, rehash_and_sign, rehash_and_hide, replace_all),
)
