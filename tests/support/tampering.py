"""
Manipulations of an export, and the record at which each must be detected.

Each function changes an export of ``SIZE`` records with a checkpoint every ``EVERY``
records (every minute).  It returns the lines, the first changed record, and the record
at which that can be detected.
"""

import random
from collections.abc import Callable, Iterable

from signer.audit.checkpoints import CheckpointKey
from signer.audit.export_format import End, checkpoint_line, end_line, record_line
from signer.audit.hash_chain import GENESIS, link, sealed
from signer.model.audit_record import Record, Sealed
from tests.support.audit import chain, checkpoint, exported, record


SIZE = 60
EVERY = 10
SIZES = range(EVERY, SIZE + 1, EVERY)

LINKS = chain(SIZE, seconds=60 / EVERY)
OTHERS = chain(SIZE, seconds=60 / EVERY)
INTRUDER = CheckpointKey.generate()

Tampered = tuple[list[bytes], int, int]


def edit(chance: random.Random) -> Tampered:
    """Change the body of a record."""
    lines, place = _whole(), _place(chance)
    tampered = Sealed(place, LINKS[place - 1].hash, _edited(place))
    lines[_at(place)] = record_line(tampered)
    return lines, place, place


def edit_the_id(chance: random.Random) -> Tampered:
    """Change the id of a record."""
    lines, place = _whole(), _place(chance)
    was = LINKS[place - 1]
    renamed = Record(OTHERS[place - 1].record.id, was.record.body)
    lines[_at(place)] = record_line(Sealed(place, was.hash, renamed))
    return lines, place, place


def flip_a_bit(chance: random.Random) -> Tampered:
    """Flip one bit of a line."""
    lines, place = _whole(), _place(chance)
    line = bytearray(lines[_at(place)])
    line[chance.randrange(len(line) - 1)] ^= 1 << chance.randrange(8)
    lines[_at(place)] = bytes(line)
    return lines, place, place


def respell(chance: random.Random) -> Tampered:
    """Write the same record in another encoding."""
    lines, place = _whole(), _place(chance)
    line = lines[_at(place)]
    lines[_at(place)] = chance.choice(
        (
            line.replace(b":", b": ", 1),
            line.replace(b'"event"', b'"\\u0065vent"'),
            line.replace(b'"sequence":', b'"sequence":0'),
            line.replace(b"\n", b"\r\n"),
            line.replace(b'"event":', b'"event":"first","event":'),
        )
    )
    return lines, place, place


def edit_and_hash(chance: random.Random) -> Tampered:
    """Change a record and its hash, but no later hash."""
    lines, place = _whole(), _place(chance)
    tampered = rehashed(place)[place - 1]
    lines[_at(place)] = record_line(tampered)
    return lines, place, place if place in SIZES else place + 1


def delete(chance: random.Random) -> Tampered:
    """Remove a record."""
    lines, place = _whole(), _place(chance)
    del lines[_at(place)]
    return lines, place, place


def delete_some(chance: random.Random) -> Tampered:
    """Remove records, with the checkpoints between them."""
    first, last = sorted(chance.sample(range(1, SIZE + 1), 2))
    lines = _whole()
    del lines[_at(first) : _at(last) + 1]
    return lines, first, first


def swap(chance: random.Random) -> Tampered:
    """Swap two records."""
    first, last = sorted(chance.sample(range(1, SIZE + 1), 2))
    lines, one, other = _whole(), _at(first), _at(last)
    lines[one], lines[other] = lines[other], lines[one]
    return lines, first, first


def duplicate(chance: random.Random) -> Tampered:
    """Repeat a record, at once or later."""
    first, last = sorted(chance.choices(range(1, SIZE + 1), k=2))
    lines = _whole()
    lines.insert(_at(last) + 1, lines[_at(first)])
    return lines, last + 1, last + 1


def insert(chance: random.Random) -> Tampered:
    """Insert a record."""
    lines, place = _whole(), _place(chance)
    forged = Sealed(place, chance.randbytes(32), record(-1))
    lines.insert(_at(place), record_line(forged))
    return lines, place, place


def insert_and_hash(chance: random.Random) -> Tampered:
    """Insert a record whose hash follows from the one before it."""
    lines, place = _whole(), _place(chance)
    before = LINKS[place - 2].hash if place > 1 else GENESIS
    forged = record(-1)
    tampered = Sealed(place, link(before, place, forged), forged)
    lines.insert(_at(place), record_line(tampered))
    # The kept checkpoint covers the last record.
    return lines, place, place if place == SIZE else place + 1


def replace(chance: random.Random) -> Tampered:
    """Replace a record by one of another chain."""
    lines, place = _whole(), _place(chance)
    lines[_at(place)] = record_line(OTHERS[place - 1])
    # The first record of every chain follows from the genesis hash.
    return lines, place, max(place, 2)


def truncate(chance: random.Random) -> Tampered:
    """Cut the file off after a record."""
    place = _place(chance)
    return _whole()[: _at(place)], place, place


def tear(chance: random.Random) -> Tampered:
    """Cut the file off within a record."""
    lines, place = _whole(), _place(chance)
    line = lines[_at(place)]
    torn = line[: chance.randrange(1, len(line))]
    return [*lines[: _at(place)], torn], place, place


def restore(chance: random.Random) -> Tampered:
    """Replace the file by an older copy."""
    size = chance.randrange(EVERY, SIZE)
    sizes = [each for each in SIZES if each <= size]
    return exported(LINKS[:size], sizes), size + 1, size + 1


def rehash(chance: random.Random) -> Tampered:
    """Change a record, and hash all later ones again."""
    place = _place(chance)
    tampered = rehashed(place)
    lines = _with_checkpoints(tampered, [_note(LINKS, size) for size in SIZES])
    return lines, place, _signed(place)


def rehash_and_sign(chance: random.Random) -> Tampered:
    """Change a record, hash all later ones again, and sign with another key."""
    place = _place(chance)
    tampered = rehashed(place)
    notes = [
        _note(LINKS, size)
        if size < place
        else checkpoint_line(checkpoint(tampered, size, key=INTRUDER).note)
        for size in SIZES
    ]
    return _with_checkpoints(tampered, notes), place, _signed(place)


def rehash_and_hide(chance: random.Random) -> Tampered:
    """Change a record, hash all later ones again, and remove their checkpoints."""
    place = _place(chance)
    sizes = [size for size in SIZES if size < place]
    return exported_as(rehashed(place), sizes), place, SIZE


def replace_all(chance: random.Random) -> Tampered:
    """Replace everything by another chain with another key."""
    size = chance.randrange(1, 2 * SIZE)
    lines = exported(chain(size), (), key=INTRUDER)
    return lines, 1, min(size + 1, SIZE)


TAMPERINGS: tuple[Callable[[random.Random], Tampered], ...] = (
    edit,
    edit_the_id,
    flip_a_bit,
    respell,
    edit_and_hash,
    delete,
    delete_some,
    swap,
    duplicate,
    insert,
    insert_and_hash,
    replace,
    truncate,
    tear,
    restore,
    rehash,
    rehash_and_sign,
    rehash_and_hide,
    replace_all,
)


def exported_as(links: list[Sealed], sizes: Iterable[int]) -> list[bytes]:
    """Return the export of *links* with the original checkpoints of *sizes*."""
    return _with_checkpoints(links, [_note(LINKS, size) for size in sizes])


def rehashed(place: int) -> list[Sealed]:
    """Return the chain with one record changed, and all later ones hashed again."""
    records = [each.record for each in LINKS]
    records[place - 1] = _edited(place)
    return sealed(0, GENESIS, records)


def _whole() -> list[bytes]:
    return exported(LINKS, SIZES)


def _place(chance: random.Random) -> int:
    return chance.randrange(1, SIZE + 1)


def _at(place: int) -> int:
    """Return the index of the line of a record, after header and checkpoints."""
    return place + (place - 1) // EVERY


def _signed(place: int) -> int:
    """Return the size of the first checkpoint that covers *place*."""
    return -(-place // EVERY) * EVERY


def _edited(place: int) -> Record:
    return Record(LINKS[place - 1].record.id, record(-1).body)


def _note(links: list[Sealed], size: int) -> bytes:
    (line,) = exported(links[:size], [size])[-2:-1]
    return line


def _with_checkpoints(links: list[Sealed], notes: list[bytes]) -> list[bytes]:
    """Return an export of *links* with *notes* after every ``EVERY`` records."""
    lines = exported(links, ())
    body = lines[1:-1]
    written = [lines[0]]
    for number, note in enumerate(notes):
        written += [*body[number * EVERY : (number + 1) * EVERY], note]
    written += body[len(notes) * EVERY :]
    return [*written, end_line(End(len(links), links[-1].hash, len(notes)))]
