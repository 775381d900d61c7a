"""
Sends events to the webhooks of tenants, whose hosts are not trusted.

The name of the host is resolved once, each of its addresses is checked, and the request
goes to one of those that were checked.  A name server that answers differently the next
time (DNS rebinding) changes nothing.  Redirects are not followed, proxies of the
environment are ignored, and the body of the response is not read.
"""

import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from pydantic import SecretStr

from backends.http_client import ExchangeError, HTTPClient
from signer.webhooks.endpoint import Network, may_send_to


TIMEOUT = 10.0
"""Seconds for the connection and the response's head together."""

_PORTS = {"http": 80, "https": 443}

Resolve = Callable[[str, int], Sequence[str]]
"""Returns the IP addresses of a host, for connections to a port."""


class WebhookClient:
    """Implements ``signer.ports.WebhookSender``; safe for threads."""

    def __init__(
        self,
        allowed: Sequence[Network] = (),
        *,
        allow_http: bool = False,
        timeout: float = TIMEOUT,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        Send to public addresses, and to those in *allowed* networks.

        Without *allow_http* only https is used.  *timeout* is in seconds.  *resolve*
        replaces the resolver of the system, and *tls* its certificate authorities.
        """
        self._allowed = allowed
        self._schemes = {"http", "https"} if allow_http else {"https"}
        self._timeout = timeout
        self._resolve = resolve or _resolve
        self._tls = tls

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> str | None:
        parts = urlsplit(url)
        if parts.scheme not in self._schemes or not parts.hostname:
            return "url-refused"
        port = parts.port or _PORTS[parts.scheme]
        try:
            found = self._resolve(parts.hostname, port)
        except (OSError, UnicodeError):
            return "host-unknown"
        # A host with one address that is refused is refused: it is not for the host to
        # choose which one is used.
        if not found or not all(may_send_to(each, self._allowed) for each in found):
            return "address-refused"
        client = HTTPClient(
            SecretStr(url),
            timeout=self._timeout,
            headers={"Connection": "close"},
            tls=self._tls,
            address=found[0],
        )
        try:
            with client:
                status = client.exchange("POST", body, headers=headers).status
        except ExchangeError as e:
            return e.reason
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return None
        return f"status-{status}"


def _resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of *host*, in the order in which the system prefers them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
