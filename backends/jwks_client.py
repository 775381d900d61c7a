"""Fetches the JWK Set (RFC 7517) that the token issuer publishes at one URL."""

import ssl
from http import HTTPStatus

from pydantic import SecretStr

from backends.http_client import ExchangeError, HTTPClient, is_secure
from signer.errors import ConfigurationError, Refusal
from signer.ports.outside_services import KeySetError


# The next request comes minutes later, so that keeping the connection is no use.
_HEADERS = {"Accept": "application/json", "Connection": "close"}


class JWKSClient:
    """
    Fetches the document at one URL.

    Redirects are not followed and nothing is decompressed: the keys have one source
    and one form.  No ``repr`` has the URL, because its query may contain a secret.
    """

    def __init__(
        self,
        url: str,
        *,
        allow_http: bool,
        timeout: float,
        max_bytes: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        Check *url*; no connection is opened.

        Args:
            url: An https URL without user name and password.
            allow_http: Whether plain HTTP to a loopback address is allowed too.
            timeout: Seconds for one request and its whole response.
            max_bytes: The largest accepted document.
            tls: Certificate authorities; the system's if None.

        Raises:
            ConfigurationError: ``jwt-url-insecure``; the message omits the URL.
        """
        if not is_secure(url, allow_http=allow_http):
            raise ConfigurationError(
                Refusal(
                    "jwt-url-insecure",
                    "JWT_JWKS_URL must be an https URL with a host and without a user"
                    " name",
                )
            )
        self._client = HTTPClient(
            SecretStr(url),
            timeout=timeout,
            headers=_HEADERS,
            max_bytes=max_bytes,
            tls=tls,
        )

    def __repr__(self) -> str:
        return "JWKSClient(...)"

    def __call__(self) -> bytes:
        """
        Return the document.

        Raises:
            KeySetError: ``unreachable``, ``too-slow``, ``too-large`` or ``status-<n>``.
        """
        try:
            response = self._client.exchange("GET")
        except ExchangeError as e:
            raise KeySetError(e.reason) from None
        if response.status != HTTPStatus.OK:
            raise KeySetError(f"status-{response.status}")
        return response.body
