"""
Signs with Google Cloud KMS: key versions of algorithm ``EC_SIGN_SECP256K1_SHA256``.

It needs two permissions, ``cloudkms.cryptoKeyVersions.useToSign`` and
``cloudkms.cryptoKeyVersions.viewPublicKey``.  ``docs/how-to/google-cloud-kms.md``
documents errors, deadline and access tokens.  ``KMSClient`` calls the REST API,
with the limits and retries of ``kms_retries``.
"""

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import google.auth
import urllib3
from google.auth import transport
from google.auth.credentials import Credentials, TokenState
from google.auth.exceptions import GoogleAuthError, TransportError
from pydantic import SecretStr

from backends.google_cloud_kms.answers import (
    map_response,
    read_public_key,
    read_signature,
    retry_delay,
    sign_request,
)
from backends.google_cloud_kms.options import FORMAT, is_version_name
from backends.http_client import (
    TOO_SLOW,
    ExchangeError,
    HTTPClient,
    Response,
    bound_responses,
)
from backends.kms_retries import AttemptError, CallLimits, KMSCalls, Reply, Turn
from signer.config.allowed_keys import AllowedKeys
from signer.deadline import Deadlines
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports.key_backend import DeviceSignature, KeyId


SCOPE = "https://www.googleapis.com/auth/cloudkms"
"""The scope that every method of Cloud KMS accepts."""

Load = Callable[[transport.Request], Credentials]


def load_default(request: transport.Request) -> Credentials:
    """Return the Application Default Credentials."""
    credentials, _ = google.auth.default(scopes=[SCOPE], request=request)
    found: Credentials = credentials
    return found


class AccessTokens:
    """
    Returns a valid token; the credentials are read at the first call.

    Threads share an instance.  One of them renews the token, which lives for an hour,
    while the others wait; Google's libraries begin that 3 min 45 s before its end.
    """

    def __init__(self, seconds: float, load: Load = load_default) -> None:
        """Limit each request for a token to *seconds*."""
        self._load = load
        self._request = _HTTPRequest(seconds)
        self._credentials: Credentials | None = None
        self._lock = Lock()
        self._seconds = seconds

    def get(self) -> str:
        if not self._lock.acquire(timeout=self._seconds):
            raise BackendUnavailableError("Google's credentials: no token in time")
        try:
            return self._get()
        except BackendError:
            raise
        except GoogleAuthError as e:
            error = _map_error(e)
        except Exception as e:  # noqa: BLE001  A malformed file raises any error.
            error = AccessDeniedError(
                f"Google's credentials cannot be used ({type(e).__name__})"
            )
        finally:
            self._lock.release()
        # Outside the handler, so that __context__ does not contain Google's message.
        raise error

    def forget(self, token: str) -> None:
        """Renew *token*, which Google has refused, before the next call."""
        with self._lock:
            if self._credentials is not None and self._credentials.token == token:
                self._credentials.token = None

    def _get(self) -> str:
        if self._credentials is None:
            self._credentials = self._load(self._request)
        credentials = self._credentials
        if not credentials.valid:
            try:
                credentials.refresh(self._request)  # type: ignore[no-untyped-call]
            except GoogleAuthError:
                # The present token is valid for a few minutes more.
                if credentials.token_state is not TokenState.STALE:
                    raise
        token = credentials.token
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise AccessDeniedError("Google's credentials gave no access token")
        return token

    def close(self) -> None:
        self._request.close()


class _HTTPRequest(transport.Request):
    """Google's port for HTTP, whose requests end within *seconds*."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._pools = urllib3.PoolManager()
        self._pools.pool_classes_by_scheme = bound_responses(
            {"http": urllib3.HTTPConnectionPool, "https": urllib3.HTTPSConnectionPool}
        )

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> urllib3.BaseHTTPResponse:
        """Return the response, which has the attributes that Google's port names."""
        seconds = min(self._seconds, timeout or self._seconds)
        try:
            return self._pools.request(
                method,
                url,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=seconds / 2, total=seconds),
                retries=False,
            )
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as e:
            problem = type(e).__name__
        raise TransportError(problem)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._pools.clear()


def _map_error(error: GoogleAuthError) -> BackendError:
    kind = type(error).__name__
    if isinstance(error, TransportError) or error.retryable:
        return BackendUnavailableError(f"Google's credentials: no answer ({kind})")
    return AccessDeniedError(f"Google's credentials were refused ({kind})")


T = TypeVar("T")

_MAX_BYTES = 64 * 1024
_SHORTEST_ATTEMPT = 0.2
"""The shortest attempt, in seconds, that is worth starting."""

_TOO_MANY = (
    "too many calls wait for Cloud KMS already; GOOGLE_CLOUD_KMS_SIGNATURES_PER_SECOND,"
    " GOOGLE_CLOUD_KMS_MAX_CONCURRENCY or the latency of Cloud KMS limits them"
)


def limit_calls(
    seconds: float, attempts: int, concurrency: int, per_second: float
) -> CallLimits:
    """Return the limits of calls of *seconds*: there is time for two attempts."""
    attempt = seconds * (0.9 if attempts == 1 else 0.45)
    patience = seconds - _SHORTEST_ATTEMPT
    return CallLimits(attempts, attempt, patience, concurrency, per_second)


class Request(NamedTuple):
    """One call: its name in errors, and its HTTP request below the endpoint."""

    operation: str
    method: str
    path: str
    body: bytes | None = None


class _LateError(BackendUnavailableError):
    """An attempt got no answer in time."""


class KMSClient:
    """Calls *endpoint* with an access token; threads share it, processes must not."""

    def __init__(
        self,
        endpoint: str,
        tokens: AccessTokens,
        limits: CallLimits,
        *,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._tokens = tokens
        self._limits = limits
        self._timer = timer
        self._http = HTTPClient(
            SecretStr(endpoint),
            timeout=limits.attempt,
            headers={"Content-Type": "application/json"},
            max_bytes=_MAX_BYTES,
        )
        # Bounds what HTTPClient does not: name resolution, and hosts with many
        # addresses, such as Google's.
        self._deadlines = Deadlines(per_subject=2 * limits.concurrency)
        self._calls = KMSCalls("Cloud KMS", _TOO_MANY, limits, timer=timer, sleep=sleep)

    @property
    def concurrency(self) -> int:
        return self._calls.concurrency

    def call(self, request: Request, read: Callable[[bytes], T]) -> Reply[T]:
        """
        Return what *read* makes of the body of the answer to *request*.

        An answer that *read* refuses with a retryable error is asked for again.  It
        raises as ``KMSCalls.call``, and as *read*.
        """
        return self._calls.call(partial(self._attempt, request, read))

    def close(self) -> None:
        """Close the idle connections."""
        self._http.__exit__()
        self._tokens.close()

    def _attempt(self, request: Request, read: Callable[[bytes], T], turn: Turn) -> T:
        end = turn.latest + _SHORTEST_ATTEMPT
        left = min(self._limits.attempt, end - self._timer())
        response = None
        try:
            response = self._deadlines.within(
                left,
                partial(self._exchange, request, left),
                name="google-cloud-kms",
                late=_LateError,
            )
            if response.status != HTTPStatus.OK:
                raise map_response(request.operation, response)
            return read(response.body)
        except BackendError as e:
            error = e
        is_stale_token = (
            turn.number == 1
            and response is not None
            and response.status == HTTPStatus.UNAUTHORIZED
            and isinstance(error, AccessDeniedError)
        )
        raise AttemptError(
            error,
            may_repeat=error.retryable or is_stale_token,
            pause=retry_delay(response) if response else 0.0,
            is_late=isinstance(error, _LateError),
            is_answer=response is not None,
        )

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


NAME = "google-cloud-kms"

_DIGEST_BYTES = 32


class GoogleCloudKMSBackend:
    """
    Signs with the key versions in *allowed*.

    ``signer/ports/key_backend.py`` documents the methods.  Keys are identified by the
    whole name of a key version, which never refers to another key.
    """

    name = NAME

    def __init__(self, client: KMSClient, allowed: AllowedKeys) -> None:
        self._client = client
        self._allowed = allowed
        self._pid = os.getpid()

    @property
    def concurrency(self) -> int:
        return self._client.concurrency

    def resolve(self, name: str) -> KeyId:
        if not is_version_name(name):
            raise InvalidInputError(FORMAT, field="key_id")
        if name not in self._allowed:
            raise InvalidInputError(
                "must be a key version that GOOGLE_CLOUD_KMS_ALLOWED_KEYS allows;"
                " unset, it allows those in the key ring of GOOGLE_CLOUD_KMS_KEY",
                field="key_id",
            )
        self.public_key(KeyId(name))
        return KeyId(name)

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the DER ``SubjectPublicKeyInfo`` of *key_id*, from Google's PEM."""
        self._require_allowed(key_id)
        request = Request("GetPublicKey", "GET", f"/v1/{key_id}/publicKey")
        return self._call(request, partial(read_public_key, key_id)).value

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        if len(digest) != _DIGEST_BYTES:
            raise InvalidInputError("must be 32 bytes", field="digest")
        self._require_allowed(key_id)
        path = f"/v1/{key_id}:asymmetricSign"
        request = Request("AsymmetricSign", "POST", path, sign_request(digest))
        reply = self._call(request, partial(read_signature, key_id))
        # Google's answers have no id of the request.
        return DeviceSignature(reply.value, None, reply.attempts, reply.throttled)

    def close(self) -> None:
        self._client.close()

    def _require_allowed(self, key_id: KeyId) -> None:
        """Refuse a key of the ring: a party that can write its row could choose one."""
        if not is_version_name(key_id):
            raise KeyNotFoundError("the key id is not the name of a key version")
        if key_id not in self._allowed:
            raise KeyUnusableError(
                "GOOGLE_CLOUD_KMS_ALLOWED_KEYS does not allow the key; add it there"
            )

    def _call(self, request: Request, read: Callable[[bytes], T]) -> Reply[T]:
        if os.getpid() != self._pid:
            # Parent and child would share sockets and read each other's responses.
            raise BackendError("the Cloud KMS client was built before the fork")
        return self._client.call(request, read)
