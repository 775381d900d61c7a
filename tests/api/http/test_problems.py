"""Every error of the core has one HTTP answer, and says no more than it should."""

import json
from collections.abc import Iterator
from typing import Any

import falcon
import pytest

from api.http.problems import problem_of, problem_of_status
from signer import errors
from signer.errors import HotWalletError


CANARY = "arn:aws:kms:eu-central-1:111122223333:key/canary"


def _tree(kind: type[HotWalletError]) -> Iterator[type[HotWalletError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def _make(kind: type[HotWalletError]) -> HotWalletError:
    extra: dict[type[HotWalletError], dict[str, Any]] = {
        errors.RateLimitedError: {"retry_after": 5},
        errors.NewKeyUnhealthyError: {"reason": "backend-failed"},
        errors.PolicyViolationError: {"rule": "max-amount"},
        errors.BroadcastRejectedError: {"reason": "other"},
    }
    if kind is errors.ConfigurationError:
        return errors.ConfigurationError(errors.Refusal("x", CANARY))
    return kind(CANARY, **extra.get(kind, {}))


WAITING = (errors.InProgressError, errors.RotationInProgressError)

OURS = [kind for kind in _tree(HotWalletError) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.RequestError, 400),
        (errors.InvalidInputError, 400),
        (errors.PolicyViolationError, 422),
        (errors.AuthenticationError, 401),
        (errors.PermissionDeniedError, 403),
        (errors.NotThroughProxyError, 421),
        (errors.NotFoundError, 404),
        (errors.ConflictError, 409),
        (errors.IdempotencyMismatchError, 409),
        (errors.InProgressError, 409),
        (errors.RotationInProgressError, 409),
        (errors.RateLimitedError, 429),
        (errors.NewKeyUnhealthyError, 503),
        (errors.NewKeyNotFoundError, 503),
        (errors.KeyRotatedError, 503),
        (errors.NotCancellableError, 409),
        (errors.SigningError, 500),
        (errors.EncodingError, 500),
        (errors.RecoveryError, 500),
        (errors.SelfTestPendingError, 503),
        (errors.BackendError, 503),
        (errors.BackendUnavailableError, 503),
        (errors.BackendThrottledError, 503),
        (errors.AccessDeniedError, 503),
        (errors.KeyNotFoundError, 503),
        (errors.AmbiguousKeyError, 503),
        (errors.KeyUnusableError, 503),
        (errors.LimitReachedError, 503),
        (errors.ChainError, 500),
        (errors.ChainUnavailableError, 503),
        (errors.ExecutionRevertedError, 500),
        (errors.InsufficientFundsError, 503),
        (errors.GasLimitError, 503),
        (errors.WalletPausedError, 503),
        (errors.BroadcastRejectedError, 500),
        (errors.StoreError, 503),
        (errors.StoreUnavailableError, 503),
        (errors.StaleStateError, 503),
        (errors.ConfigurationError, 500),
        (HotWalletError, 500),
    ],
)
def test_each_class_has_its_status(kind: type[HotWalletError], status: int) -> None:
    """The table answers for every class of the tree."""
    assert status == problem_of(_make(kind)).status


def test_the_table_above_is_complete() -> None:
    """A class that joins the tree must be given a status on purpose."""
    (mark,) = test_each_class_has_its_status.pytestmark  # type: ignore[attr-defined]

    assert set(OURS) == {kind for kind, _ in mark.args[1]}


@pytest.mark.parametrize("kind", OURS)
def test_inner_words_stay_inside(kind: type[HotWalletError]) -> None:
    """Only what the caller did wrong is explained in the error's own words."""
    document = problem_of(_make(kind)).to_bytes("req_1").decode()
    explained = issubclass(kind, errors.RequestError) and not issubclass(
        kind, errors.AuthenticationError
    )

    assert explained == (CANARY in document)


@pytest.mark.parametrize("kind", [*OURS, ValueError, KeyError, MemoryError])
def test_unavailable_means_later(kind: type[Exception]) -> None:
    """429 and 503 come with Retry-After, and of the rest what is under way."""
    error = _make(kind) if issubclass(kind, HotWalletError) else kind(CANARY)
    problem = problem_of(error)
    comes_later = problem.status in {429, 503} or kind in WAITING

    assert comes_later == ("Retry-After" in problem.headers)


def test_an_unknown_exception_says_nothing() -> None:
    """H19: the answer has the request's id, for whoever may read the log."""
    document = json.loads(problem_of(ValueError(CANARY)).to_bytes("req_1"))

    assert document == {
        "type": "/problems/internal-error",
        "title": "Internal error",
        "status": 500,
        "code": "internal-error",
        "request_id": "req_1",
    }


def test_problems_name_field_and_rule() -> None:
    """What a machine needs to react stands in members of its own."""
    field = problem_of(errors.InvalidInputError("must be text", field="amount"))
    rule = problem_of(errors.PolicyViolationError("too much", rule="max-amount"))

    assert field.members == {"field": "amount"}
    assert rule.members == {"rule": "max-amount"}


def test_the_challenge_tells_apart_nothing_but_none_and_bad() -> None:
    """RFC 6750: no error code without a token, invalid_token with a bad one."""
    none = problem_of(errors.AuthenticationError("no-token")).headers
    bad = problem_of(errors.AuthenticationError("token-expired")).headers
    weak = problem_of(errors.PermissionDeniedError("this needs a role")).headers

    assert none["WWW-Authenticate"] == 'Bearer realm="hotwallet"'
    assert bad["WWW-Authenticate"].endswith('error="invalid_token"')
    assert weak["WWW-Authenticate"].endswith('error="insufficient_scope"')


def test_falcons_words_are_replaced() -> None:
    """The framework's descriptions may quote the request; its headers are kept."""
    problem = problem_of(
        falcon.HTTPMethodNotAllowed(["GET"], description=CANARY, title=CANARY)
    )

    assert problem.headers == {"Allow": "GET"}
    assert CANARY not in problem.to_bytes("req_1").decode()


def test_a_status_nobody_thought_of_is_our_fault() -> None:
    """Whatever is not in the table is an internal error, not a riddle."""
    assert problem_of_status(418).status == 500
