"""What can go wrong, and what to do about it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self

import httpx

from hotwallet_client.models import Refund


class HotWalletError(Exception):
    """The base class of the errors of this package."""


class Action(StrEnum):
    """What to do after an error."""

    CORRECT = "correct"
    AUTHENTICATE = "authenticate"
    ASK_OPERATOR = "ask-operator"
    LOOK_UP = "look-up"
    REPEAT = "repeat"

    @property
    def advice(self) -> str:
        """The same as a sentence."""
        return _ADVICE[self]


_ADVICE = {
    Action.CORRECT: "Correct the request; to repeat it does not help.",
    Action.AUTHENTICATE: "Get a new token.",
    Action.ASK_OPERATOR: "Ask the operator of the service, with the request_id.",
    Action.LOOK_UP: "Get or list the refund: its state does not allow this.",
    Action.REPEAT: "Repeat the request later, with the same Idempotency-Key.",
}

_BY_CODE = {
    "conflict": Action.LOOK_UP,
    "not-cancellable": Action.LOOK_UP,
    "cursor-expired": Action.LOOK_UP,
    "not-through-proxy": Action.ASK_OPERATOR,
    "unsupported-transfer-coding": Action.CORRECT,
}

_BY_STATUS = {
    401: Action.AUTHENTICATE,
    403: Action.ASK_OPERATOR,
    408: Action.REPEAT,
    429: Action.REPEAT,
}

_SERVER_ERROR = 500


class ApiError(HotWalletError):
    """
    The service refused a request with a problem document (RFC 9457).

    Decide by ``code``; ``url`` is a page that explains it.  ``action`` says what to do.
    """

    def __init__(
        self, status: int, problem: Mapping[str, Any], url: str | None = None
    ) -> None:
        self.status = status
        self.problem = dict(problem)
        """All members, also those that this version does not know."""
        self.code = str(problem.get("code") or f"http-{status}")
        self.detail = _text(problem, "detail")
        self.field = _text(problem, "field")
        """The field, parameter or header that is wrong."""
        self.rule = _text(problem, "rule")
        """The rule of the policy that refused."""
        self.refund_id = _text(problem, "refund_id")
        """The earlier refund that has the reference or the key."""
        self.request_id = _text(problem, "request_id")
        """Names this request in the service's log."""
        self.url = url
        super().__init__(status, problem, url)

    @classmethod
    def of(cls, response: httpx.Response) -> Self:
        """Return the error of a response, also of one without a problem document."""
        try:
            document = response.json()
        except ValueError:  # Of a proxy, perhaps.
            document = None
        problem = document if isinstance(document, dict) else {}
        page = problem.get("type")
        url = str(response.url.join(page)) if isinstance(page, str) else None
        return cls(response.status_code, problem, url)

    @property
    def action(self) -> Action:
        """What to do next."""
        if self.code in _BY_CODE:
            return _BY_CODE[self.code]
        if self.status >= _SERVER_ERROR:
            return Action.REPEAT
        return _BY_STATUS.get(self.status, Action.CORRECT)

    def __str__(self) -> str:
        parts = [self.code]
        parts += [f"{self.field or self.rule}"] if self.field or self.rule else []
        parts += [self.detail] if self.detail else []
        request = f" ({self.request_id})" if self.request_id else ""
        return f"{': '.join(parts)}{request}. {self.action.advice}"


class UnansweredError(HotWalletError):
    """
    There was no final answer until the deadline: whether the request acted is unknown.

    Repeat it later with the same ``idempotency_key``.  ``last`` is the last failure: an
    ``ApiError`` such as 503, or an error of the connection.
    """

    def __init__(self, last: Exception, idempotency_key: str | None = None) -> None:
        self.last = last
        self.idempotency_key = idempotency_key
        super().__init__(last, idempotency_key)

    def __str__(self) -> str:
        cause = str(self.last) or type(self.last).__name__
        key = f" {self.idempotency_key!r}" if self.idempotency_key else ""
        return (
            f"no final answer before the deadline, last: {cause.rstrip('.')}."
            f" Repeat the request later, with the same Idempotency-Key{key}."
        )


class NotFinalError(HotWalletError):
    """A refund was not final in time; ``refund`` is how it was then."""

    def __init__(self, refund: Refund) -> None:
        self.refund = refund
        super().__init__(refund)

    def __str__(self) -> str:
        return f"{self.refund['id']} is still {self.refund['status']}: wait again"


def _text(problem: Mapping[str, Any], name: str) -> str | None:
    value = problem.get(name)
    return value if isinstance(value, str) else None
