"""What the emulators of both clouds share: how a digest is signed, and AWS's errors."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed


Parameters = Mapping[str, Any]
Signing = Callable[[ec.EllipticCurvePrivateKey, bytes], bytes]
"""Signs a digest and returns DER.  Faults replace it."""

HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "ECDSA_SHA_256": hashes.SHA256(),
    "ECDSA_SHA_384": hashes.SHA384(),
    "ECDSA_SHA_512": hashes.SHA512(),
}


class KMSError(Exception):
    """An error of KMS: *code* and *message* for the body, and the HTTP *status*."""

    def __init__(
        self, code: str, message: str, status: int = HTTPStatus.BAD_REQUEST
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = int(status)


def as_given(private_key: ec.EllipticCurvePrivateKey, digest: bytes) -> bytes:
    """Sign *digest* itself.  The nonce is random, and s is high half of the time."""
    hashed = {h.digest_size: h for h in HASHES.values()}[len(digest)]
    return private_key.sign(digest, ec.ECDSA(Prehashed(hashed)))
