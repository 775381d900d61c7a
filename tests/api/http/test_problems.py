"""Every error of the core has one HTTP status, and shows no internal message."""

import json
from collections.abc import Iterator
from typing import Any

import falcon
import pytest

from api.http.problems import problem_of, problem_of_status
from signer import errors
from signer.errors import HotWalletError
from signer.ports.clock import utc_now


CANARY = "arn:aws:kms:eu-central-1:111122223333:key/canary"


def _tree(kind: type[HotWalletError]) -> Iterator[type[HotWalletError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def _make(kind: type[HotWalletError]) -> HotWalletError:
    extra: dict[type[HotWalletError], dict[str, Any]] = {
        errors.RateLimitedError: {"retry_after": 5},
        errors.OpenRefundsLimitError: {"retry_after": 5},
        errors.NewKeyUnhealthyError: {"reason": "backend-failed"},
        errors.PolicyViolationError: {"rule": "max-amount"},
        errors.BroadcastRejectedError: {"reason": "other"},
        errors.ApprovalRequiredError: {"digest": "0" * 64, "expires_at": utc_now()},
    }
    if kind is errors.ConfigurationError:
        return errors.ConfigurationError(errors.Refusal("x", CANARY))
    return kind(CANARY, **extra.get(kind, {}))


WAITING = (errors.RotationInProgressError,)

OURS = [kind for kind in _tree(HotWalletError) if kind.__module__ == errors.__name__]


STATUSES = {
    400: (
        "RequestError InvalidInputError ForeignAddressError ResultTooLargeError "
        "RequestSignatureError"
    ),
    401: "AuthenticationError",
    403: (
        "PermissionDeniedError UnknownTenantError TenantBlockedError SamePersonError "
        "UnidentifiedOperatorError"
    ),
    404: "NotFoundError",
    409: (
        "ConflictError IdempotencyMismatchError NonceUsedError "
        "RotationInProgressError NotCancellableError ApprovalRequiredError "
        "VaultOperatorMissingError"
    ),
    410: "CursorExpiredError",
    421: "NotThroughProxyError",
    422: "PolicyViolationError",
    429: "RateLimitedError OpenRefundsLimitError",
    500: (
        "SigningError EncodingError RecoveryError ChainError "
        "ExecutionRevertedError RevertedCallError BroadcastRejectedError "
        "MethodNotServedError "
        "ConfigurationError KeyNotExportableError TreasuryError HotWalletError"
    ),
    503: (
        "NewKeyUnhealthyError NewKeyNotFoundError KeyRotatedError "
        "SelfTestPendingError BackendError BackendUnavailableError "
        "BackendThrottledError AccessDeniedError PINRefusedError KeyNotFoundError "
        "AmbiguousKeyError KeyUnusableError KeyNotProtectedError LimitReachedError "
        "AuditLogUnwritableError AuditNotShippedError "
        "ChainUnavailableError InsufficientFundsError GasLimitError WalletPausedError "
        "SigningStoppedError TokenStoppedError FeesAboveRecentError "
        "TooManyInFlightError VaultLimitError "
        "StoreError StoreUnavailableError StaleStateError "
        "RowNotAuthenticError ScreeningUnavailableError"
    ),
}
EXPECTED = {
    name: status for status, names in STATUSES.items() for name in names.split()
}


@pytest.mark.parametrize("kind", OURS)
def test_each_class_has_its_status(kind: type[HotWalletError]) -> None:
    """A new class must be given a status on purpose."""
    assert problem_of(_make(kind)).status == EXPECTED[kind.__name__]


@pytest.mark.parametrize("kind", OURS)
def test_only_errors_of_the_request_show_their_message(
    kind: type[HotWalletError],
) -> None:
    document = problem_of(_make(kind)).to_bytes("req_1").decode()
    explained = issubclass(kind, errors.RequestError) and not issubclass(
        kind, errors.AuthenticationError
    )

    assert explained == (CANARY in document)


@pytest.mark.parametrize("kind", [*OURS, ValueError, KeyError, MemoryError])
def test_429_and_503_have_retry_after(kind: type[Exception]) -> None:
    """So do conflicts with a request or a rotation in progress."""
    error = _make(kind) if issubclass(kind, HotWalletError) else kind(CANARY)
    problem = problem_of(error)
    comes_later = problem.status in {429, 503} or kind in WAITING

    assert comes_later == ("Retry-After" in problem.headers)


def test_an_unknown_exception_is_an_internal_error() -> None:
    """H19: the answer has the request's id."""
    document = json.loads(problem_of(ValueError(CANARY)).to_bytes("req_1"))

    assert document == {
        "type": "/problems/internal-error",
        "title": "Internal error",
        "status": 500,
        "code": "internal-error",
        "request_id": "req_1",
    }


def test_problems_name_field_and_rule() -> None:
    field = problem_of(errors.InvalidInputError("must be text", field="amount"))
    rule = problem_of(errors.PolicyViolationError("too much", rule="max-amount"))

    assert field.members == {"field": "amount"}
    assert rule.members == {"rule": "max-amount"}


def test_challenges() -> None:
    """RFC 6750: no error code without a token, invalid_token with a bad one."""
    none = problem_of(errors.AuthenticationError("no-token")).headers
    bad = problem_of(errors.AuthenticationError("token-expired")).headers
    weak = problem_of(errors.PermissionDeniedError("this needs a role")).headers

    assert none["WWW-Authenticate"] == 'Bearer realm="hotwallet"'
    assert bad["WWW-Authenticate"].endswith('error="invalid_token"')
    assert weak["WWW-Authenticate"].endswith('error="insufficient_scope"')


def test_messages_of_falcon_are_dropped() -> None:
    """Its headers are kept."""
    problem = problem_of(
        falcon.HTTPMethodNotAllowed(["GET"], description=CANARY, title=CANARY)
    )

    assert problem.headers == {"Allow": "GET"}
    assert CANARY not in problem.to_bytes("req_1").decode()


def test_an_unknown_status_is_an_internal_error() -> None:
    assert problem_of_status(418).status == 500
