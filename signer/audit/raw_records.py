"""
The lines of an export for a record that does not fit into one line of JSON.

Another program that can write to the database may insert a record with any id and any
body.  It cannot be deleted, and the hashes of later records cover it.  So an export has
its bytes in base64 (RFC 4648 section 4)::

    {"part":"…"}                                    before it, for a long record
    {"hash":"9f…","raw":"…","sequence":7}

``raw``, after the ``part`` of each line before it, has the bytes that the hash covers:
the length of the id, the id and the body.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from signer.audit.hash_chain import LENGTH_BYTES, content
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, Sealed


PART_BYTES = 600_000
"""How many bytes a line ``part`` holds."""

# PostgreSQL stores no text above a gibibyte, and SQLite none above 10**9 bytes.
_MAX_PARTS = 2**30 // PART_BYTES + 2

_HASH = re.compile(r"[0-9a-f]{64}")


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
    """Yield the lines of a record with any id and body."""
    whole = content(sealed.record)
    last = (len(whole) - 1) // PART_BYTES * PART_BYTES
    for begin in range(0, last, PART_BYTES):
        part = base64.b64encode(whole[begin : begin + PART_BYTES])
        yield b'{"part":"%s"}\n' % part
    seal, raw = sealed.hash.hex().encode(), base64.b64encode(whole[last:])
    yield b'{"hash":"%s","raw":"%s","sequence":%d}\n' % (seal, raw, sealed.sequence)


def parse_raw(fields: Mapping[str, Any]) -> Part | Raw | None:
    """
    Parse the *fields* of a line; None if it is another kind of line.

    Raises:
        InvalidInputError: The line is malformed.
    """
    match fields:
        case {"part": str(part)} if len(fields) == 1:
            if len(whole := _decode(part)) == PART_BYTES:
                return Part(whole)
            raise InvalidInputError("the part of a record has the wrong length")
        case {"hash": str(seal), "raw": str(raw), "sequence": sequence} if (
            len(fields) == 3  # noqa: PLR2004 - these three.
        ):
            if type(sequence) is int and _HASH.fullmatch(seal):
                return Raw(sequence, bytes.fromhex(seal), _decode(raw))
            raise InvalidInputError("not a line of a record")
    return None


class RawReader:
    """Joins the lines of one record after the other."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    @property
    def is_within(self) -> bool:
        """Whether a record has begun that has not ended."""
        return bool(self._parts)

    def add(self, part: Part) -> None:
        """Add the next bytes of a record; raises ``InvalidInputError`` if too many."""
        if len(self._parts) == _MAX_PARTS:
            raise InvalidInputError("the record is too long")
        self._parts.append(part.content)

    def join(self, raw: Raw) -> Sealed:
        """
        Return the record that *raw* ends.

        Raises:
            InvalidInputError: The bytes are not those of a record.
        """
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


def _decode(encoded: str) -> bytes:
    """Decode base64; reject encodings that are not canonical."""
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except ValueError:
        decoded = b""
    if base64.b64encode(decoded).decode() != encoded:
        raise InvalidInputError("the base64 of a record is not canonical")
    return decoded
