"""Signs and verifies checkpoints with Ed25519 keys (RFC 8032)."""

import base64
import hashlib
import os
import stat
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

from signer.audit.checkpoint_notes import KIND, Statement, parse
from signer.errors import ConfigurationError, InvalidInputError, Refusal
from signer.ports.audit_journal import Checkpoint
from signer.private_files import is_private


_ED25519 = b"\x01"  # c2sp.org/signed-note, "Signature types".
_KEY_ID_BYTES = 4
_MAX_PEM = 10_000


class CheckpointKey:
    """Signs checkpoints, and nothing else."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key()

    def __repr__(self) -> str:
        return "CheckpointKey()"

    @classmethod
    def generate(cls) -> Self:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load an unencrypted PKCS#8 PEM key from a file that is its owner's alone."""
        try:
            key = load_pem_private_key(_read_private(path), password=None)
        except FileNotFoundError:
            problem = "the file does not exist; `hotwallet audit key` creates one"
        except OSError as e:
            problem = f"the file cannot be read ({type(e).__name__})"
        except (ValueError, TypeError, UnsupportedAlgorithm):
            problem = "the file is not an unencrypted private key in PEM"
        else:
            if isinstance(key, Ed25519PrivateKey):
                return cls(key)
            problem = "the key is not an Ed25519 key"
        raise _misconfigured(problem)

    def private_pem(self) -> bytes:
        """Return the private key for ``load``; a secret."""
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
        Sign that the chain of *origin* has *size* records and ends with *head*.

        Raises:
            InvalidInputError: *size* is 0, or *origin* has a space or a plus sign.
        """
        when = at.astimezone(UTC).isoformat(timespec="microseconds")
        lines = (origin, str(size), base64.b64encode(head).decode(), KIND, when)
        text = "".join(f"{line}\n" for line in lines)
        signature = _key_id(origin, self._public) + self._key.sign(text.encode())
        encoded = base64.b64encode(signature).decode()
        note = f"{text}\n\u2014 {origin} {encoded}\n"
        parse(note)
        return Checkpoint(size, note)


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
        statement = parsed.statement
        trusted = {_key_id(statement.origin, key): key for key in self._keys}
        signatures = [
            (key, signature[_KEY_ID_BYTES:])
            for name, signature in parsed.signatures
            if name == statement.origin
            and (key := trusted.get(signature[:_KEY_ID_BYTES]))
        ]
        if not signatures:
            raise InvalidInputError("the checkpoint is not signed by a trusted key")
        try:
            for key, signature in signatures:
                key.verify(signature, parsed.text)
        except InvalidSignature:
            raise InvalidInputError(
                "the checkpoint is forged: its signature is invalid"
            ) from None
        return statement


def _key_id(name: str, key: Ed25519PublicKey) -> bytes:
    """Return the key ID of c2sp.org/signed-note, 4 bytes."""
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
