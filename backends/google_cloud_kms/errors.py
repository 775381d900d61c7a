"""
Maps the errors of Google's APIs to the errors of ``signer.errors``.

An error is a ``google.rpc.Status`` in JSON (https://google.aip.dev/193).  Its message
has projects, keys and service accounts.  Our errors have its status, and its reason if
both are in the lists below, and the HTTP status.
"""

import json
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from backends.http_client import Response
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyUnusableError,
)


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
