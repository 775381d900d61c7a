"""
The signatures of Standard Webhooks: HMAC-SHA-256 (``v1``) and Ed25519 (``v1a``).

Signed are the message id, the time in seconds, and the body, with dots in between.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from signer.errors import InvalidInputError
from signer.private_files import is_private


SECRET = "whsec_"  # noqa: S105  A prefix.
PRIVATE_KEY = "whsk_"
PUBLIC_KEY = "whpk_"

TOLERANCE = timedelta(minutes=5)
"""How far the time of a message may differ from a receiver's clock."""

_SEED = 32
_SECRET_BYTES = range(24, 65)
_MOST_KEYS = 4


class SigningKey(Protocol):
    """Signs messages in one scheme."""

    def sign(self, message: bytes) -> str:
        """Return the signature of *message*: scheme, comma, Base64."""


class VerifyingKey(Protocol):
    """Verifies messages of one scheme."""

    def is_valid(self, signature: str, message: bytes) -> bool:
        """Return whether *signature* is one of *message*."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret that the service and one receiver share."""

    value: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``whsec_`` and Base64 of 24 to 64 bytes; ``ValueError`` otherwise."""
        value = _decode(text, SECRET)
        if len(value) not in _SECRET_BYTES:
            raise ValueError("a secret must have 24 to 64 bytes")
        return cls(value)

    @classmethod
    def generate(cls) -> Self:
        return cls(secrets.token_bytes(32))

    def format(self) -> str:
        return SECRET + base64.b64encode(self.value).decode()

    def sign(self, message: bytes) -> str:
        digest = hmac.digest(self.value, message, "sha256")
        return f"v1,{base64.b64encode(digest).decode()}"

    def is_valid(self, signature: str, message: bytes) -> bool:
        expected = self.sign(message).encode()
        return hmac.compare_digest(signature.encode(errors="replace"), expected)


@dataclass(frozen=True, slots=True)
class WebhookPublicKey:
    """The 32 bytes of an Ed25519 public key (RFC 8032)."""

    value: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``whpk_`` and Base64 of 32 bytes; ``ValueError`` otherwise."""
        value = _decode(text, PUBLIC_KEY)
        if len(value) != _SEED:
            raise ValueError("a public key must have 32 bytes")
        return cls(value)

    @property
    def id(self) -> str:
        """The first 16 hex digits of the key's SHA-256."""
        return hashlib.sha256(self.value).hexdigest()[:16]

    def format(self) -> str:
        return PUBLIC_KEY + base64.b64encode(self.value).decode()

    def jwk(self) -> Mapping[str, str]:
        """Return the key as a JSON Web Key (RFC 8037)."""
        x = base64.urlsafe_b64encode(self.value).rstrip(b"=").decode()
        return {
            "kty": "OKP",
            "crv": "Ed25519",
            "use": "sig",
            "alg": "EdDSA",
            "kid": self.id,
            "x": x,
            "standard_webhooks_key": self.format(),
        }

    def is_valid(self, signature: str, message: bytes) -> bool:
        scheme, _, text = signature.partition(",")
        if scheme != "v1a":
            return False
        try:
            bare = base64.b64decode(text, validate=True)
            Ed25519PublicKey.from_public_bytes(self.value).verify(bare, message)
        except (binascii.Error, ValueError, InvalidSignature):
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """An Ed25519 key of the service (RFC 8032)."""

    seed: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read ``whsk_`` and Base64 of the seed, or of seed and public key.

        Raises:
            ValueError: It is none, or the public key is another one.
        """
        value = _decode(text, PRIVATE_KEY)
        key = cls(value[:_SEED])
        if value not in {key.seed, key.seed + key.public.value}:
            raise ValueError("a key must have 32 bytes, or 64 with its public key")
        return key

    @classmethod
    def generate(cls) -> Self:
        return cls(secrets.token_bytes(_SEED))

    @property
    def public(self) -> WebhookPublicKey:
        return WebhookPublicKey(self._key.public_key().public_bytes_raw())

    def format(self) -> str:
        both = self.seed + self.public.value
        return PRIVATE_KEY + base64.b64encode(both).decode()

    def sign(self, message: bytes) -> str:
        return f"v1a,{base64.b64encode(self._key.sign(message)).decode()}"

    @property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


def sign(
    keys: Sequence[SigningKey], message_id: str, at: datetime, body: bytes
) -> Mapping[str, str]:
    """
    Return the three headers of a message, signed with each of *keys*.

    A receiver accepts a message if it can verify one of the signatures, so a new key
    can sign before all receivers know it.
    """
    seconds = int(at.timestamp())
    message = _signed(message_id, str(seconds), body)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(key.sign(message) for key in keys),
    }


def verify(
    keys: Sequence[VerifyingKey],
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> str:
    """
    Return the id of a message whose signature one of *keys* verifies.

    The names of *headers* are in lower case.

    Raises:
        InvalidInputError: A header is missing, the time differs by more than
            ``TOLERANCE`` from *now*, or no signature is valid.
    """
    message_id = headers.get("webhook-id", "")
    seconds = headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "").split()
    if not (message_id and signatures and seconds.isascii() and seconds.isdigit()):
        raise InvalidInputError("a header of Standard Webhooks is missing")
    if abs(int(seconds[:12]) - now.timestamp()) > TOLERANCE.total_seconds():
        raise InvalidInputError("webhook-timestamp is over five minutes from now")
    message = _signed(message_id, seconds, body)
    if not any(key.is_valid(each, message) for each in signatures for key in keys):
        raise InvalidInputError("no signature is valid")
    return message_id


def read_secrets(path: Path) -> Sequence[Secret]:
    """Read the secrets of one receiver; ``ValueError`` or ``OSError`` if unusable."""
    return [Secret.parse(line) for line in _read_lines(path)]


def read_private_keys(path: Path) -> Sequence[PrivateKey]:
    """Read the keys of the service; ``ValueError`` or ``OSError`` if unusable."""
    return [PrivateKey.parse(line) for line in _read_lines(path)]


def read_public_keys(path: Path) -> Sequence[WebhookPublicKey]:
    """Read public keys; ``ValueError`` or ``OSError`` if unusable."""
    lines = _read_lines(path, is_secret=False)
    return [WebhookPublicKey.parse(line) for line in lines]


def _signed(message_id: str, seconds: str, body: bytes) -> bytes:
    return f"{message_id}.{seconds}.".encode() + body


def _decode(text: str, prefix: str) -> bytes:
    """Return the bytes after *prefix*; a ``ValueError`` does not quote *text*."""
    try:
        if text.startswith(prefix):
            return base64.b64decode(text.removeprefix(prefix), validate=True)
    except (binascii.Error, ValueError):  # Their messages may quote the text.
        pass
    raise ValueError(f"a line must be {prefix} and Base64")


def _read_lines(path: Path, *, is_secret: bool = True) -> Sequence[str]:
    with path.open("rb") as file:
        if is_secret and not is_private(file.fileno()):
            raise ValueError("other users can access the file: chmod 600")
        try:
            lines = file.read(64 * 1024).decode("ascii").split()
        except UnicodeDecodeError:
            raise ValueError("the file is not text") from None
    if not 1 <= len(lines) <= _MOST_KEYS:
        raise ValueError(f"the file must have 1 to {_MOST_KEYS} lines")
    return lines
