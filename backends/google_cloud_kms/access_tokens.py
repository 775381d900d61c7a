"""Access tokens from Application Default Credentials (google.aip.dev/auth/4110)."""

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

import google.auth
import urllib3
from google.auth import transport
from google.auth.credentials import Credentials, TokenState
from google.auth.exceptions import GoogleAuthError, TransportError

from backends.http_client import bound_responses
from signer.errors import AccessDeniedError, BackendError, BackendUnavailableError


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
