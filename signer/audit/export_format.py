"""
The lines of an export: writing, and strict parsing.

::

    {"format":"hotwallet-audit-export/1","origin":"hotwallet/hotwallet"}
    {"hash":"9f…","id":"au_…","record":{…},"sequence":1}       one line per record
    {"checkpoint":"hotwallet/hotwallet\\n1\\n…"}     after its last record
    {"end":{"checkpoints":1,"hash":"9f…","records":1}}

Each line is canonical JSON (RFC 8785) and ends with a line feed, so there is exactly
one encoding of each export: no byte can be changed without changing the meaning.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import rfc8785

from signer.errors import InvalidInputError
from signer.model.audit_record import Record, Sealed


FORMAT = "hotwallet-audit-export/1"

TORN = "the line is incomplete"

MAX_LINE = 1_000_000
"""A limit in bytes far above the length of any exported line."""

_MAX_INTEGER = 2**53 - 1  # RFC 8785, appendix D.

_MAX_BRACKETS = 500

# Matches an unterminated string as well: retrying after it would take n² steps.
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?')
_HASH = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"au_[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Header:
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


Line = Header | Sealed | Note | End


def header_line(origin: str) -> bytes:
    """Return the first line."""
    return _line({"format": FORMAT, "origin": origin})


def record_line(sealed: Sealed) -> bytes:
    """
    Return the line of a record, with its body as stored.

    If the stored body is not canonical, neither is the line, and ``parse`` rejects it.
    """
    name = rfc8785.dumps(sealed.record.id).decode()
    return (
        f'{{"hash":"{sealed.hash.hex()}","id":{name},"record":{sealed.record.body},'
        f'"sequence":{sealed.sequence}}}\n'
    ).encode()


def checkpoint_line(note: str) -> bytes:
    """Return a checkpoint's line."""
    return _line({"checkpoint": note})


def end_line(end: End) -> bytes:
    """Return the last line."""
    return _line({"end": {**asdict(end), "hash": end.hash.hex()}})


def parse(line: bytes) -> Line:
    """Parse *line* strictly; raises ``InvalidInputError``."""
    if not line.endswith(b"\n"):
        raise InvalidInputError(
            "the line is too long" if len(line) >= MAX_LINE else TORN
        )
    fields = _canonical(line[:-1])
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
            return Header(origin)
        case {"end": dict(end)} if len(fields) == 1:
            return _parse_end(end)
    raise InvalidInputError("not a line of an export")


def _parse_record(
    line: bytes, fields: Mapping[str, Any], seal: str, name: str
) -> Sealed:
    sequence = fields["sequence"]
    if (
        len(fields) != 4  # noqa: PLR2004 - hash, id, record, sequence.
        or type(sequence) is not int
        or not _HASH.fullmatch(seal)
        or not _ID.fullmatch(name)
    ):
        raise InvalidInputError("not a line of a record")
    # The line is canonical, so the body is between these two.
    prefix = len(f'{{"hash":"{seal}","id":"{name}","record":')
    suffix = len(f',"sequence":{sequence}}}\n')
    body = line[prefix : len(line) - suffix].decode()
    return Sealed(sequence, bytes.fromhex(seal), Record(name, body))


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


def _canonical(text: bytes) -> Mapping[str, Any]:
    """Parse *text* as a JSON object in the form of RFC 8785."""
    try:
        _require_shallow(text)
        fields = _parse_ascii(text)
        if fields is None:
            fields = json.loads(text)
            if rfc8785.dumps(fields) != text:
                fields = None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise InvalidInputError("the line is not canonical JSON")
    return fields


def _require_shallow(text: bytes) -> None:
    """Require that *text* cannot exhaust the C stack of the JSON parser."""
    # Strings may contain any number of brackets.
    for content in (text, _TEXT.sub(b"", text)):
        if content.count(b"[") + content.count(b"{") <= _MAX_BRACKETS:
            return
    raise ValueError("too many brackets")


def _parse_ascii(text: bytes) -> Any:
    """Parse *text* if the standard library writes it the same way, else None."""
    # For ASCII without fractions the standard library writes the form of RFC 8785, and
    # several times as fast.  Otherwise it sorts keys differently (not by UTF-16 units).
    if not text.isascii():
        return None
    try:
        fields = _READER.decode(text.decode())
    except ValueError:
        return None
    return fields if _WRITER.encode(fields).encode() == text else None


def _integer(text: str) -> int:
    number = int(text)
    if abs(number) > _MAX_INTEGER:
        raise ValueError("an integer beyond 2**53 - 1")
    return number


def _no_float(text: str) -> NoReturn:
    raise ValueError("a fraction")


_READER = json.JSONDecoder(
    parse_int=_integer, parse_float=_no_float, parse_constant=_no_float
)
_WRITER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _line(fields: Mapping[str, Any]) -> bytes:
    return rfc8785.dumps(dict(fields)) + b"\n"
