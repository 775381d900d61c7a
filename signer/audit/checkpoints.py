"""
Checkpoints: a signed word about how long the chain is, and what it ends in.

A checkpoint is a C2SP signed note (c2sp.org/signed-note) whose text has the lines of a
tlog-checkpoint: origin, size, hash in base64.  Ours is no Merkle tree's root but the
hash of the chain's last record, so it proves what the whole chain up to there was, and
nothing about a single record without the others.  The first extension line says so;
the second one says when it was signed, by the signer's clock.
"""

import base64
import binascii
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

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
from signer.ports import Checkpoint


KIND = "hash chain of hotwallet audit records 1, no Merkle tree"
"""What the hash is of."""

_ED25519 = b"\x01"  # c2sp.org/signed-note, "Signature types".
_KEY_ID_BYTES = 4
_MAX_NOTE = 10_000
_MAX_PEM = 10_000

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
    """What a checkpoint says; ``hash`` is the one in place ``size``, 32 bytes."""

    origin: str
    size: int
    hash: bytes
    at: datetime


class CheckpointKey:
    """Signs checkpoints; Ed25519 (RFC 8032), and used for nothing else."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key()

    def __repr__(self) -> str:
        """Show nothing of the key."""
        return "CheckpointKey()"

    @classmethod
    def generate(cls) -> Self:
        """Return a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Self:
        """
        Read an unencrypted PKCS#8 key in PEM, which only its owner may read.

        Raises:
            ConfigurationError: ``audit-misconfigured``.
        """
        try:
            key = load_pem_private_key(_private_bytes(path), password=None)
        except OSError as e:
            problem = f"the file cannot be read ({type(e).__name__})"
        except (ValueError, TypeError, UnsupportedAlgorithm):
            problem = "the file is no unencrypted private key in PEM"
        else:
            if isinstance(key, Ed25519PrivateKey):
                return cls(key)
            problem = "the key is not an Ed25519 key"
        raise _refused(problem)

    def private_pem(self) -> bytes:
        """Return the key for ``load``: a secret."""
        return self._key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )

    def public_pem(self) -> bytes:
        """Return the public key (RFC 8410) for ``Verifier``."""
        return self._public.public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, origin: str, size: int, head: bytes, at: datetime) -> Checkpoint:
        """
        Return the signed statement that *origin*'s chain of *size* ends in *head*.

        Raises:
            InvalidInputError: It could not be read again: an empty chain, an origin
                with a space or a plus sign.
        """
        when = at.astimezone(UTC).isoformat(timespec="microseconds")
        lines = (origin, str(size), base64.b64encode(head).decode(), KIND, when)
        text = "".join(f"{line}\n" for line in lines)
        signature = _key_id(origin, self._public) + self._key.sign(text.encode())
        told = base64.b64encode(signature).decode()
        note = f"{text}\n\u2014 {origin} {told}\n"
        read(note)
        return Checkpoint(size, note, at)


class Verifier:
    """Believes checkpoints that one of its public keys has signed."""

    def __init__(self, *pems: bytes) -> None:
        """
        Trust the Ed25519 keys in *pems*: the present one, and those before it.

        Raises:
            InvalidInputError: One of them is something else.
        """
        self._keys = [_public_key(pem) for pem in pems]

    def verify(self, note: str) -> Statement:
        """
        Return what *note* says.

        Signatures of keys that we do not know are passed over, as the specification
        demands; one by a key that we know must hold.

        Raises:
            InvalidInputError: Not a checkpoint, or not signed by a key of ours.
        """
        match = _matched(note)
        statement = _statement(match)
        ours = {_key_id(statement.origin, key): key for key in self._keys}
        believed = False
        for name, signature in _signatures(match["signatures"]):
            key = ours.get(signature[:_KEY_ID_BYTES])
            if name != statement.origin or key is None:
                continue
            try:
                key.verify(signature[_KEY_ID_BYTES:], match["text"].encode())
            except InvalidSignature:
                raise InvalidInputError("the checkpoint was forged") from None
            believed = True
        if not believed:
            raise InvalidInputError("the checkpoint is not signed by a key of ours")
        return statement


def read(note: str) -> Statement:
    """
    Return what *note* says, whoever signed it.

    Raises:
        InvalidInputError: Not a checkpoint.
    """
    match = _matched(note)
    _signatures(match["signatures"])  # Whoever they are by, they are written strictly.
    return _statement(match)


def notes(text: str) -> Sequence[str]:
    """
    Return the notes in *text*, which has nothing but notes, however many.

    Raises:
        InvalidInputError: There is something else in it, or no note at all.
    """
    found = list(_NOTE.finditer(text))
    if not found or _NOTE.sub("", text).strip():
        raise InvalidInputError("not a checkpoint of an audit chain")
    return [match[0] for match in found]


def _matched(note: str) -> re.Match[str]:
    match = _NOTE.fullmatch(note) if len(note) <= _MAX_NOTE else None
    if match is None:
        raise InvalidInputError("not a checkpoint of an audit chain")
    return match


def _statement(match: re.Match[str]) -> Statement:
    try:
        at = datetime.fromisoformat(match["at"])
    except ValueError:
        raise InvalidInputError("the checkpoint's time is none") from None
    return Statement(match["origin"], int(match["size"]), _bytes(match["hash"]), at)


def _signatures(lines: str) -> Sequence[tuple[str, bytes]]:
    told = (line.split(" ") for line in lines.splitlines())
    return [(name, _bytes(signature)) for _, name, signature in told]


def _bytes(encoded: str) -> bytes:
    """Return what RFC 4648 section 4 encodes in the one way that it should."""
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        decoded = b""
    if not decoded or base64.b64encode(decoded).decode() != encoded:
        raise InvalidInputError("the checkpoint's base64 is not canonical")
    return decoded


def _key_id(name: str, key: Ed25519PublicKey) -> bytes:
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    whole = hashlib.sha256(name.encode() + b"\n" + _ED25519 + raw).digest()
    return whole[:_KEY_ID_BYTES]


def _public_key(pem: bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidInputError("not an Ed25519 public key in PEM")
    return key


def _private_bytes(path: Path) -> bytes:
    """
    Return the file's bytes if it is its owner's alone.

    Raises:
        ConfigurationError: Others may read it, or it is no file.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        # Of the file that is open: another one may have the name a moment later.
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise _refused("it is no file")
        if mode & 0o077:
            raise _refused("others may read the file: chmod 600")
        return file.read(_MAX_PEM)


def _refused(problem: str) -> ConfigurationError:
    return ConfigurationError(
        Refusal("audit-misconfigured", f"AUDIT_SIGNING_KEY_FILE: {problem}")
    )
