"""HTTP exchanges with one node: one deadline, no secrets in errors, no cookies."""

import os
import ssl
import threading
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import certifi
from pydantic import SecretStr

from backends.circuit_breaker import CircuitBreaker
from backends.http_client import (
    TOO_LARGE,
    TOO_SLOW,
    UNREACHABLE,
    ExchangeError,
    HTTPClient,
    Response,
)
from signer.errors import ChainUnavailableError, ConfigurationError, Refusal


MAX_RESPONSE_BYTES = 16 * 1024 * 1024
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate"}

_PROBLEMS = {
    TOO_SLOW: "the node did not respond in time",
    TOO_LARGE: "the response of the node is too large",
    UNREACHABLE: "the connection to the node failed",
}


class ServerError(ChainUnavailableError):
    """The server responded with HTTP 429 or 5xx."""


class ResponseTooLargeError(ChainUnavailableError):
    """The response has more bytes than the connection reads."""


class NodeConnection:
    """
    Posts a body to *url*, a secret, and returns the response within *timeout* seconds.

    After a response that was too slow, requests fail at once (``CircuitBreaker``).
    Threads share it, and each has its own TCP connection.  Processes must not share
    it, see ``JSONRPCChain``.

    Raises:
        ConfigurationError: ``settings-invalid``: the environment's proxy for *url* is
            not an http or https proxy.
    """

    def __init__(
        self, url: SecretStr, timeout: float, max_bytes: int = MAX_RESPONSE_BYTES
    ) -> None:
        self._max_bytes = max_bytes
        self._url = url
        self._timeout = timeout
        self._thread = threading.local()
        self._breaker = CircuitBreaker(timeout)
        _check_proxy(url.get_secret_value())

    def exchange(self, body: bytes) -> tuple[int, bytes]:
        """
        Post *body*; return the HTTP status and the response body.

        Raises:
            ServerError: The server responded with HTTP 429 or 5xx.
            ChainUnavailableError: There was no response, or no request because the
                node did not respond in time a moment ago.
        """
        if not self._breaker.admits():
            raise ChainUnavailableError("the node did not respond a moment ago")
        reason = None
        try:
            status, response, _ = self._post(body)
        except ExchangeError as e:
            reason = e.reason
        if reason == TOO_SLOW:
            self._breaker.record_timeout()
        else:
            self._breaker.record_answer()
        if reason == TOO_LARGE:
            raise ResponseTooLargeError(_PROBLEMS[reason])
        if reason is not None:
            raise ChainUnavailableError(_PROBLEMS[reason])
        if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
            raise ServerError(f"the node responded with HTTP status {status}")
        return status, response

    def _post(self, body: bytes) -> Response:
        client = self._get_client()
        deadline = time.monotonic() + self._timeout
        try:
            return client.exchange("POST", body)
        except ExchangeError as e:
            remaining = deadline - time.monotonic()
            if e.reason != UNREACHABLE or remaining <= 0:
                raise
        # A node may close an idle connection at any time, also right now.  One retry is
        # safe: reads change nothing, and signed bytes are mined once.
        return client.exchange("POST", body, timeout=remaining)

    def _get_client(self) -> HTTPClient:
        client: HTTPClient | None = getattr(self._thread, "client", None)
        if client is None:
            client = self._thread.client = self._build_client()
        return client

    def _build_client(self) -> HTTPClient:
        try:
            tls, proxy = self._environment
            return HTTPClient(
                self._url,
                timeout=self._timeout,
                headers=_HEADERS,
                max_bytes=self._max_bytes,
                decode=True,
                tls=tls,
                proxy=proxy,
            )
        except (OSError, ValueError):
            pass
        raise ChainUnavailableError(
            "the proxy or REQUESTS_CA_BUNDLE of the environment is not usable"
        )

    @cached_property
    def _environment(self) -> tuple[ssl.SSLContext | None, str | None]:
        """The certificate authorities and the proxy; reading them takes long."""
        return _read_environment(self._url.get_secret_value())


def _check_proxy(url: str) -> None:
    """Refuse a proxy of another scheme once, at the start: no retry changes it."""
    proxies = _environ_proxies(url)
    try:
        proxy = _select_proxy(url, proxies)
        is_supported = proxy is None or urlsplit(proxy).scheme in {"http", "https"}
    except ValueError:
        return  # Malformed: each exchange reports it.
    if not is_supported:
        problem = "unsupported scheme; set it to an http:// or https:// proxy"
        variable = _proxy_variable(url, proxies)
        raise ConfigurationError(Refusal("settings-invalid", f"{variable}: {problem}"))


def _read_environment(url: str) -> tuple[ssl.SSLContext | None, str | None]:
    """Read ``HTTPS_PROXY``, ``NO_PROXY`` and the like; ``~/.netrc`` is ignored."""
    proxy = _select_proxy(url, _environ_proxies(url))
    tls = None
    if any(each and each.lower().startswith("https:") for each in (url, proxy)):
        tls = _load_authorities()
    return tls, proxy


def _environ_proxies(url: str) -> dict[str, str]:
    """Return the environment's proxies by scheme, unless ``NO_PROXY`` exempts *url*."""
    if not getproxies():
        return {}  # requests takes 4 MB.
    from requests.utils import get_environ_proxies  # noqa: PLC0415

    return get_environ_proxies(url)


def _select_proxy(url: str, proxies: dict[str, str]) -> str | None:
    if not proxies:
        return None
    from requests.utils import (  # noqa: PLC0415
        prepend_scheme_if_needed,
        select_proxy,
    )

    proxy = select_proxy(url, proxies)
    return prepend_scheme_if_needed(proxy, "http") if proxy else None


def _proxy_variable(url: str, proxies: Mapping[str, str]) -> str:
    scheme = urlsplit(url).scheme
    name = f"{scheme if scheme in proxies else 'all'}_proxy"
    return name if name in os.environ else name.upper()


def _load_authorities() -> ssl.SSLContext:
    """Return a context with the environment's bundle or folder, or with Mozilla's."""
    bundles = map(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
    path = next(filter(None, bundles), certifi.where())
    if Path(path).is_dir():
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)
