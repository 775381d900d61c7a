"""
A minimal key backend in memory, for tests only.

It passes the contract of the real backends.
"""

import secrets

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256K1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from signer.errors import InvalidInputError, KeyNotFoundError
from signer.ports.key_backend import DeviceSignature, KeyId


# SHA-256 only says that the digest has 32 bytes.  Like real devices, and unlike
# libsecp256k1, OpenSSL leaves s high half of the time and draws a random nonce.
_AS_GIVEN = ECDSA(Prehashed(SHA256()))


class ReferenceBackend:
    """Keys in memory, which sign with pyca/cryptography."""

    name = "reference"
    concurrency = 1

    def __init__(self) -> None:
        self._keys: dict[KeyId, EllipticCurvePrivateKey] = {}

    def generate(self, label: str) -> KeyId:
        """Generate a key; the label is ignored."""
        key_id = KeyId(secrets.token_hex(16))
        self._keys[key_id] = generate_private_key(SECP256K1())
        return key_id

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the DER ``SubjectPublicKeyInfo`` of *key_id*."""
        return (
            self._key(key_id)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        """Return a DER ``ECDSA-Sig-Value`` over *digest*, signed as given."""
        try:
            return DeviceSignature(self._key(key_id).sign(digest, _AS_GIVEN))
        except ValueError:
            raise InvalidInputError("must be 32 bytes", field="digest") from None

    def _key(self, key_id: KeyId) -> EllipticCurvePrivateKey:
        if key_id not in self._keys:
            raise KeyNotFoundError("there is no such key")
        return self._keys[key_id]
