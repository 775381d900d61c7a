"""
The text of a checkpoint: parsing only, no trust.

A checkpoint is a C2SP signed note (c2sp.org/signed-note) with the lines of a
tlog-checkpoint (c2sp.org/tlog-checkpoint): origin, size, hash in base64.  The hash is
not a Merkle tree root but the hash of the last record of the chain, so it covers the
whole chain up to there.  The first extension line says so; the second one is the time
of signing by the clock of the signer.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from signer.errors import InvalidInputError


KIND = "hash chain of hotwallet audit records 1, no Merkle tree"
"""The extension line that says what the hash covers."""

_MAX_NOTE = 10_000

_NOTE = re.compile(
    r"""
    (?P<text>
      (?P<origin>[^\s+\x00-\x1f\ud800-\udfff]{1,200}) \n
      (?P<size>[1-9][0-9]{0,18}) \n
      (?P<hash>[A-Za-z0-9+/]{43}=) \n
      """
    + re.escape(KIND)
    + r""" \n
      (?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00) \n
    ) \n
    (?P<signatures>(?:\u2014\x20[^\s+\x00-\x1f\ud800-\udfff]+\x20[A-Za-z0-9+/]+={0,2}\n){1,16})
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """What a checkpoint states: record number ``size`` has this 32-byte ``hash``."""

    origin: str
    size: int
    hash: bytes
    at: datetime


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement, the text that was signed, and pairs of name and signature bytes."""

    statement: Statement
    text: bytes
    signatures: Sequence[tuple[str, bytes]]


def parse(note: str) -> SignedStatement:
    """Parse *note* strictly, but do not verify it; raises ``InvalidInputError``."""
    match = _NOTE.fullmatch(note) if len(note) <= _MAX_NOTE else None
    if match is None:
        raise InvalidInputError("not a checkpoint of an audit chain")
    lines = (line.split(" ") for line in match["signatures"].splitlines())
    signatures = [(name, _decode(signature)) for _, name, signature in lines]
    try:
        at = datetime.fromisoformat(match["at"])
    except ValueError:
        raise InvalidInputError("the time of the checkpoint is invalid") from None
    statement = Statement(
        match["origin"], int(match["size"]), _decode(match["hash"]), at
    )
    return SignedStatement(statement, match["text"].encode(), signatures)


def split(text: str) -> Sequence[str]:
    """Return the notes in *text*; raises ``InvalidInputError`` for anything else."""
    found = list(_NOTE.finditer(text))
    if not found or _NOTE.sub("", text).strip():
        raise InvalidInputError("not a checkpoint of an audit chain")
    return [match[0] for match in found]


def _decode(encoded: str) -> bytes:
    """Decode base64 (RFC 4648 section 4); reject encodings that are not canonical."""
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        decoded = b""
    if not decoded or base64.b64encode(decoded).decode() != encoded:
        raise InvalidInputError("the base64 of the checkpoint is not canonical")
    return decoded
