"""The issuer's server, asked for one document, by somebody with little patience."""

import http.client
import re
import socket
import ssl
from contextlib import ExitStack, suppress
from http import HTTPStatus
from ipaddress import ip_address
from threading import Event, Timer
from urllib.parse import SplitResult, urlsplit

from api.auth.verification_keys import MAX_BYTES
from signer.errors import ConfigurationError, Refusal


SECONDS = 2.0  # For the connection, and for each piece of the answer.
DEADLINE = 4.0  # For all of it, however slowly it drips.

_VISIBLE = re.compile(r"[!-~]+")


class KeySetError(Exception):
    """There is no key set to be had; the message is a reason code for the log."""


class KeyServer:
    """
    One URL, which answers with a JWK Set.

    Redirects are not followed and nothing is unpacked: there is one place, and one
    form, for keys to come from.
    """

    def __init__(
        self,
        url: str,
        *,
        may_be_plain: bool,
        tls: ssl.SSLContext | None = None,
        seconds: float = SECONDS,
        deadline: float = DEADLINE,
    ) -> None:
        """
        Remember *url*, and open nothing.

        With *may_be_plain* a server on this very machine may speak HTTP.  *tls* has
        the authorities to believe; without it the system's count.  The connection and
        each piece of the answer may take *seconds*, and all of it *deadline*.

        Raises:
            ConfigurationError: ``jwt-url-insecure``; the URL is not shown.
        """
        self._parts = _checked(url, may_be_plain=may_be_plain)
        self._tls = tls
        self._seconds = seconds
        self._deadline = deadline

    def __repr__(self) -> str:
        """Say no more than there is one: a query can hold a secret."""
        return "KeyServer(...)"

    def __call__(self) -> bytes:
        """
        Return the document.

        Raises:
            KeySetError: ``unreachable``, ``too-slow``, ``too-large`` or ``status-<n>``.
        """
        with ExitStack() as closing:
            try:
                return self._get(closing)
            except (OSError, http.client.HTTPException) as e:
                slow = isinstance(e, TimeoutError)
                raise KeySetError("too-slow" if slow else "unreachable") from None

    def _get(self, closing: ExitStack) -> bytes:
        address = (self._parts.hostname or "", self._parts.port or self._default_port)
        raw = closing.enter_context(socket.create_connection(address, self._seconds))
        # A handle of its own: TLS takes the first one away, and no timeout of a socket
        # ends an answer that comes a byte at a time.
        handle = closing.enter_context(raw.dup())
        late = Event()
        timer = Timer(self._deadline, _hang_up, [handle, late])
        timer.daemon = True
        closing.callback(timer.cancel)
        timer.start()
        try:
            body = self._exchange(closing, raw)
        except (OSError, http.client.HTTPException):
            if not late.is_set():
                raise
        if late.is_set():
            raise TimeoutError
        return body

    def _exchange(self, closing: ExitStack, raw: socket.socket) -> bytes:
        host, port = self._parts.hostname or "", self._parts.port
        connection = http.client.HTTPConnection(host, port)
        closing.callback(connection.close)
        connection.sock = raw if self._parts.scheme == "http" else self._wrapped(raw)
        target = (self._parts.path or "/") + (
            f"?{self._parts.query}" if self._parts.query else ""
        )
        headers = {"Host": self._parts.netloc, "Accept": "application/json"}
        connection.request("GET", target, headers=headers)
        response = closing.enter_context(connection.getresponse())
        if response.status != HTTPStatus.OK:
            raise KeySetError(f"status-{response.status}")
        body = response.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise KeySetError("too-large")
        return body

    def _wrapped(self, raw: socket.socket) -> socket.socket:
        tls = self._tls or ssl.create_default_context()
        return tls.wrap_socket(raw, server_hostname=self._parts.hostname)

    @property
    def _default_port(self) -> int:
        return (
            http.client.HTTP_PORT
            if self._parts.scheme == "http"
            else http.client.HTTPS_PORT
        )


def _hang_up(handle: socket.socket, late: Event) -> None:
    late.set()
    with suppress(OSError):
        handle.shutdown(socket.SHUT_RDWR)


def _checked(url: str, *, may_be_plain: bool) -> SplitResult:
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "http" and may_be_plain and _is_here(parts.hostname)
        good = (parts.scheme == "https" or plain) and parts.hostname
        if (
            good
            and _VISIBLE.fullmatch(url)
            and parts.port != 0
            and not (parts.username or parts.password)
        ):
            return parts
    except ValueError:
        pass
    raise ConfigurationError(
        Refusal(
            "jwt-url-insecure",
            "JWT_JWKS_URL must begin with https:// and name a host, and no user",
        )
    )


def _is_here(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False
