"""
Checkpoints: their text, signatures with Ed25519 keys (RFC 8032), and where they are.

A checkpoint is a C2SP signed note (c2sp.org/signed-note) with the lines of a
tlog-checkpoint (c2sp.org/tlog-checkpoint): origin, size, hash in base64.  The hash is
not a Merkle tree root but the hash of the last record of the chain, so it covers the
whole chain up to there.  The first extension line says so; the second one is the time
of signing by the clock of the signer.

A program with a role of the service can store any text as a checkpoint, and no row can
be deleted.  So only the signature shows what a checkpoint is, and the rest is ignored.

Files of checkpoints that were kept elsewhere are notes or logs.  A log line is a JSON
object of our logger, perhaps after a prefix that a log collector added.  Files may come
back from mail or Windows, so CRLF, a byte order mark and a missing last line feed are
accepted.
"""

import base64
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from signer.errors import ConfigurationError, InvalidInputError, Refusal
from signer.ports.audit_journal import Checkpoint, Journal
from signer.private_files import is_private


KIND = "hash chain of hotwallet audit records 1, no Merkle tree"
"""The extension line that says what the hash covers."""

_MAX_NOTE = 10_000

_SIGNATURES = (
    r"(?P<signatures>"
    r"(?:\u2014\x20[^\s+\x00-\x1f\ud800-\udfff]+\x20[A-Za-z0-9+/]+={0,2}\n){1,16})"
)

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
    """
    + _SIGNATURES,
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
    signatures = _parse_signatures(match["signatures"])
    try:
        at = datetime.fromisoformat(match["at"])
    except ValueError:
        raise InvalidInputError("the time of the checkpoint is invalid") from None
    statement = Statement(
        match["origin"], int(match["size"]), decode_base64(match["hash"]), at
    )
    return SignedStatement(statement, match["text"].encode(), signatures)


def _parse_signatures(lines: str) -> Sequence[tuple[str, bytes]]:
    parts = (line.split(" ") for line in lines.splitlines())
    return [(name, decode_base64(signature)) for _, name, signature in parts]


def split(text: str) -> Sequence[str]:
    """Return the notes in *text*; raises ``InvalidInputError`` for anything else."""
    found = list(_NOTE.finditer(text))
    if not found or _NOTE.sub("", text).strip():
        raise InvalidInputError("not a checkpoint of an audit chain")
    return [match[0] for match in found]


def decode_base64(encoded: str) -> bytes:
    """Decode base64 (RFC 4648 section 4); reject encodings that are not canonical."""
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except ValueError:
        decoded = b""
    if not decoded or base64.b64encode(decoded).decode() != encoded:
        raise InvalidInputError("the base64 is not canonical")
    return decoded


_EVENT = "audit-checkpoint"
_QUOTED = f'"{_EVENT}"'
_OBJECT_START = '{"'

_DECODER = json.JSONDecoder()


def read_notes(text: str) -> Sequence[str]:
    """
    Return the notes in *text*, without verifying their signatures.

    In a log, other lines are skipped.  Without any log line, *text* must contain only
    notes, so that a damaged note is reported.  If there is no checkpoint, or it is
    malformed, this raises ``InvalidInputError``.
    """
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    if not any(_OBJECT_START in line for line in lines):
        return split("\n".join(lines).rstrip("\n") + "\n")
    if any(KIND in line and _OBJECT_START not in line for line in lines):
        raise InvalidInputError(
            "the file mixes notes and log lines: put them into separate files"
        )
    notes = [note for note in map(_read_line, lines) if note is not None]
    if not notes:
        raise InvalidInputError("the log contains no checkpoint")
    for note in notes:
        parse(note)
    return notes


def _read_line(line: str) -> str | None:
    """Return the note in a log line; None if the line is about something else."""
    if _QUOTED not in line:
        return None
    try:
        fields, _ = _DECODER.raw_decode(line, line.find(_OBJECT_START))
    except (ValueError, RecursionError):
        raise InvalidInputError(
            "a log line with a checkpoint is cut off: copy the log again"
        ) from None
    return str(fields.get("note")) if fields.get("event") == _EVENT else None


_ED25519 = b"\x01"  # c2sp.org/signed-note, "Signature types".
KEY_ID_BYTES = 4
"""The length of the id of a key, with which a signature begins."""

_MAX_PEM = 10_000


class Ed25519Signer(Protocol):
    """An Ed25519 key, in a file or in a device."""

    def public_key(self) -> Ed25519PublicKey:
        """Return the public key."""

    def sign(self, data: bytes, /) -> bytes:
        """Return the 64 bytes of the signature (RFC 8032)."""


class CheckpointKey:
    """Signs checkpoints, and what is made of the records that they cover."""

    def __init__(self, key: Ed25519Signer) -> None:
        self._key = key
        self._public = key.public_key()

    def __repr__(self) -> str:
        return "CheckpointKey()"

    @classmethod
    def generate(cls) -> Self:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(
        cls, path: Path, open_in_kms: Callable[[str], Ed25519Signer] | None = None
    ) -> Self:
        """
        Load a key from a file that is its owner's alone.

        The file has an unencrypted PKCS#8 PEM key, or the ARN of a key in KMS, which
        *open_in_kms* opens.
        """
        arn, key = "", None
        try:
            content = _read_private(path)
            if open_in_kms is not None and content.startswith(b"arn:"):
                arn = content.decode("ascii", "replace").strip()
            else:
                key = load_pem_private_key(content, password=None)
        except FileNotFoundError:
            problem = "the file does not exist; `hotwallet audit key` creates one"
        except OSError as e:
            problem = f"the file cannot be read ({type(e).__name__})"
        except (ValueError, TypeError, UnsupportedAlgorithm):
            problem = "the file is not an unencrypted private key in PEM"
        else:
            if open_in_kms is not None and arn:
                return cls(open_in_kms(arn))
            if isinstance(key, Ed25519PrivateKey):
                return cls(key)
            problem = "the key is not an Ed25519 key"
        raise _misconfigured(problem)

    def private_pem(self) -> bytes:
        """Return the private key of ``generate`` for ``load``; a secret."""
        if not isinstance(self._key, Ed25519PrivateKey):
            raise TypeError("the private key is in a device")
        return self._key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )

    def public_pem(self) -> bytes:
        """Return the public key (RFC 8410) for ``Verifier``."""
        return self._public.public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, origin: str, size: int, head: bytes, at: datetime) -> Checkpoint:
        """Sign that the chain of *origin* has *size* records and ends with *head*."""
        when = at.astimezone(UTC).isoformat(timespec="microseconds")
        lines = (origin, str(size), base64.b64encode(head).decode(), KIND, when)
        note = self.sign_text(origin, "".join(f"{line}\n" for line in lines))
        parse(note)
        return Checkpoint(size, note)

    def sign_text(self, origin: str, text: str) -> str:
        """
        Return *text*, whole lines, as a note that *origin* signed.

        The second line says what it is: that of a checkpoint is a number.
        """
        signature = _key_id(origin, self._public) + self._key.sign(text.encode())
        encoded = base64.b64encode(signature).decode()
        return f"{text}\n\u2014 {origin} {encoded}\n"


class Verifier:
    """Verifies checkpoints against a set of trusted public keys."""

    def __init__(self, *pems: bytes) -> None:
        """Trust the Ed25519 public keys in *pems*, or raise ``InvalidInputError``."""
        self._keys = [_public_key(pem) for pem in pems]

    def verify(self, note: str) -> Statement:
        """
        Verify the signatures of *note*, and return what it states.

        Signatures of unknown keys are ignored (c2sp.org/signed-note); every signature
        by a trusted key must be valid.

        Raises:
            InvalidInputError: *note* is not a checkpoint, has no signature by a trusted
                key, or has an invalid one.
        """
        parsed = parse(note)
        origin = parsed.statement.origin
        self._verify("the checkpoint", origin, parsed.text, parsed.signatures)
        return parsed.statement

    def verify_text(self, origin: str, text: str, note: str) -> None:
        """Require that *note* is *text*, which *origin* signed; as ``verify``."""
        match = re.fullmatch(re.escape(f"{text}\n") + _SIGNATURES, note)
        if match is None:
            raise InvalidInputError("the signature is of something else")
        signatures = _parse_signatures(match["signatures"])
        self._verify("the text", origin, text.encode(), signatures)

    def _verify(
        self,
        what: str,
        origin: str,
        text: bytes,
        signatures: Sequence[tuple[str, bytes]],
    ) -> None:
        trusted = {_key_id(origin, key): key for key in self._keys}
        known = [
            (key, signature[KEY_ID_BYTES:])
            for name, signature in signatures
            if name == origin and (key := trusted.get(signature[:KEY_ID_BYTES]))
        ]
        if not known:
            raise InvalidInputError(f"{what} is not signed by a trusted key")
        try:
            for key, signature in known:
                key.verify(signature, text)
        except InvalidSignature:
            raise InvalidInputError(
                f"{what} is forged: its signature is invalid"
            ) from None

    def select(self, notes: Iterable[str]) -> list[str]:
        """Return those of *notes* that ``verify`` accepts."""
        accepted = []
        for note in notes:
            with suppress(InvalidInputError):
                self.verify(note)
                accepted.append(note)
        return accepted


def _key_id(name: str, key: Ed25519PublicKey) -> bytes:
    """Return the key ID of c2sp.org/signed-note, 4 bytes."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    whole = hashlib.sha256(name.encode() + b"\n" + _ED25519 + raw).digest()
    return whole[:KEY_ID_BYTES]


def _public_key(pem: bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidInputError("not an Ed25519 public key in PEM")
    return key


def _read_private(path: Path) -> bytes:
    with path.open("rb") as file:
        # Check the open file: the name may refer to another one a moment later.
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _misconfigured("it is not a regular file")
        if not is_private(file.fileno()):
            raise _misconfigured("other users may access the file: chmod 600 it")
        return file.read(_MAX_PEM)


def _misconfigured(problem: str) -> ConfigurationError:
    return ConfigurationError(
        Refusal("audit-misconfigured", f"AUDIT_SIGNING_KEY_FILE: {problem}")
    )


MAX_READ = 200
"""How many stored checkpoints are read at once, above and below the chain's head."""

MAX_SIZE = 2**63 - 1
"""The largest size of a checkpoint that the database can store."""

Verify = Callable[[Checkpoint], Statement | None]
"""A function that returns what a stored checkpoint states; None if it is not ours."""


@dataclass(frozen=True, slots=True)
class NewestCheckpoints:
    """
    The newest genuine checkpoint, and the others that were read before it.

    ``of_others`` agree with the chain, but another key signed them, perhaps an earlier
    key of this service.  ``forged`` are no checkpoints of this chain.
    """

    checkpoint: Checkpoint | None
    of_others: Sequence[Checkpoint]
    forged: Sequence[Checkpoint]

    @property
    def statement(self) -> Statement | None:
        """What the checkpoint states; None if there is none."""
        return None if self.checkpoint is None else statement_of(self.checkpoint)


def find_newest(
    journal: Journal, verify: Verify | None, after: int = 0
) -> NewestCheckpoints:
    """
    Find the newest checkpoint of more than *after* records.

    Without *verify* (there is no key), each one that agrees with the chain counts.
    When ``MAX_READ`` others are newer, it is not found.  Then the whole chain is
    verified and signed again, which is safe.
    """
    size, _ = journal.head()
    above = journal.newest_checkpoints(max(size, after), MAX_SIZE, MAX_READ)
    of_others, forged = list[Checkpoint](), list[Checkpoint]()
    for stored in (*above, *journal.newest_checkpoints(after, size, MAX_READ)):
        is_ours = verify is not None and verify(stored) is not None
        is_true = is_ours or _agrees(journal, stored)
        if is_ours or (is_true and verify is None):
            return NewestCheckpoints(stored, of_others, forged)
        (of_others if is_true else forged).append(stored)
    return NewestCheckpoints(None, of_others, forged)


def statement_of(stored: Checkpoint, origin: str | None = None) -> Statement | None:
    """
    Return what *stored* states, without verifying it.

    None if it is malformed, states another size than it is stored with, or is not of
    *origin*.
    """
    try:
        statement = parse(stored.note).statement
    except InvalidInputError:
        return None
    is_copy = statement.size != stored.size
    is_foreign = origin is not None and statement.origin != origin
    return None if is_copy or is_foreign else statement


def _agrees(journal: Journal, stored: Checkpoint) -> bool:
    """Return whether *stored* states the hash of the last record that it covers."""
    statement = statement_of(stored)
    if statement is None:
        return False
    found = journal.sealed(statement.size - 1, 1)
    return [(each.sequence, each.hash) for each in found] == [
        (statement.size, statement.hash)
    ]
