"""Signs with KMS in one region, with the limits and retries of ``kms_retries``."""

import json
import time
from base64 import b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from botocore.awsrequest import AWSPreparedRequest, AWSRequest  # type: ignore[import-untyped]
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
from backends.kms_retries import AttemptError, CallLimits, KMSCalls
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
        """Return KMS's signature over *digest*; raises what boto3 raises."""
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


_TOO_MANY = (
    "too many signatures wait for KMS already; KMS_SIGNATURES_PER_SECOND,"
    " KMS_MAX_CONCURRENCY or the latency of KMS limits them"
)
_SENT_FAILURES = (ClientError, ConnectionError, HTTPClientError)
_TIMEOUTS = (ConnectTimeoutError, ReadTimeoutError)


class SigningClient:
    """Calls ``Sign`` as *client* would, at most *per_second* times (0: any)."""

    def __init__(
        self,
        client: "KMSClient",
        per_second: float = 0,
        *,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._call = SignCall(client)
        deadline = self._call.deadline
        limits = CallLimits(
            deadline.attempts,
            deadline.attempt,
            deadline.patience,
            client.meta.config.max_pool_connections,
            per_second,
        )
        self._calls = KMSCalls(
            "KMS", _TOO_MANY, limits, RetryQuota(), timer=timer, sleep=sleep
        )

    @property
    def concurrency(self) -> int:
        """How many calls are sent at once, at the moment."""
        return self._calls.concurrency

    def sign(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        """Return KMS's signature over *digest*; raises as ``KMSCalls.call``."""
        reply = self._calls.call(lambda _: self._attempt(key_id, digest))
        der, request = reply.value
        return DeviceSignature(der, request, reply.attempts, reply.throttled)

    def _attempt(self, key_id: KeyId, digest: bytes) -> SignResponse:
        try:
            return self._call.send(key_id, digest)
        except Exception as e:  # noqa: BLE001  No vendor's error leaves this class.
            failure = e
        error = map_error("Sign", failure)
        raise AttemptError(
            error,
            may_repeat=error.retryable and isinstance(failure, _SENT_FAILURES),
            pause=retry_after(failure),
            is_late=isinstance(failure, _TIMEOUTS),
        )
