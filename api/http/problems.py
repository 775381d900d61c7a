"""
Turns errors into problem documents (RFC 9457).

The core's errors know no HTTP status; one table here maps each class to one.  Messages
about the caller's own mistakes are passed on.  Internal errors are reported by their
code only; the log has the details under the same request id.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import falcon
import structlog
from falcon import Request, Response

from api.auth.jwt_verifier import NO_TOKEN
from api.request_context import request_id
from api.views.problems import ProblemDocument
from api.views.values import timestamp
from signer import errors
from signer.errors import HotWalletError
from signer.redact import sanitize


MEDIA_TYPE = "application/problem+json"

_log = structlog.get_logger("api.http.problems")

_CHALLENGE = 'Bearer realm="hotwallet"'
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class _Row:
    """How a class is answered; without a *detail*, with the error's message."""

    status: int
    detail: str | None = None
    retry_after: int | None = None


_BEARER = "A valid bearer token is required."
_OLD_KEY = "The old key goes on serving."
_DEVICE = "The signing device cannot be used at the moment."
_NO_SIGNATURE = "The device's answer is no valid signature; nothing was signed."
_LOG = "The audit log cannot be written, so nothing is signed."
_HANGING = "Earlier self-tests of this key have not ended: its device hangs. Try again."
_CHAIN = "The network's nodes do not answer at the moment."
_SCREENING = "Recipients cannot be screened at the moment."
_STORE = "The database does not answer at the moment."
_STALE = "Another process changed it first. Try again."
_REFUSING = "The database refused the operation; an operator must repair it."

# The nearest base class counts.  Any other error is answered 500 without details.
_TABLE: dict[type[Exception], _Row] = {
    errors.RequestError: _Row(400),
    errors.InvalidInputError: _Row(400),
    errors.AuthenticationError: _Row(_UNAUTHORIZED, _BEARER),
    errors.RequestSignatureError: _Row(400),
    errors.PermissionDeniedError: _Row(_FORBIDDEN),
    errors.NotFoundError: _Row(404),
    errors.NotThroughProxyError: _Row(421),
    errors.ConflictError: _Row(409),
    errors.CursorExpiredError: _Row(410),
    errors.RotationInProgressError: _Row(409, retry_after=5),
    errors.RateLimitedError: _Row(429),
    errors.PolicyViolationError: _Row(422),
    errors.SigningError: _Row(_SERVER_ERROR, _NO_SIGNATURE),
    errors.ScreeningUnavailableError: _Row(503, _SCREENING, retry_after=30),
    errors.NewKeyUnhealthyError: _Row(503, _OLD_KEY, retry_after=5),
    errors.SelfTestPendingError: _Row(503, _HANGING, retry_after=5),
    errors.AuditLogUnwritableError: _Row(503, _LOG, retry_after=5),
    errors.BackendError: _Row(503, _DEVICE, retry_after=30),
    errors.BackendUnavailableError: _Row(503, _DEVICE, retry_after=5),
    errors.BackendThrottledError: _Row(503, _DEVICE, retry_after=5),
    errors.ChainUnavailableError: _Row(503, _CHAIN, retry_after=5),
    errors.InsufficientFundsError: _Row(503, "The wallet lacks funds.", retry_after=30),
    errors.LimitReachedError: _Row(503, "A spending limit is reached.", retry_after=30),
    errors.GasLimitError: _Row(503, "The transfer needs too much gas.", retry_after=30),
    errors.FeesAboveRecentError: _Row(503, "Fees are too high.", retry_after=30),
    errors.TooManyInFlightError: _Row(
        503, "Too many transactions of the wallet have no receipt.", retry_after=5
    ),
    errors.VaultLimitError: _Row(
        503, "The vault's limits do not permit it now.", retry_after=30
    ),
    errors.SigningStoppedError: _Row(503, "Signing is stopped.", retry_after=30),
    errors.TokenStoppedError: _Row(503, "The token is stopped.", retry_after=30),
    errors.WalletPausedError: _Row(503, "The wallet is paused.", retry_after=30),
    errors.StoreError: _Row(503, _REFUSING, retry_after=30),
    errors.StoreUnavailableError: _Row(503, _STORE, retry_after=5),
    errors.StaleStateError: _Row(503, _STALE, retry_after=1),
}

# Errors of the framework and the server.  Their own messages may quote the request, so
# these are used instead.
_HTTP: dict[int, tuple[str, str]] = {
    400: ("bad-request", "The request is malformed."),
    404: ("not-found", "There is nothing at this path: GET /docs lists the paths."),
    405: ("method-not-allowed", "The header Allow lists the methods of this path."),
    408: ("request-timeout", "The request did not arrive in time."),
    413: ("body-too-large", "A body has at most 16384 bytes, a batch 1048576."),
    414: ("uri-too-long", "The request line is too long."),
    415: (
        "unsupported-media-type",
        "Send application/json in UTF-8, without a content coding.",
    ),
    417: ("expectation-failed", "Expect may be 100-continue only."),
    431: ("headers-too-large", "The header has too many fields, or too long ones."),
    501: ("unsupported-transfer-coding", "Transfer-Encoding may be chunked only."),
}

# Errors of the proxy (docker/nginx.conf), which has most codes of the service as well.
_PROXY = {"bad-gateway": 502, "proxy-overloaded": 503, "gateway-timeout": 504}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as the caller sees it: a status, a document and headers."""

    status: int
    code: str
    detail: str | None = None
    members: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self, request_id: str) -> bytes:
        """Return the JSON document, one object."""
        return json.dumps(self.document(request_id)).encode()

    def document(self, request_id: str) -> dict[str, Any]:
        """Return the document, without the members that have no value."""
        shown: dict[str, Any] = {**self.members}
        if self.detail is not None:
            shown["detail"] = self.detail
        return ProblemDocument(
            type=f"/problems/{self.code}",
            title=self.code.replace("-", " ").capitalize(),
            status=self.status,
            code=self.code,
            request_id=request_id,
            **shown,
        ).dump()


_INTERNAL = Problem(_SERVER_ERROR, "internal-error")


def problem_of(error: Exception) -> Problem:
    if isinstance(error, falcon.HTTPError):
        return problem_of_status(error.status_code, error.headers)
    row = _find_row(type(error))
    if row is None or not isinstance(error, HotWalletError):
        return _INTERNAL
    return Problem(
        row.status,
        error.code,
        str(error) if row.detail is None else row.detail,
        members=_members(error),
        headers=_headers(error, row),
    )


def problem_of_status(
    status: int, headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None
) -> Problem:
    """Return the answer to an error of which only the HTTP *status* is known."""
    if status not in _HTTP:
        return _INTERNAL
    code, detail = _HTTP[status]
    return Problem(status, code, detail, headers=dict(headers or {}))


@cache
def code_statuses() -> Mapping[str, int]:
    """Return the HTTP status of each code that an error of the API may have."""
    codes = {code: status for status, (code, _) in _HTTP.items()}
    codes |= {_INTERNAL.code: _INTERNAL.status, **_PROXY}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, HotWalletError):
            row = _find_row(kind)
            if row is not None:
                codes[kind.code] = row.status
    return codes


def report(problem: Problem, error: Exception) -> None:
    """Log *error* if *problem*, the answer to it, does not have its details."""
    if problem.status >= _SERVER_ERROR:
        _log.error("request-failed", code=problem.code, exc_info=error)


def install(app: "falcon.App[Request, Response]") -> None:
    """Make *app* answer every error with a problem document."""
    # Replace Falcon's own handlers, which it has for these two classes.
    app.add_error_handler((Exception, falcon.HTTPError), respond)


def respond(
    req: Request, resp: Response, error: Exception, params: dict[str, Any]
) -> None:
    """Answer *error* with a problem document."""
    problem = problem_of(error)
    report(problem, error)
    if isinstance(error, errors.AuthenticationError):
        # The reason is logged; the caller must not learn which check failed.
        req.context.refusal = str(error)
    resp.status = problem.status
    resp.content_type = MEDIA_TYPE
    resp.data = problem.to_bytes(request_id(req))
    resp.set_headers(problem.headers)


def _find_row(kind: type[Exception]) -> _Row | None:
    """Return the row of the nearest base class of *kind*, if one has a row."""
    return next((_TABLE[each] for each in kind.__mro__ if each in _TABLE), None)


def _members(error: HotWalletError) -> dict[str, str]:
    match error:
        case errors.NewKeyUnhealthyError(reason=reason):
            message = sanitize(str(error))
            return {"error": "new key unhealthy", "message": message, "reason": reason}
        case errors.InvalidInputError(field=str(field)):
            return {"field": field}
        case errors.PolicyViolationError(rule=rule):
            return {"rule": rule}
        case errors.ApprovalRequiredError(digest=digest, expires_at=expires_at):
            return {"digest": digest, "expires_at": timestamp(expires_at)}
        case errors.ConflictError(refund_id=str(refund_id)):
            return {"refund_id": refund_id}
    return {}


def _headers(error: HotWalletError, row: _Row) -> dict[str, str]:
    headers = {}
    retry_after = getattr(error, "retry_after", row.retry_after)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if isinstance(error, errors.RequestSignatureError):
        headers["Accept-Signature"] = error.accept  # RFC 9421, section 5.1.
    # RFC 6750, section 3.1: no error code where no token was sent.
    if row.status == _UNAUTHORIZED and str(error) == NO_TOKEN:
        headers["WWW-Authenticate"] = _CHALLENGE
    elif row.status == _UNAUTHORIZED:
        headers["WWW-Authenticate"] = f'{_CHALLENGE}, error="invalid_token"'
    elif type(error) is errors.PermissionDeniedError:
        headers["WWW-Authenticate"] = f'{_CHALLENGE}, error="insufficient_scope"'
    return headers
