"""
Exports the chain as a file that can be verified without the database.

The lines of an export::

    {"format":"hotwallet-audit-export/1","origin":"hotwallet/hotwallet"}
    {"hash":"9f…","id":"au_…","mac":"…","record":{…},"sequence":1}   one per record
    {"checkpoint":"hotwallet/hotwallet\\n1\\n…"}     after its last record
    {"end":{"checkpoints":1,"hash":"9f…","records":1}}

Another program that can write to the database may insert a record with any id and any
body.  A record that is not canonical, or too long for a line, has the bytes that the
hash covers (length of the id, id, body) in base64 (RFC 4648 section 4)::

    {"part":"…"}                                    before it, for a long record
    {"hash":"9f…","raw":"…","sequence":7}

Each line is canonical JSON (RFC 8785) and ends with a line feed, so there is exactly
one encoding of each export: no byte can be changed without changing the meaning.

``mac`` is the MAC of the record, for a reader that has the MAC key.  The hash does not
cover it, and it is missing in exports of earlier versions, and for records without one.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import rfc8785

from signer.audit.checkpoints import MAX_SIZE, decode_base64, statement_of
from signer.audit.hash_chain import (
    BATCH,
    GENESIS,
    LENGTH_BYTES,
    batches,
    content,
    is_canonical,
    is_record_id,
    parse_canonical,
)
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, Sealed
from signer.ports.audit_journal import Checkpoint, Journal


PART_BYTES = 600_000
"""How many bytes a line ``part`` holds."""

# PostgreSQL stores no text above a gibibyte, and SQLite none above 10**9 bytes.
_MAX_PARTS = 2**30 // PART_BYTES + 2

_HASH = re.compile(r"[0-9a-f]{64}")

_PLACED = re.compile(
    rb'\{"hash":"([0-9a-f]{64})".*"sequence":([0-9]{1,19})\}\n', re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Part:
    """The next ``PART_BYTES`` bytes of a long record, which a later line ends."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Raw:
    """The last bytes of a record, with its place and hash."""

    sequence: int
    hash: bytes
    content: bytes


def raw_lines(sealed: Sealed) -> Iterator[bytes]:
    whole = content(sealed.record)
    last = (len(whole) - 1) // PART_BYTES * PART_BYTES
    for begin in range(0, last, PART_BYTES):
        part = base64.b64encode(whole[begin : begin + PART_BYTES])
        yield b'{"part":"%s"}\n' % part
    seal, raw = sealed.hash.hex().encode(), base64.b64encode(whole[last:])
    yield b'{"hash":"%s","raw":"%s","sequence":%d}\n' % (seal, raw, sealed.sequence)


def parse_raw(fields: Mapping[str, Any]) -> Part | Raw | None:
    """Parse the *fields* of a line; None if it is another kind of line."""
    match fields:
        case {"part": str(part)} if len(fields) == 1:
            if len(whole := decode_base64(part)) == PART_BYTES:
                return Part(whole)
            raise InvalidInputError("the part of a record has the wrong length")
        case {"hash": str(seal), "raw": str(raw), "sequence": sequence} if (
            len(fields) == 3  # noqa: PLR2004 - these three.
        ):
            if type(sequence) is int and _HASH.fullmatch(seal):
                return Raw(sequence, bytes.fromhex(seal), decode_base64(raw))
            raise InvalidInputError("not a line of a record")
    return None


class RawReader:
    """Joins the lines of one record after the other."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    @property
    def is_within(self) -> bool:
        return bool(self._parts)

    def add(self, part: Part) -> None:
        """Add the next bytes of a record; raises ``InvalidInputError`` if too many."""
        if len(self._parts) == _MAX_PARTS:
            raise InvalidInputError("the record is too long")
        self._parts.append(part.content)

    def join(self, raw: Raw) -> Sealed:
        whole = b"".join([*self._parts, raw.content])
        has_right_size = 0 < len(raw.content) <= PART_BYTES
        self._parts.clear()
        size = int.from_bytes(whole[:LENGTH_BYTES], "big")
        end = LENGTH_BYTES + size
        if has_right_size and len(whole) >= end:
            try:
                id_, body = whole[LENGTH_BYTES:end].decode(), whole[end:].decode()
            except UnicodeDecodeError:
                pass
            else:
                return Sealed(raw.sequence, raw.hash, Record(id_, body))
        raise InvalidInputError("not the bytes of a record")


FORMAT = "hotwallet-audit-export/1"

TORN = "the line is incomplete"

MAX_LINE = 1_000_000
"""A limit in bytes far above the length of any exported line."""

_MAC = re.compile(r"[A-Za-z0-9_-]{1,32}:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ExportHeader:
    """The first line."""

    origin: str


@dataclass(frozen=True, slots=True)
class Note:
    """A checkpoint that is not verified yet."""

    note: str


@dataclass(frozen=True, slots=True)
class End:
    """The last line: the number of records and checkpoints, and the last hash."""

    records: int
    hash: bytes
    checkpoints: int


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record in another form than that of its line; it may be canonical but long."""

    sealed: Sealed
    is_canonical: bool


Line = ExportHeader | Sealed | Note | End | Part | Raw

Entry = ExportHeader | Sealed | RawRecord | Note | End


def read_place(line: bytes) -> tuple[int, bytes] | None:
    """Return the number and the hash that the *line* of a record states."""
    found = _PLACED.fullmatch(line)
    return None if found is None else (int(found[2]), bytes.fromhex(found[1].decode()))


def header_line(origin: str) -> bytes:
    return _line({"format": FORMAT, "origin": origin})


def record_lines(sealed: Sealed) -> Sequence[bytes]:
    """Return the line of a record, or several if one cannot hold it."""
    line = _plain_line(sealed)
    return list(raw_lines(sealed)) if line is None else [line]


def record_line(sealed: Sealed) -> bytes:
    """
    Return the line of a record, with its body as stored.

    If the stored body is not canonical, neither is the line, and ``parse`` rejects it.
    """
    record = sealed.record
    name = rfc8785.dumps(record.id).decode()
    # Another program may have stored any text as a MAC.
    mac = f'"mac":"{record.mac}",' if _is_mac(record.mac) else ""
    return (
        f'{{"hash":"{sealed.hash.hex()}","id":{name},{mac}"record":{record.body},'
        f'"sequence":{sealed.sequence}}}\n'
    ).encode()


def checkpoint_line(note: str) -> bytes:
    return _line({"checkpoint": note})


def end_line(end: End) -> bytes:
    return _line({"end": {**asdict(end), "hash": end.hash.hex()}})


class LineReader:
    """Parses the lines of an export, and joins those of a long record."""

    def __init__(self) -> None:
        self._raw = RawReader()

    def read(self, line: bytes) -> Entry | None:
        """Parse *line* strictly; None within a record.  Raises as ``parse``."""
        parsed = parse(line)
        if isinstance(parsed, Part):
            self._raw.add(parsed)
            return None
        if isinstance(parsed, Raw):
            return self._join(parsed)
        if self._raw.is_within:
            raise InvalidInputError("the record before this line is incomplete")
        return parsed

    def _join(self, raw: Raw) -> RawRecord:
        sealed = self._raw.join(raw)
        # Each record has exactly one encoding.
        if _plain_line(sealed) is not None:
            raise InvalidInputError("the record needs a line without base64")
        return RawRecord(sealed, is_canonical(sealed.record))


def parse(line: bytes) -> Line:
    """Parse *line* strictly; raises ``InvalidInputError``."""
    if not line.endswith(b"\n"):
        raise InvalidInputError(
            "the line is too long" if len(line) >= MAX_LINE else TORN
        )
    fields = parse_canonical(line[:-1])
    match fields:
        case {"hash": str(seal), "id": str(name), "record": dict(), "sequence": int()}:
            return _parse_record(line, fields, seal, name)
        case {"checkpoint": str(note)} if len(fields) == 1:
            return Note(note)
        case {"format": str(form), "origin": str(origin)} if len(fields) == 2:  # noqa: PLR2004 - the two keys above.
            if form != FORMAT:
                raise InvalidInputError(
                    f"the export is not in the format {FORMAT}:"
                    " use the release that wrote it"
                )
            return ExportHeader(origin)
        case {"end": dict(end)} if len(fields) == 1:
            return _parse_end(end)
    if (raw := parse_raw(fields)) is not None:
        return raw
    raise InvalidInputError("not a line of an export")


def _plain_line(sealed: Sealed) -> bytes | None:
    """Return the line of a record as JSON; None if it is too long or not canonical."""
    if not is_canonical(sealed.record):
        return None
    line = record_line(sealed)
    return line if len(line) <= MAX_LINE else None


def _parse_record(
    line: bytes, fields: Mapping[str, Any], seal: str, name: str
) -> Sealed:
    sequence, mac = fields["sequence"], fields.get("mac")
    if (
        len(fields) != 4 + ("mac" in fields)  # Hash, id, record, sequence.
        or type(sequence) is not int
        or not _HASH.fullmatch(seal)
        or not is_record_id(name)
        or ("mac" in fields and not _is_mac(mac))
    ):
        raise InvalidInputError("not a line of a record")
    # The line is canonical, so the body is between these two.
    before = "" if mac is None else f'"mac":"{mac}",'
    prefix = len(f'{{"hash":"{seal}","id":"{name}",{before}"record":')
    suffix = len(f',"sequence":{sequence}}}\n')
    body = line[prefix : len(line) - suffix].decode()
    return Sealed(sequence, bytes.fromhex(seal), Record(name, body, mac))


def _is_mac(value: object) -> bool:
    return isinstance(value, str) and _MAC.fullmatch(value) is not None


def _parse_end(fields: Mapping[str, Any]) -> End:
    match fields:
        case {
            "checkpoints": int(checkpoints),
            "hash": str(seal),
            "records": int(records),
        } if (
            len(fields) == 3  # noqa: PLR2004 - these three.
            and _HASH.fullmatch(seal)
            # In Python True is an integer that equals 1: a second encoding of it.
            and bool not in {type(records), type(checkpoints)}
        ):
            return End(records, bytes.fromhex(seal), checkpoints)
    raise InvalidInputError("not the last line of an export")


def _line(fields: Mapping[str, Any]) -> bytes:
    return rfc8785.dumps(dict(fields)) + b"\n"


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
        if isinstance(parsed, ExportHeader) != (before is None) or isinstance(
            before, End
        ):
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
