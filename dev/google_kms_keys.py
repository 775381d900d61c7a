"""
Key versions and their operations, as in Google Cloud KMS.

The checks, their order and their statuses are those of ``fakekms``, with which Google
tests its own PKCS#11 library
(https://github.com/GoogleCloudPlatform/kms-integrations/tree/master/fakekms).
"""

import base64
import binascii
import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dev.kms_signing import Signing


Result = dict[str, Any]

SECP256K1 = "EC_SIGN_SECP256K1_SHA256"
STATES = (
    "ENABLED",
    "DISABLED",
    "DESTROY_SCHEDULED",
    "DESTROYED",
    "PENDING_GENERATION",
)

_CURVES: Mapping[str, type[ec.EllipticCurve]] = {
    SECP256K1: ec.SECP256K1,
    "EC_SIGN_P256_SHA256": ec.SECP256R1,
}
_DIGEST_BYTES = 32


class GoogleError(Exception):
    """A ``google.rpc.Status``: *status* is its code, *details* its typed details."""

    def __init__(self, status: str, message: str, *details: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = details


@dataclass(slots=True)
class KeyVersion:
    """One key version, in a state of ``STATES``."""

    name: str
    private_key: ec.EllipticCurvePrivateKey
    algorithm: str = SECP256K1
    protection_level: str = "HSM"
    state: str = "ENABLED"

    def describe(self) -> Result:
        """Return the resource ``CryptoKeyVersion``."""
        return {
            "name": self.name,
            "state": self.state,
            "protectionLevel": self.protection_level,
            "algorithm": self.algorithm,
        }


class KeyVersions:
    """All key versions; threads share an instance."""

    def __init__(self) -> None:
        self._versions: dict[str, KeyVersion] = {}
        self._numbers: defaultdict[str, Iterator[int]] = defaultdict(
            lambda: itertools.count(1)
        )
        self._lock = threading.Lock()

    def create(self, key: str, algorithm: str, protection_level: str) -> KeyVersion:
        """Create the next version of *key*, and the key if it does not exist."""
        with self._lock:
            name = f"{key}/cryptoKeyVersions/{next(self._numbers[key])}"
            private_key = ec.generate_private_key(_CURVES[algorithm]())
            version = KeyVersion(name, private_key, algorithm, protection_level)
            self._versions[name] = version
            return version

    def find(self, name: str) -> KeyVersion:
        """Return the version *name*, or raise ``NOT_FOUND``."""
        if name not in self._versions:
            raise GoogleError("NOT_FOUND", f"CryptoKeyVersion {name} not found.")
        return self._versions[name]

    def list(self, key: str) -> Result:
        """Return the answer of ListCryptoKeyVersions, on one page."""
        found = [
            version.describe()
            for name, version in self._versions.items()
            if name.startswith(f"{key}/cryptoKeyVersions/")
        ]
        if not found:
            raise GoogleError("NOT_FOUND", f"CryptoKey {key} not found.")
        return {"cryptoKeyVersions": found, "totalSize": len(found)}

    def public_key(self, name: str) -> Result:
        """Return the answer of GetPublicKey."""
        version = _enabled(self.find(name))
        pem = version.private_key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        return {
            "pem": pem.decode(),
            "algorithm": version.algorithm,
            "pemCrc32c": checksum(pem),
            "name": version.name,
            "protectionLevel": version.protection_level,
        }

    def sign(self, name: str, body: Mapping[str, Any], signing: Signing) -> Result:
        """Return the answer of AsymmetricSign; *signing* makes the signature."""
        version = _enabled(self.find(name))
        digest = _digest(body)
        signature = signing(version.private_key, digest)
        return {
            "signature": base64.b64encode(signature).decode(),
            "signatureCrc32c": checksum(signature),
            "verifiedDigestCrc32c": "digestCrc32c" in body,
            "name": version.name,
            "protectionLevel": version.protection_level,
        }


def checksum(data: bytes) -> str:
    """Return the CRC32C of *data* as JSON has an int64: a string."""
    return str(int(google_crc32c.value(data)))


def _enabled(version: KeyVersion) -> KeyVersion:
    if version.state == "ENABLED":
        return version
    message = f"{version.name} is not enabled, current state is: {version.state}."
    violation = {
        "type": f"KEY_{version.state}",
        "subject": version.name,
        "description": message,
    }
    raise GoogleError(
        "FAILED_PRECONDITION",
        message,
        {
            "@type": "type.googleapis.com/google.rpc.PreconditionFailure",
            "violations": [violation],
        },
    )


def _digest(body: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 digest of a request, which must have no ``data``."""
    if "data" in body and "digest" in body:
        raise _invalid("only one of digest or data must be set")
    if "data" in body:
        raise _invalid("this emulator signs digests only")
    given = body.get("digest")
    if not isinstance(given, dict) or len(given) != 1:
        raise _invalid("at least one of digest or data must be set")
    try:
        digest = base64.b64decode(given.get("sha256", ""), validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise _invalid("Invalid value at 'digest.sha256' (TYPE_BYTES)") from None
    if len(digest) != _DIGEST_BYTES:
        raise _invalid(f"len(digest)={len(digest)}, want {_DIGEST_BYTES}")
    if "digestCrc32c" in body and str(body["digestCrc32c"]) != checksum(digest):
        raise _invalid("The checksum in field digest_crc32c did not match the digest")
    return digest


def _invalid(message: str) -> GoogleError:
    return GoogleError("INVALID_ARGUMENT", message)
