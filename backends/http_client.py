"""HTTP requests to one URL, each within one deadline and with a bounded response."""

import http.client
import io
import re
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Self
from urllib.parse import SplitResult, unquote, urlsplit

import urllib3
from pydantic import SecretStr

from signer.addresses import is_loopback_address
from signer.redact import quiet_vendor_loggers


_VISIBLE_ASCII = re.compile(r"[!-~]+")


def is_secure(url: str, *, allow_http: bool) -> bool:
    """
    Return whether *url* is an https URL with a host and without user name and password.

    With *allow_http*, plain HTTP to a loopback address is secure too.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        is_local = host == "localhost" or is_loopback_address(host)
        is_http = parts.scheme == "http" and allow_http and is_local
        return bool(
            (parts.scheme == "https" or is_http)
            and host
            and _VISIBLE_ASCII.fullmatch(url)
            and parts.port != 0
            and not (parts.username or parts.password)
        )
    except ValueError:
        return False


class BoundedResponse(http.client.HTTPResponse):
    """A response with one read timeout for the status line, headers and body."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        timeout = sock.gettimeout()
        if timeout is not None:
            self.fp = io.BufferedReader(_BoundedReader(self.fp.detach(), sock, timeout))


class _BoundedReader(io.RawIOBase):
    """Reads *raw*, the file of *sock*, for at most *timeout* seconds in total."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, timeout: float) -> None:
        self._raw = raw
        self._sock = sock
        self._timeout = timeout
        self._end = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read the available bytes; raise ``TimeoutError`` after the deadline."""
        now = time.monotonic()
        if self._end:
            if now >= self._end:
                raise TimeoutError
            self._sock.settimeout(self._end - now)
        else:
            # The first and usually only read: the socket has the timeout already.
            self._end = now + self._timeout
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _SingleSend:
    """
    Sends a request in one piece; a mixin for urllib3's connections.

    http.client sends headers and body apart: two system calls, two TLS records, two
    packets, and a server that is woken twice.
    """

    _pieces: list[bytes] | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        pieces = self._pieces = []
        parent: Any = super()
        try:
            parent.request(*args, **kwargs)
        finally:
            self._pieces = None
        parent.send(b"".join(pieces))

    def send(self, data: bytes) -> None:
        """Send *data*, or keep it until the request is complete."""
        if self._pieces is not None:
            self._pieces.append(data)
            return
        parent: Any = super()
        parent.send(data)


def bound_responses(pools: Mapping[str, Any]) -> dict[str, Any]:
    """Return pool classes by scheme that bound responses and send in one piece."""
    bounded = {}
    for scheme, pool in pools.items():
        connection = type(
            f"Bounded{pool.ConnectionCls.__name__}",
            (_SingleSend, pool.ConnectionCls),
            {"response_class": BoundedResponse},
        )
        bounded[scheme] = type(
            f"Bounded{pool.__name__}", (pool,), {"ConnectionCls": connection}
        )
    return bounded


UNREACHABLE = "unreachable"
TOO_SLOW = "too-slow"
TOO_LARGE = "too-large"

_CHUNK = 64 * 1024
_IDLE_CONNECTIONS = 64
"""How many are kept; there are only as many as threads have used at once."""


class ExchangeError(Exception):
    """
    There is no usable response; the request may have arrived.

    ``reason`` is ``unreachable``, ``too-slow`` or ``too-large``.  Neither the message
    nor ``__context__`` contains the URL.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Response(NamedTuple):
    """An HTTP status, the body, empty if it was not read, and ``Retry-After``."""

    status: int
    body: bytes
    retry_after: str | None = None


class HTTPClient:
    """
    Sends requests to one URL and never follows a redirect.

    Connections are kept alive and shared by threads.  Do not share a client between
    processes: build it after the fork.
    """

    def __init__(
        self,
        url: SecretStr,
        *,
        timeout: float,
        headers: Mapping[str, str],
        max_bytes: int | None = None,
        decode: bool = False,
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
        address: str | None = None,
    ) -> None:
        """
        Store the options; no connection is opened.

        Args:
            url: An http or https URL; a user name and a password in it become HTTP
                basic authentication.
            timeout: Seconds for connecting and the whole response together.  Name
                resolution is not bounded here; of a host with several addresses, each
                that does not answer takes this long.
            headers: Sent with each request.
            max_bytes: The largest accepted body; None leaves the body unread.
            decode: Whether a compressed body is decompressed; *max_bytes* then
                applies to the decompressed body.
            tls: Certificate authorities; the system's if None.
            proxy: URL of an HTTP proxy.
            address: The IP address to connect to; by default the host is resolved.  The
                certificate must still be that of the host.

        Raises:
            ValueError: *url* or *proxy* is not an http or https URL.
        """
        parts = urlsplit(url.get_secret_value())
        if parts.scheme not in {"http", "https"}:
            raise ValueError("the URL must begin with http:// or https://")
        quiet_vendor_loggers("urllib3")
        # Without user name and password: a proxy gets the URL in the request line.
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        names = _names_of_host(parts) if address else {}
        if address:
            bare = bare._replace(netloc=_replace_host(bare, address))
        self._url = SecretStr(bare.geturl())
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._decode = decode
        self._headers = {
            "User-Agent": "hotwallet",
            **_basic_auth("Authorization", parts),
            **({"Host": parts.netloc.rpartition("@")[2]} if address else {}),
            **headers,
        }
        if tls is None and "https" in (parts.scheme, urlsplit(proxy or "").scheme):
            tls = ssl.create_default_context()
        self._manager = _build_manager(tls, proxy, names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.clear()

    def exchange(
        self,
        method: str,
        body: bytes | None = None,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        path: str = "",
    ) -> Response:
        """
        Send a request and return the response, also for an error status.

        *timeout* replaces the client's timeout; *headers* are added to its headers, and
        *path*, in which special characters are escaped already, to its URL.

        Raises:
            ExchangeError: There is no response, or it is too slow or too large.
        """
        total = self._timeout if timeout is None else timeout
        try:
            response = self._manager.urlopen(
                method,
                self._url.get_secret_value() + path,
                body=body,
                headers={**self._headers, **headers},
                timeout=urllib3.Timeout(connect=total / 2, total=total),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                delay = response.headers.get("Retry-After")
                return Response(response.status, self._read_body(response), delay)
            finally:
                response.close()
        except urllib3.exceptions.NewConnectionError:  # A subclass of TimeoutError.
            reason = UNREACHABLE
        except (TimeoutError, urllib3.exceptions.TimeoutError):
            reason = TOO_SLOW
        except (OSError, ValueError, urllib3.exceptions.HTTPError):
            reason = UNREACHABLE
        # Outside the handler: the error that was caught contains the URL and must
        # not become the __context__ of this one.
        raise ExchangeError(reason)

    def _read_body(self, response: urllib3.BaseHTTPResponse) -> bytes:
        body = bytearray()
        if self._max_bytes is not None:
            while chunk := response.read1(_CHUNK, decode_content=self._decode):
                body += chunk
                if len(body) > self._max_bytes:
                    raise ExchangeError(TOO_LARGE)
        return bytes(body)


_POOLS = bound_responses(
    {"http": urllib3.HTTPConnectionPool, "https": urllib3.HTTPSConnectionPool}
)


def _names_of_host(parts: SplitResult) -> Mapping[str, Any]:
    """Return the option with which TLS verifies the host of a URL, not its address."""
    # Pools of plain HTTP do not have it.
    is_https = parts.scheme == "https"
    return {"server_hostname": parts.hostname or ""} if is_https else {}


def _replace_host(parts: SplitResult, address: str) -> str:
    """Return the host and the port of a URL, with *address* in place of the host."""
    host = f"[{address}]" if ":" in address else address
    return host if parts.port is None else f"{host}:{parts.port}"


def _build_manager(
    tls: ssl.SSLContext | None, proxy: str | None, names: Mapping[str, Any]
) -> urllib3.PoolManager:
    manager = (
        urllib3.PoolManager(ssl_context=tls, maxsize=_IDLE_CONNECTIONS, **names)
        if proxy is None
        else urllib3.ProxyManager(
            proxy,
            proxy_headers=_basic_auth("Proxy-Authorization", urlsplit(proxy)),
            proxy_ssl_context=tls,
            ssl_context=tls,
        )
    )
    manager.pool_classes_by_scheme = _POOLS
    return manager


def _basic_auth(header: str, parts: SplitResult) -> Mapping[str, str]:
    """Return *header* with the user name and password of a URL, if it has them."""
    if parts.username is None:
        return {}
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: f"Basic {b64encode(credentials.encode()).decode()}"}
