"""
Signs with KMS in one region, within a deadline, and without overloading it.

Each attempt needs a turn of the rate limit, below KMS's quota, and a slot of the
adaptive limit.  Retries end with the deadline, the number of attempts or the budget of
retries.  While KMS answers no call, calls fail at once.
"""

import json
import math
import random
import time
from base64 import b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from botocore.awsrequest import (  # type: ignore[import-untyped]
    AWSPreparedRequest,
    AWSRequest,
)
from botocore.exceptions import (  # type: ignore[import-untyped]
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, the base of its connection errors.
    ConnectTimeoutError,
    HTTPClientError,
    ReadTimeoutError,
)
from botocore.parsers import create_parser  # type: ignore[import-untyped]
from botocore.retries.quota import RetryQuota  # type: ignore[import-untyped]

from backends.aws_kms.client import read_client_parts
from backends.aws_kms.errors import map_error, request_id, retry_after
from backends.circuit_breaker import CircuitBreaker
from backends.concurrency import AdaptiveSemaphore
from backends.rate_limit import TokenBucket
from signer.errors import (
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
)
from signer.ports.key_backend import DeviceSignature, KeyId


if TYPE_CHECKING:
    from types_boto3_kms import KMSClient


_REDIRECT = 300


class SignResponse(NamedTuple):
    """A DER signature and the request's id."""

    der: bytes
    request_id: str | None


class SignCall:
    """Sends ``Sign`` as *client* would, once per call; threads share an instance."""

    def __init__(self, client: "KMSClient") -> None:
        self._parts = read_client_parts(client)
        self._parser = create_parser("json")
        self.deadline = self._parts.deadline

    def send(self, key_id: KeyId, digest: bytes) -> SignResponse:
        """
        Return KMS's signature over *digest*.

        It raises what boto3 raises: ``ClientError`` for an error of KMS,
        ``BotoCoreError`` if there is no response, ``ResponseParserError`` and
        ``KeyError`` if it is malformed.
        """
        body = {
            "KeyId": key_id,
            "Message": b64encode(digest).decode(),
            "MessageType": "DIGEST",  # Signed as given; RAW would hash it again.
            "SigningAlgorithm": "ECDSA_SHA_256",
        }
        response = self._parts.connections.send(self._signed(json.dumps(body).encode()))
        parsed = self._parser.parse(
            {
                "status_code": response.status_code,
                "headers": response.headers,
                "body": response.content,
            },
            self._parts.output,
        )
        if response.status_code >= _REDIRECT:
            raise ClientError(parsed, "Sign")
        return SignResponse(parsed["Signature"], request_id(parsed["ResponseMetadata"]))

    def _signed(self, body: bytes) -> AWSPreparedRequest:
        request = AWSRequest("POST", self._parts.url, self._parts.headers, body)
        self._parts.signer().add_auth(request)
        headers = dict(request.headers.items())
        return AWSPreparedRequest("POST", self._parts.url, headers, body, False)


_RETRY_COST, _SUCCESS_GAIN = 5, 3
"""Of a budget of 500: at most 100 retries, and 0.6 more for each signature."""

_TOO_MANY = (
    "too many signatures wait for KMS already; KMS_SIGNATURES_PER_SECOND,"
    " KMS_MAX_CONCURRENCY or the latency of KMS limits them"
)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_SENT_FAILURES = (ClientError, ConnectionError, HTTPClientError)
_TIMEOUTS = (ConnectTimeoutError, ReadTimeoutError)


class SigningClient:
    """
    Calls ``Sign`` as *client* would, but sends at most *per_second* requests.

    0 sends any number.  Threads share an instance.
    """

    def __init__(
        self,
        client: "KMSClient",
        per_second: float = 0,
        *,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._call = SignCall(client)
        self._deadline = self._call.deadline
        self._timer = timer
        self._sleep = sleep
        self._turns = TokenBucket(per_second, timer)
        self._slots = AdaptiveSemaphore(client.meta.config.max_pool_connections)
        self._retries = RetryQuota()
        self._breaker = CircuitBreaker(self._deadline.attempt, timer)
        self._answered = -math.inf

    @property
    def concurrency(self) -> int:
        """How many calls are sent at once, at the moment."""
        return self._slots.limit

    def sign(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        """
        Return KMS's signature over *digest*.

        Raises:
            BackendThrottledError: KMS's or this process's rate is exceeded.
            BackendUnavailableError: KMS does not answer.
            BackendError: KMS refuses.
        """
        if not self._breaker.admits():
            raise _unsent(BackendUnavailableError("KMS does not answer at present"))
        latest = self._timer() + self._deadline.patience
        attempts = throttled = 0
        error: BackendError = _unsent(BackendThrottledError(_TOO_MANY))
        while self._wait_for_turn(latest):
            attempts += 1
            try:
                answer = self._attempt(key_id, digest)
            except Exception as e:  # noqa: BLE001  No vendor's error leaves this class.
                failure = e
            else:
                self._retries.release(_SUCCESS_GAIN)
                self._turns.record(is_throttled=False)
                return DeviceSignature(
                    answer.der, answer.request_id, attempts, throttled
                )
            error = map_error("Sign", failure, attempts)
            is_throttled = isinstance(error, BackendThrottledError)
            throttled += is_throttled
            error.attempts, error.throttled = attempts, throttled
            self._turns.record(is_throttled=is_throttled)
            if not self._may_retry(failure, error, latest):
                break
        raise error

    def _wait_for_turn(self, latest: float) -> bool:
        """Wait for a turn and a slot, and return whether both came before *latest*."""
        wait = self._turns.reserve(latest - self._timer())
        if wait is None:
            return False
        if wait:
            self._sleep(wait)
        return self._slots.acquire(latest - self._timer())

    def _attempt(self, key_id: KeyId, digest: bytes) -> SignResponse:
        started = self._timer()
        seconds = None
        try:
            answer = self._call.send(key_id, digest)
            seconds = self._timer() - started
        except _TIMEOUTS:
            # If KMS answered other calls meanwhile, only this connection hangs.
            if self._answered < started:
                self._breaker.record_timeout()
            raise
        except Exception:
            self._record_answer()
            raise
        finally:
            self._slots.release(seconds)
        self._record_answer()
        return answer

    def _record_answer(self) -> None:
        self._answered = self._timer()
        self._breaker.record_answer()

    def _may_retry(
        self, failure: Exception, error: BackendError, latest: float
    ) -> bool:
        """Pause and return True, if another attempt is allowed and fits."""
        may_help = error.retryable and isinstance(failure, _SENT_FAILURES)
        if not may_help or error.attempts >= self._deadline.attempts:
            return False
        longest = min(_FIRST_PAUSE * 2**error.attempts, _LONGEST_PAUSE)
        drawn = random.uniform(0, longest)  # noqa: S311  Not a secret.
        pause = max(drawn, retry_after(failure))
        if self._timer() + pause > latest or not self._retries.acquire(_RETRY_COST):
            return False
        self._sleep(pause)
        return True


def _unsent(error: BackendError) -> BackendError:
    error.attempts = 0
    return error
