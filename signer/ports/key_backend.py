"""The ports of devices that hold private keys."""

from dataclasses import dataclass
from typing import NewType, Protocol


KeyId = NewType("KeyId", str)
"""
The permanent id of a key in its device.

That is an ARN of AWS KMS, the name of a key version of Google Cloud KMS, or a CKA_ID in
hex.
"""


class KeyBackend(Protocol):
    """
    Signs 32-byte digests with private keys that stay in the device.

    Both methods return DER, so that one parser, one low-s rule (EIP-2) and one recovery
    serve every backend.  Both raise subclasses of ``SigningError``, and
    ``InvalidInputError`` for a digest that is not 32 bytes; nothing else.
    """

    @property
    def name(self) -> str:
        """The name of this backend in audit records: ``aws-kms``, ``pkcs11``."""

    @property
    def concurrency(self) -> int:
        """
        How many threads should call ``sign_digest`` at once, at least 1.

        More threads than that gain nothing: the backend makes them wait for a turn, or
        the device does.  The value may change at any time, so read it before each batch
        of signatures.
        """

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the DER ``SubjectPublicKeyInfo`` (RFC 5480) of *key_id*."""

    def sign_digest(self, key_id: KeyId, digest: bytes) -> "DeviceSignature":
        """Return a DER ``ECDSA-Sig-Value`` (RFC 3279) over *digest* as it is."""


@dataclass(frozen=True, slots=True)
class DeviceSignature:
    """
    A signature as the device returned it, not yet verified.

    ``request_id`` is the device's id of the last call, such as the KMS request id in
    CloudTrail, so that the two logs can be matched.  ``attempts`` counts all calls,
    including those whose answer was lost, and ``throttled`` those that the device
    rejected because of the rate.
    """

    der: bytes
    request_id: str | None = None
    attempts: int = 1
    throttled: int = 0

    def __repr__(self) -> str:
        """Leave out the signature, so that it never reaches a log."""
        return f"DeviceSignature(request_id={self.request_id!r})"


class KeyDirectory(KeyBackend, Protocol):
    """A backend that resolves names that operators give to keys."""

    def resolve(self, name: str) -> KeyId:
        """
        Return the id of the key that *name* currently refers to.

        Raises:
            InvalidInputError: *name* is malformed for this backend.
            KeyNotFoundError, KeyUnusableError, BackendError: The key cannot be used.
        """
