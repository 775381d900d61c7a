"""
Calls of Cloud KMS's REST API, each within a deadline and with few attempts.

A call waits for its turn of the rate limit and for a slot, then sends.  It is repeated
if the error may pass.  While Cloud KMS answers no call, calls fail at once.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Generic, NamedTuple, TypeVar

from pydantic import SecretStr

from backends.circuit_breaker import CircuitBreaker
from backends.concurrency import AdaptiveSemaphore
from backends.google_cloud_kms.access_tokens import AccessTokens
from backends.google_cloud_kms.answers import map_response, retry_delay
from backends.http_client import TOO_SLOW, ExchangeError, HTTPClient, Response
from backends.rate_limit import TokenBucket
from signer.deadline import Deadlines
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
)


T = TypeVar("T")

_MAX_BYTES = 64 * 1024
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_SHORTEST_ATTEMPT = 0.2
"""The shortest attempt, in seconds, that is worth starting."""

_TOO_MANY = (
    "too many calls wait for Cloud KMS already; GOOGLE_CLOUD_KMS_SIGNATURES_PER_SECOND,"
    " GOOGLE_CLOUD_KMS_MAX_CONCURRENCY or the latency of Cloud KMS limits them"
)


class ClientLimits(NamedTuple):
    """
    What one client may do.

    ``seconds`` is for a whole call of at most ``attempts`` attempts.  At most
    ``concurrency`` requests are in flight, and ``per_second`` begin in a second; 0 is
    any number.
    """

    seconds: float
    attempts: int
    concurrency: int
    per_second: float = 0

    @property
    def attempt(self) -> float:
        """The longest duration of one attempt, in seconds: there is time for two."""
        return self.seconds * (0.9 if self.attempts == 1 else 0.45)


class Request(NamedTuple):
    """One call: its name in errors, and its HTTP request below the endpoint."""

    operation: str
    method: str
    path: str
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """What was read from an answer, and how many requests it took."""

    value: T
    attempts: int
    throttled: int


class _LateError(BackendUnavailableError):
    """An attempt got no answer in time."""


class KMSClient:
    """
    Calls *endpoint*, ``https://cloudkms.googleapis.com``, with an access token.

    Threads share an instance; processes must not.
    """

    def __init__(
        self,
        endpoint: str,
        tokens: AccessTokens,
        limits: ClientLimits,
        *,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._tokens = tokens
        self._limits = limits
        self._timer = timer
        self._sleep = sleep
        self._http = HTTPClient(
            SecretStr(endpoint),
            timeout=limits.attempt,
            headers={"Content-Type": "application/json"},
            max_bytes=_MAX_BYTES,
        )
        # Bounds what HTTPClient does not: name resolution, and hosts with many
        # addresses, such as Google's.
        self._deadlines = Deadlines(per_subject=2 * limits.concurrency)
        self._turns = TokenBucket(limits.per_second, timer)
        self._slots = AdaptiveSemaphore(limits.concurrency)
        self._breaker = CircuitBreaker(limits.attempt, timer)
        self._answered = -math.inf

    @property
    def concurrency(self) -> int:
        """How many calls are sent at once, at the moment."""
        return self._slots.limit

    def call(self, request: Request, read: Callable[[bytes], T]) -> Reply[T]:
        """
        Return what *read* makes of the body of the answer to *request*.

        An answer that *read* refuses with a retryable error is asked for again.

        Raises:
            BackendThrottledError: Google's quota or this process's limit is exceeded.
            BackendUnavailableError: Cloud KMS does not answer.
            SigningError: Cloud KMS, or *read*, refuses.
        """
        if not self._breaker.admits():
            raise _unsent(
                BackendUnavailableError("Cloud KMS does not answer at present")
            )
        end = self._timer() + self._limits.seconds
        attempts = throttled = 0
        error: BackendError = _unsent(BackendThrottledError(_TOO_MANY))
        while self._wait_for_turn(end):
            attempts += 1
            response = None
            try:
                response = self._send(request, end)
                return Reply(self._judge(request, response, read), attempts, throttled)
            except BackendError as e:
                error = e
            is_throttled = isinstance(error, BackendThrottledError)
            throttled += is_throttled
            self._turns.record(is_throttled=is_throttled)
            error.attempts, error.throttled = attempts, throttled
            if not self._may_retry(error, response, end):
                break
        raise error

    def close(self) -> None:
        """Close the idle connections."""
        self._http.__exit__()
        self._tokens.close()

    def _wait_for_turn(self, end: float) -> bool:
        """Wait for a turn and a slot; return whether an attempt fits before *end*."""
        latest = end - _SHORTEST_ATTEMPT
        wait = self._turns.reserve(latest - self._timer())
        if wait is None:
            return False
        if wait:
            self._sleep(wait)
        return self._slots.acquire(latest - self._timer())

    def _send(self, request: Request, end: float) -> Response:
        began = self._timer()
        seconds = None
        left = min(self._limits.attempt, end - began)
        try:
            response = self._deadlines.within(
                left,
                partial(self._exchange, request, left),
                name="google-cloud-kms",
                late=_LateError,
            )
            if response.status == HTTPStatus.OK:
                seconds = self._timer() - began
        except _LateError:
            # If Cloud KMS answered other calls meanwhile, only this connection hangs.
            if self._answered < began:
                self._breaker.record_timeout()
            raise
        finally:
            self._slots.release(seconds)
        self._answered = self._timer()
        self._breaker.record_answer()
        return response

    def _exchange(self, request: Request, seconds: float) -> Response:
        """Send *request* once; this runs in a thread of its own."""
        end = self._timer() + seconds
        token = self._tokens.get()
        try:
            response = self._http.exchange(
                request.method,
                request.body,
                timeout=max(0.001, end - self._timer()),
                headers={"Authorization": f"Bearer {token}"},
                path=request.path,
            )
        except ExchangeError as e:
            kind = _LateError if e.reason == TOO_SLOW else BackendUnavailableError
            raise kind(
                f"Cloud KMS {request.operation} got no usable response ({e.reason})"
            ) from None
        if response.status == HTTPStatus.UNAUTHORIZED:
            self._tokens.forget(token)
        return response

    def _judge(
        self, request: Request, response: Response, read: Callable[[bytes], T]
    ) -> T:
        if response.status != HTTPStatus.OK:
            raise map_response(request.operation, response)
        value = read(response.body)
        self._turns.record(is_throttled=False)
        return value

    def _may_retry(
        self, error: BackendError, response: Response | None, end: float
    ) -> bool:
        """Pause and return True, if another attempt may help and fits."""
        is_stale_token = (
            isinstance(error, AccessDeniedError)
            and response is not None
            and response.status == HTTPStatus.UNAUTHORIZED
            and error.attempts == 1
        )
        may_help = error.retryable or is_stale_token
        if not may_help or error.attempts >= self._limits.attempts:
            return False
        longest = min(_FIRST_PAUSE * 2**error.attempts, _LONGEST_PAUSE)
        drawn = random.uniform(0, longest)  # noqa: S311  Not a secret.
        pause = max(drawn, retry_delay(response) if response else 0.0)
        if self._timer() + pause + _SHORTEST_ATTEMPT > end:
            return False
        self._sleep(pause)
        return True


def _unsent(error: BackendError) -> BackendError:
    error.attempts = 0
    return error
