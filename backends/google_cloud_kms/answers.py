"""
Reads the answers of Cloud KMS, and refuses those that were damaged or mixed up.

Google asks clients to compare the checksums (CRC32C, RFC 3720) of everything that they
send and receive, and the name of the key version
(https://docs.cloud.google.com/kms/docs/data-integrity-guidelines).
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

import google_crc32c
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from signer.errors import (
    BackendError,
    BackendUnavailableError,
    EncodingError,
    KeyUnusableError,
)
from signer.ports.key_backend import KeyId


ALGORITHM = "EC_SIGN_SECP256K1_SHA256"

_HARDWARE = {"HSM", "HSM_SINGLE_TENANT"}
"""Google offers the curve with these protection levels only
(https://docs.cloud.google.com/kms/docs/algorithms)."""

_DAMAGED = "Cloud KMS {}: the answer is damaged ({})"


def crc32c(data: bytes) -> int:
    """Return the CRC32C checksum of *data* (RFC 3720, appendix B.4)."""
    return int(google_crc32c.value(data))


def sign_request(digest: bytes) -> bytes:
    """Return the body of an AsymmetricSign request over *digest*, signed as given."""
    body = {
        "digest": {"sha256": base64.b64encode(digest).decode()},
        "digestCrc32c": str(crc32c(digest)),
    }
    return json.dumps(body).encode()


def read_signature(key_id: KeyId, body: bytes) -> bytes:
    """
    Return the DER signature of an AsymmetricSign response.

    Raises:
        BackendUnavailableError: The request or the response was damaged on the way.
        BackendError: Another key version signed.
        KeyUnusableError: The key version is not in an HSM.
    """
    answer = _decode("AsymmetricSign", body)
    _require_name("AsymmetricSign", key_id, answer)
    if answer.get("verifiedDigestCrc32c") is not True:
        raise _damaged("AsymmetricSign", "verifiedDigestCrc32c")
    try:
        signature = base64.b64decode(answer["signature"], validate=True)
    except (KeyError, TypeError, ValueError):
        raise _damaged("AsymmetricSign", "signature") from None
    if not _is_checksum(answer.get("signatureCrc32c"), signature):
        raise _damaged("AsymmetricSign", "signatureCrc32c")
    _require_hardware(answer)
    return signature


def read_public_key(key_id: KeyId, body: bytes) -> bytes:
    """
    Return the DER ``SubjectPublicKeyInfo`` of a GetPublicKey response.

    Raises:
        BackendUnavailableError: The response was damaged on the way.
        BackendError: It is another key version's.
        KeyUnusableError: The key version has another algorithm, or is not in an HSM.
        EncodingError: The PEM is not a public key.
    """
    answer = _decode("GetPublicKey", body)
    _require_name("GetPublicKey", key_id, answer)
    pem = answer.get("pem")
    if not isinstance(pem, str):
        raise _damaged("GetPublicKey", "pem")
    encoded = pem.encode("utf-8", "surrogatepass")
    if not _is_checksum(answer.get("pemCrc32c"), encoded):
        raise _damaged("GetPublicKey", "pemCrc32c")
    if answer.get("algorithm") != ALGORITHM:
        raise KeyUnusableError(f"the key version's algorithm is not {ALGORITHM}")
    _require_hardware(answer)
    try:
        key = load_pem_public_key(encoded)
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        problem = "Cloud KMS returned a PEM that is not a public key"
    raise EncodingError(problem)


def _decode(operation: str, body: bytes) -> Mapping[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise _damaged(operation, "JSON")
    return answer


def _require_name(operation: str, key_id: KeyId, answer: Mapping[str, Any]) -> None:
    if answer.get("name") != key_id:
        raise BackendError(f"Cloud KMS {operation}: another key version answered")


def _require_hardware(answer: Mapping[str, Any]) -> None:
    if answer.get("protectionLevel") not in _HARDWARE:
        raise KeyUnusableError("the key version's protection level is not HSM")


def _is_checksum(value: object, data: bytes) -> bool:
    """Return whether *value*, an int64 in JSON, is the checksum of *data*."""
    return value == str(crc32c(data))


def _damaged(operation: str, field: str) -> BackendUnavailableError:
    return BackendUnavailableError(_DAMAGED.format(operation, field))
