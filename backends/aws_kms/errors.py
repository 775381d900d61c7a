"""
Maps boto3's errors to the errors of ``signer.errors``.

KMS's messages contain accounts, roles, keys and endpoints.  Our errors have a code from
the list below, the HTTP status, and the request id for a search in CloudTrail.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from botocore.exceptions import (  # type: ignore[import-untyped]
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, the base of its connection errors.
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyUnusableError,
)


_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_CODES: Mapping[type[BackendError], str] = {
    BackendUnavailableError: (
        "DependencyTimeoutException InternalFailure InternalServerError"
        " KMSInternalException KeyUnavailableException PriorRequestNotComplete"
        " RequestTimeout RequestTimeoutException ServiceUnavailable"
        " ServiceUnavailableException"
    ),
    BackendThrottledError: (
        "RequestLimitExceeded RequestThrottled RequestThrottledException SlowDown"
        " ThrottledException Throttling ThrottlingException TooManyRequestsException"
    ),
    AccessDeniedError: (
        "AccessDenied AccessDeniedException ExpiredToken ExpiredTokenException"
        " IncompleteSignature IncompleteSignatureException InvalidClientTokenId"
        " InvalidGrantTokenException InvalidIdentityToken InvalidSignatureException"
        " MissingAuthenticationToken MissingAuthenticationTokenException"
        " NotAuthorized OptInRequired RequestExpired SignatureDoesNotMatch"
        " UnrecognizedClientException"
    ),
    KeyNotFoundError: "InvalidArnException NotFoundException",
    KeyUnusableError: (
        "DisabledException InvalidKeyUsageException KMSInvalidStateException"
        " UnsupportedOperationException"
    ),
    # Listed so that their names may be shown; there is no more specific class.
    BackendError: (
        "DryRunOperationException LimitExceededException"
        " MalformedPolicyDocumentException TagException ValidationException"
    ),
}
_ERRORS: Mapping[str, type[BackendError]] = {
    code: error for error, codes in _CODES.items() for code in codes.split()
}
_STATUSES: Mapping[int, type[BackendError]] = {
    HTTPStatus.UNAUTHORIZED: AccessDeniedError,
    HTTPStatus.FORBIDDEN: AccessDeniedError,
    HTTPStatus.TOO_MANY_REQUESTS: BackendThrottledError,
}
_UNAVAILABLE = (
    ConnectionError,
    HTTPClientError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    # The response is cut off, or does not come from KMS.
    ResponseParserError,
    KeyError,
    TypeError,
    ValueError,
)
_DENIED = (
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)


def map_error(operation: str, error: Exception, attempts: int = 1) -> BackendError:
    """Return our error for boto3's *error*, without its message."""
    if isinstance(error, ClientError):
        return _map_response(operation, error.response)
    kind = BackendError
    if isinstance(error, _UNAVAILABLE):
        kind = BackendUnavailableError
    elif isinstance(error, _DENIED):
        kind = AccessDeniedError
    failure = kind(f"KMS {operation} got no usable response ({type(error).__name__})")
    failure.attempts = attempts
    return failure


def request_id(metadata: Mapping[str, Any]) -> str | None:
    """Return the request id from ``ResponseMetadata``, if it is a UUID."""
    value = str(metadata.get("RequestId"))
    return value if _UUID.fullmatch(value) else None


def count_attempts(metadata: Mapping[str, Any]) -> int:
    """Return how many requests botocore sent until it had this response."""
    retries = metadata.get("RetryAttempts", 0)
    return 1 + retries if isinstance(retries, int) else 1


def retry_after(error: Exception) -> float:
    """Return the pause in seconds that KMS asks for with *error*, or 0."""
    if not isinstance(error, ClientError):
        return 0.0
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    milliseconds = str(headers.get("x-amz-retry-after", ""))
    return int(milliseconds) / 1000 if milliseconds.isdecimal() else 0.0


def _map_response(operation: str, response: Mapping[str, Any]) -> BackendError:
    # A broken service may send a number or a list as the code.
    code = str(response.get("Error", {}).get("Code"))
    metadata = response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode", 0)
    unavailable = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    by_status = BackendUnavailableError if unavailable else _STATUSES.get(status)
    kind = _ERRORS.get(code) or by_status or BackendError
    name = code if code in _ERRORS else "an unlisted error"
    request = request_id(metadata)
    summary = f"{name}, HTTP {status:d}, request {request or 'unknown'}"
    failure = kind(f"KMS {operation} failed: {summary}")
    failure.request_id, failure.attempts = request, count_attempts(metadata)
    return failure
