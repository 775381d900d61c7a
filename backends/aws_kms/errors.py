"""
What boto3 raises, as errors of our own tree.

KMS's words name accounts, roles, keys and endpoints.  What crosses is a code from
the list below, the HTTP status, and the request id that CloudTrail knows.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
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
    # Known, so that their names may be shown, and of no better class.
    BackendError: (
        "DryRunOperationException LimitExceededException"
        " MalformedPolicyDocumentException TagException ValidationException"
    ),
}
_ERRORS: Mapping[str, type[BackendError]] = MappingProxyType(
    {code: error for error, codes in _CODES.items() for code in codes.split()}
)
_STATUSES: Mapping[int, type[BackendError]] = MappingProxyType(
    {
        HTTPStatus.UNAUTHORIZED: AccessDeniedError,
        HTTPStatus.FORBIDDEN: AccessDeniedError,
        HTTPStatus.TOO_MANY_REQUESTS: BackendThrottledError,
    }
)
_UNAVAILABLE = (
    ConnectionError,
    HTTPClientError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    # Garbage where an answer should be: cut off, or not from KMS at all.
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


def translated(operation: str, error: Exception, most: int = 1) -> BackendError:
    """
    Return our error for boto3's: its kind, and nothing that it says.

    *most* is how often it may have asked before it gave up without an answer.
    """
    if isinstance(error, ClientError):
        return _refused(operation, error.response)
    kind = BackendError
    if isinstance(error, _UNAVAILABLE):
        kind = BackendUnavailableError
    elif isinstance(error, _DENIED):
        kind = AccessDeniedError
    failure = kind(f"KMS {operation} got no usable answer ({type(error).__name__})")
    failure.attempts = most
    return failure


def request_id(metadata: Mapping[str, Any]) -> str | None:
    """Return KMS's name for the call from ``ResponseMetadata``, if it is a UUID."""
    value = str(metadata.get("RequestId"))
    return value if _UUID.fullmatch(value) else None


def attempts(metadata: Mapping[str, Any]) -> int:
    """Return how often botocore asked until it had this answer."""
    retries = metadata.get("RetryAttempts", 0)
    return 1 + retries if isinstance(retries, int) else 1


def _refused(operation: str, response: Mapping[str, Any]) -> BackendError:
    """Return our error for a KMS error *response*."""
    # A broken service may name its error by a number or a list.
    code = str(response.get("Error", {}).get("Code"))
    metadata = response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode", 0)
    kind = _ERRORS.get(code) or _by_status(status)
    name = code if code in _ERRORS else "an unlisted error"
    asked = request_id(metadata)
    failure = kind(
        f"KMS {operation} failed: {name}, HTTP {status:d}, request {asked or 'unknown'}"
    )
    failure.request_id, failure.attempts = asked, attempts(metadata)
    return failure


def _by_status(status: int) -> type[BackendError]:
    """Return our error for an answer whose code we do not know."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return BackendUnavailableError
    return _STATUSES.get(status, BackendError)
