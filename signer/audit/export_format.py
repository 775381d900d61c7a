"""
The export's lines: what each of them is, and that it is written in the one way.

::

    {"format":"hotwallet-audit-export/1","origin":"hotwallet/hotwallet"}
    {"hash":"9f…","id":"au_…","record":{…},"sequence":1}       a line for each record
    {"checkpoint":"hotwallet/hotwallet\\n1\\n…"}     behind the record it ends with
    {"end":{"checkpoints":1,"hash":"9f…","records":1}}

Each line is canonical JSON (RFC 8785) and ends with a line feed, so that the file has
no second spelling: not a byte of it can be changed and mean the same.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import rfc8785

from signer.errors import InvalidInputError
from signer.model.audit_record import Record, Sealed


FORMAT = "hotwallet-audit-export/1"

TORN = "the line is torn"

MAX_LINE = 1_000_000
"""No line of ours is nearly as long, in bytes."""

_MAX_INTEGER = 2**53 - 1  # RFC 8785, appendix D.

_MAX_BRACKETS = 500

# One that does not end is matched as well: to try again behind it would cost n² steps.
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?')
_HASH = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"au_[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Header:
    """The first line."""

    origin: str


@dataclass(frozen=True, slots=True)
class Note:
    """A checkpoint, not yet believed."""

    note: str


@dataclass(frozen=True, slots=True)
class End:
    """The last line: how many records and checkpoints there are, and the last hash."""

    records: int
    hash: bytes
    checkpoints: int


Line = Header | Sealed | Note | End


def header_line(origin: str) -> bytes:
    """Return the first line."""
    return _line({"format": FORMAT, "origin": origin})


def record_line(sealed: Sealed) -> bytes:
    """
    Return a record's line, with its body as it is stored.

    Were that not canonical any more, the line would not be, and whoever reads it knows.
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
    told = {
        "checkpoints": end.checkpoints,
        "hash": end.hash.hex(),
        "records": end.records,
    }
    return _line({"end": told})


def parse(line: bytes) -> Line:
    """
    Return what *line*, which ends with a line feed, says.

    Raises:
        InvalidInputError: Torn, not canonical, or no line of an export.
    """
    if not line.endswith(b"\n"):
        raise InvalidInputError(
            "the line is too long" if len(line) >= MAX_LINE else TORN
        )
    said = _canonical(line[:-1])
    match said:
        case {"hash": str(seal), "id": str(name), "record": dict(), "sequence": int()}:
            return _sealed(line, said, seal, name)
        case {"checkpoint": str(note)} if len(said) == 1:
            return Note(note)
        case {"format": str(form), "origin": str(origin)} if len(said) == 2:  # noqa: PLR2004 - as many as are named.
            if form != FORMAT:
                raise InvalidInputError("an export of another format")
            return Header(origin)
        case {"end": dict(end)} if len(said) == 1:
            return _end(end)
    raise InvalidInputError("not a line of an export")


def _sealed(line: bytes, said: Mapping[str, Any], seal: str, name: str) -> Sealed:
    sequence = said["sequence"]
    if (
        len(said) != 4  # noqa: PLR2004 - hash, id, record, sequence.
        or type(sequence) is not int
        or not _HASH.fullmatch(seal)
        or not _ID.fullmatch(name)
    ):
        raise InvalidInputError("not a record's line")
    # The line is canonical, so that the body stands between these two.
    before = len(f'{{"hash":"{seal}","id":"{name}","record":')
    behind = len(f',"sequence":{sequence}}}\n')
    body = line[before : len(line) - behind].decode()
    return Sealed(sequence, bytes.fromhex(seal), Record(name, body))


def _end(told: Mapping[str, Any]) -> End:
    match told:
        case {
            "checkpoints": int(checkpoints),
            "hash": str(seal),
            "records": int(records),
        } if len(told) == 3 and _HASH.fullmatch(seal):  # noqa: PLR2004 - these three.
            # True is an integer to Python, and equal to 1: a second spelling of it.
            if bool not in {type(records), type(checkpoints)}:
                return End(records, bytes.fromhex(seal), checkpoints)
    raise InvalidInputError("not the last line of an export")


def _canonical(text: bytes) -> Mapping[str, Any]:
    """
    Return the object that *text* is the RFC 8785 form of.

    Raises:
        InvalidInputError: No JSON object, or one that is written otherwise.
    """
    try:
        _require_shallow(text)
        said = _plain(text)
        if said is None:
            said = json.loads(text)
            if rfc8785.dumps(said) != text:
                said = None
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise InvalidInputError("the line is not canonical JSON")
    return said


def _require_shallow(text: bytes) -> None:
    """
    Require that *text* cannot exhaust the stack of the reader, which is C's.

    Brackets within texts do no harm.

    Raises:
        ValueError: There are more brackets than in any record.
    """
    for seen in (text, _TEXT.sub(b"", text)):
        if seen.count(b"[") + seen.count(b"{") <= _MAX_BRACKETS:
            return
    raise ValueError("too many brackets")


def _plain(text: bytes) -> Any:
    """
    Return what *text* says if that is canonical for sure, else None.

    In ASCII and without fractions RFC 8785 is what the standard library writes, which
    is several times as fast.  Beyond, keys are sorted otherwise, by UTF-16 units.
    """
    if not text.isascii():
        return None
    try:
        said = _READER.decode(text.decode())
    except ValueError:
        return None
    return said if _WRITER.encode(said).encode() == text else None


def _integer(text: str) -> int:
    number = int(text)
    if abs(number) > _MAX_INTEGER:
        raise ValueError("beyond what every JSON reader can hold")
    return number


def _no_float(text: str) -> NoReturn:
    raise ValueError("a fraction")


_READER = json.JSONDecoder(
    parse_int=_integer, parse_float=_no_float, parse_constant=_no_float
)
_WRITER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _line(said: Mapping[str, Any]) -> bytes:
    return rfc8785.dumps(dict(said)) + b"\n"
