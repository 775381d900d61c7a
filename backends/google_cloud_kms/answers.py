"""
Reads the answers of Cloud KMS, and refuses those that were damaged or mixed up.

Google asks clients to compare the checksums (CRC32C, RFC 3720) of everything that they
send and receive, and the name of the key version
(https://docs.cloud.google.com/kms/docs/data-integrity-guidelines).
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import google_crc32c
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from backends.http_client import Response
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    EncodingError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports.key_backend import KeyId


# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_STATUSES: Mapping[str, type[BackendError]] = {
    "ABORTED": BackendUnavailableError,
    "CANCELLED": BackendUnavailableError,
    "DATA_LOSS": BackendUnavailableError,
    "DEADLINE_EXCEEDED": BackendUnavailableError,
    "FAILED_PRECONDITION": KeyUnusableError,
    "INTERNAL": BackendUnavailableError,
    "INVALID_ARGUMENT": BackendError,
    "NOT_FOUND": KeyNotFoundError,
    "PERMISSION_DENIED": AccessDeniedError,
    "RESOURCE_EXHAUSTED": BackendThrottledError,
    "UNAUTHENTICATED": AccessDeniedError,
    "UNAVAILABLE": BackendUnavailableError,
    "UNIMPLEMENTED": BackendError,
    "UNKNOWN": BackendUnavailableError,
}
_HTTP_STATUSES: Mapping[int, type[BackendError]] = {
    HTTPStatus.UNAUTHORIZED: AccessDeniedError,
    HTTPStatus.FORBIDDEN: AccessDeniedError,
    HTTPStatus.TOO_MANY_REQUESTS: BackendThrottledError,
}
# Of google.rpc.ErrorInfo and google.rpc.PreconditionFailure, which name what to repair.
_REASONS = frozenset(
    {
        "ACCESS_TOKEN_EXPIRED",
        "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        "ACCESS_TOKEN_TYPE_UNSUPPORTED",
        "BILLING_DISABLED",
        "CREDENTIALS_MISSING",
        "IAM_PERMISSION_DENIED",
        "KEY_DESTROYED",
        "KEY_DISABLED",
        "KEY_PENDING_GENERATION",
        "RATE_LIMIT_EXCEEDED",
        "SECURITY_POLICY_VIOLATED",
        "SERVICE_DISABLED",
    }
)
_DELAY = re.compile(r"(\d{1,6}(?:\.\d{1,9})?)s")


def map_response(operation: str, response: Response) -> BackendError:
    """Return our error for *response*, which has an error status."""
    status, details = _read_status(response)
    name = status if status in _STATUSES else "an unlisted error"
    reasons = [each for each in _reasons(details) if each in _REASONS]
    summary = " ".join([name, *dict.fromkeys(reasons)])
    return _kind(status, response.status)(
        f"Cloud KMS {operation} failed: {summary}, HTTP {response.status:d}"
    )


def retry_delay(response: Response) -> float:
    """Return the pause in seconds that *response* asks for, or 0."""
    _, details = _read_status(response)
    delays = [str(each.get("retryDelay", "")) for each in details]
    found = [match for match in map(_DELAY.fullmatch, delays) if match]
    header = response.retry_after or ""
    seconds = float(header) if header.isdecimal() else 0.0
    return max([seconds, *(float(match[1]) for match in found)])


def _kind(status: str, http_status: int) -> type[BackendError]:
    if status in _STATUSES:
        return _STATUSES[status]
    if http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return BackendUnavailableError
    return _HTTP_STATUSES.get(http_status, BackendError)


def _read_status(response: Response) -> tuple[str, list[Mapping[str, Any]]]:
    """Return the status and the details; a proxy's answer has neither."""
    try:
        error = json.loads(response.body)["error"]
        details = error.get("details", [])
        found: list[Mapping[str, Any]] = [
            each for each in details if isinstance(each, dict)
        ]
        return str(error["status"]), found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", []


def _reasons(details: list[Mapping[str, Any]]) -> Iterator[str]:
    for detail in details:
        yield str(detail.get("reason"))
        violations = detail.get("violations", [])
        for each in violations if isinstance(violations, list) else []:
            if isinstance(each, dict):
                yield str(each.get("type"))


ALGORITHM = "EC_SIGN_SECP256K1_SHA256"

_HARDWARE = {"HSM", "HSM_SINGLE_TENANT"}
"""Google offers the curve with these protection levels only
(https://docs.cloud.google.com/kms/docs/algorithms)."""

_DAMAGED = "Cloud KMS {}: the answer is damaged ({})"


def crc32c(data: bytes) -> int:
    """Return the CRC32C checksum of *data* (RFC 3720, appendix B.4)."""
    return int(google_crc32c.value(data))


def sign_request(digest: bytes) -> bytes:
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
