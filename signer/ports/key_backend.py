"""What the core asks of devices that keep private keys."""

from dataclasses import dataclass
from typing import NewType, Protocol


KeyId = NewType("KeyId", str)
"""Names a key by what never moves: a KMS key ARN, or a CKA_ID in hex."""


class KeyBackend(Protocol):
    """
    Where private keys live.  A backend signs digests and knows nothing else.

    Both answers are DER, whatever the device speaks, so that parsing, EIP-2 and
    recovery are written once and every backend runs the same lines.

    Both raise children of ``SigningError``, and ``InvalidInputError`` for what is not
    a digest; nothing else.
    """

    @property
    def name(self) -> str:
        """How audit records call this backend: ``aws-kms``, ``pkcs11``."""

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the DER ``SubjectPublicKeyInfo`` (RFC 5480) of *key_id*."""

    def sign_digest(self, key_id: KeyId, digest: bytes) -> "DeviceSignature":
        """Return a DER ``ECDSA-Sig-Value`` (RFC 3279) over *digest*, as given."""


@dataclass(frozen=True, slots=True)
class DeviceSignature:
    """
    What a device answered, not yet believed.

    ``request_id`` is the device's own name for the call (KMS: the request id
    that CloudTrail records), so that the two logs can be matched.  ``attempts`` counts
    the calls, of which the last one has that name: an answer can be lost.
    """

    der: bytes
    request_id: str | None = None
    attempts: int = 1

    def __repr__(self) -> str:
        """Signature bytes never reach a log."""
        return f"DeviceSignature(request_id={self.request_id!r})"


class KeyDirectory(KeyBackend, Protocol):
    """A backend that knows keys by the names that operators give them."""

    def resolve(self, name: str) -> KeyId:
        """
        Return what never moves of the key that *name* means at this moment.

        Raises:
            InvalidInputError: *name* is no key's name here, whatever keys there are.
            KeyNotFoundError, KeyUnusableError, BackendError: It cannot be used.
        """


class KeyGenerator(KeyBackend, Protocol):
    """A backend that can make keys.  Only provisioning and rotation ask for it."""

    def generate(self, label: str) -> KeyId:
        """Make a new non-extractable secp256k1 key and return its id."""
