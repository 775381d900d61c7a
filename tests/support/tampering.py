"""
Everything that can be done to an export, and which record it must be found at.

Each function spoils an export of ``SIZE`` records with a checkpoint every ``EVERY``
records, which is every minute, and returns its lines, the first record that was
touched, and the first one at which that can be seen.
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

Spoilt = tuple[list[bytes], int, int]


def edit(chance: random.Random) -> Spoilt:
    """Change what a record says."""
    lines, place = _whole(), _place(chance)
    spoilt = Sealed(place, LINKS[place - 1].hash, _edited(place))
    lines[_at(place)] = record_line(spoilt)
    return lines, place, place


def edit_the_id(chance: random.Random) -> Spoilt:
    """Give a record another name."""
    lines, place = _whole(), _place(chance)
    was = LINKS[place - 1]
    renamed = Record(OTHERS[place - 1].record.id, was.record.body)
    lines[_at(place)] = record_line(Sealed(place, was.hash, renamed))
    return lines, place, place


def flip_a_bit(chance: random.Random) -> Spoilt:
    """Let a cosmic ray hit a record's line."""
    lines, place = _whole(), _place(chance)
    line = bytearray(lines[_at(place)])
    line[chance.randrange(len(line) - 1)] ^= 1 << chance.randrange(8)
    lines[_at(place)] = bytes(line)
    return lines, place, place


def respell(chance: random.Random) -> Spoilt:
    """Write a record otherwise that says the same."""
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


def edit_and_hash(chance: random.Random) -> Spoilt:
    """Change a record and its hash, and nothing behind it."""
    lines, place = _whole(), _place(chance)
    spoilt = rehashed(place)[place - 1]
    lines[_at(place)] = record_line(spoilt)
    return lines, place, place if place in SIZES else place + 1


def delete(chance: random.Random) -> Spoilt:
    """Take a record away."""
    lines, place = _whole(), _place(chance)
    del lines[_at(place)]
    return lines, place, place


def delete_some(chance: random.Random) -> Spoilt:
    """Take records away, with the checkpoints between them."""
    first, last = sorted(chance.sample(range(1, SIZE + 1), 2))
    lines = _whole()
    del lines[_at(first) : _at(last) + 1]
    return lines, first, first


def swap(chance: random.Random) -> Spoilt:
    """Let two records change places."""
    first, last = sorted(chance.sample(range(1, SIZE + 1), 2))
    lines, one, other = _whole(), _at(first), _at(last)
    lines[one], lines[other] = lines[other], lines[one]
    return lines, first, first


def duplicate(chance: random.Random) -> Spoilt:
    """Tell a record again, at once or later."""
    first, last = sorted(chance.choices(range(1, SIZE + 1), k=2))
    lines = _whole()
    lines.insert(_at(last) + 1, lines[_at(first)])
    return lines, last + 1, last + 1


def insert(chance: random.Random) -> Spoilt:
    """Put a record between two others."""
    lines, place = _whole(), _place(chance)
    forged = Sealed(place, chance.randbytes(32), record(-1))
    lines.insert(_at(place), record_line(forged))
    return lines, place, place


def insert_and_hash(chance: random.Random) -> Spoilt:
    """Put a record between two others, which follows from the first of them."""
    lines, place = _whole(), _place(chance)
    before = LINKS[place - 2].hash if place > 1 else GENESIS
    forged = record(-1)
    spoilt = Sealed(place, link(before, place, forged), forged)
    lines.insert(_at(place), record_line(spoilt))
    # The last place is the one that the kept checkpoint is about.
    return lines, place, place if place == SIZE else place + 1


def replace(chance: random.Random) -> Spoilt:
    """Put a record of another chain in the place of one."""
    lines, place = _whole(), _place(chance)
    lines[_at(place)] = record_line(OTHERS[place - 1])
    # Of any chain, the first record follows from nothing.
    return lines, place, max(place, 2)


def truncate(chance: random.Random) -> Spoilt:
    """Cut the file off behind a record."""
    place = _place(chance)
    return _whole()[: _at(place)], place, place


def tear(chance: random.Random) -> Spoilt:
    """Cut the file off within a record."""
    lines, place = _whole(), _place(chance)
    line = lines[_at(place)]
    torn = line[: chance.randrange(1, len(line))]
    return [*lines[: _at(place)], torn], place, place


def restore(chance: random.Random) -> Spoilt:
    """Bring an older copy back, which was whole."""
    size = chance.randrange(EVERY, SIZE)
    sizes = [each for each in SIZES if each <= size]
    return exported(LINKS[:size], sizes), size + 1, size + 1


def rehash(chance: random.Random) -> Spoilt:
    """Change a record, and hash everything behind it again."""
    place = _place(chance)
    spoilt = rehashed(place)
    lines = _with_checkpoints(spoilt, [_note(LINKS, size) for size in SIZES])
    return lines, place, _signed(place)


def rehash_and_sign(chance: random.Random) -> Spoilt:
    """Change a record, hash everything behind it again, and sign with another key."""
    place = _place(chance)
    spoilt = rehashed(place)
    notes = [
        _note(LINKS, size)
        if size < place
        else checkpoint_line(checkpoint(spoilt, size, key=INTRUDER).note)
        for size in SIZES
    ]
    return _with_checkpoints(spoilt, notes), place, _signed(place)


def rehash_and_hide(chance: random.Random) -> Spoilt:
    """Change a record, hash everything behind it again, without the checkpoints."""
    place = _place(chance)
    sizes = [size for size in SIZES if size < place]
    return exported_as(rehashed(place), sizes), place, SIZE


def replace_all(chance: random.Random) -> Spoilt:
    """Put another chain, and another key, in the place of all."""
    size = chance.randrange(1, 2 * SIZE)
    lines = exported(chain(size), (), key=INTRUDER)
    return lines, 1, min(size + 1, SIZE)


TAMPERINGS: tuple[Callable[[random.Random], Spoilt], ...] = (
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
    """Return the export of *links* with the true checkpoints of *sizes*."""
    return _with_checkpoints(links, [_note(LINKS, size) for size in sizes])


def rehashed(place: int) -> list[Sealed]:
    """Return the chain with one record edited, and all behind it hashed again."""
    told = [each.record for each in LINKS]
    told[place - 1] = _edited(place)
    return sealed(0, GENESIS, told)


def _whole() -> list[bytes]:
    return exported(LINKS, SIZES)


def _place(chance: random.Random) -> int:
    return chance.randrange(1, SIZE + 1)


def _at(place: int) -> int:
    """Return where a record's line is: behind the header, and a few checkpoints."""
    return place + (place - 1) // EVERY


def _signed(place: int) -> int:
    """Return the size of the first checkpoint that is about *place*."""
    return -(-place // EVERY) * EVERY


def _edited(place: int) -> Record:
    return Record(LINKS[place - 1].record.id, record(-1).body)


def _note(links: list[Sealed], size: int) -> bytes:
    (line,) = exported(links[:size], [size])[-2:-1]
    return line


def _with_checkpoints(links: list[Sealed], notes: list[bytes]) -> list[bytes]:
    """Return an export of *links* with *notes* behind every ``EVERY`` records."""
    lines = exported(links, ())
    body = lines[1:-1]
    told = [lines[0]]
    for number, note in enumerate(notes):
        told += [*body[number * EVERY : (number + 1) * EVERY], note]
    told += body[len(notes) * EVERY :]
    return [*told, end_line(End(len(links), links[-1].hash, len(notes)))]
