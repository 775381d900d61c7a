"""The HTTP way to one node: one deadline, no secrets in errors, no state of theirs."""

import logging
import threading
import time

import requests
import urllib3
from pydantic import SecretStr
from requests.adapters import HTTPAdapter

from signer.errors import ChainUnavailableError


_LARGEST_ANSWER = 16 * 1024 * 1024
_CHUNK = 64 * 1024
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500


class ServerTroubleError(ChainUnavailableError):
    """The server answered, and says that it is in trouble (HTTP 429 and 5xx)."""


class Connection:
    """
    Exchanges one body for another with the server behind *url*.

    Threads share it, each with a connection of its own.  Processes do not: see
    ``JSONRPCChain``.

    Args:
        url: Where the node listens; a secret.
        timeout: Seconds for one exchange.  A node that stalls in the middle of its
            answer may take twice as long.
    """

    def __init__(self, url: SecretStr, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._thread = threading.local()

    def exchange(self, body: bytes) -> tuple[int, bytes]:
        """
        Post *body*; return the HTTP status and what came back.

        Raises:
            ServerTroubleError: The server is in trouble of its own (HTTP 429 and 5xx).
            ChainUnavailableError: Nothing came back.
        """
        status, answer = self._exchange(body)
        if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
            raise ServerTroubleError(f"the node answers with HTTP status {status}")
        return status, answer

    def _exchange(self, body: bytes) -> tuple[int, bytes]:
        deadline = time.monotonic() + self._timeout
        try:
            try:
                return self._post(body, deadline)
            except (requests.ConnectionError, urllib3.exceptions.ProtocolError):
                # A node closes idle connections when it likes, also just now.  Once
                # more is safe: reads are reads, and signed bytes are mined once.
                return self._post(body, deadline)
        except (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError):
            problem = "the node did not answer in time"
        except (OSError, ValueError, urllib3.exceptions.HTTPError):
            problem = "the connection to the node failed"
        # Out of the handler, so that no error drags the one behind it, and the URL
        # that it names, into a traceback.
        raise ChainUnavailableError(problem)

    def _post(self, body: bytes, deadline: float) -> tuple[int, bytes]:
        with self._line().post(body, _remaining(deadline)) as response:
            return response.status_code, _read(response, deadline)

    def _line(self) -> "_Line":
        line: _Line | None = getattr(self._thread, "line", None)
        if line is None:
            line = self._thread.line = _Line(self._url)
        return line


class _Line:
    """
    One thread's way to the server: its connection, and a request that is filled in.

    A session of ``requests`` prepares each request anew, with cookies, hooks and
    redirects, which takes as long as the exchange itself.  Its adapter is what sends,
    follows no redirect (signed bytes go where they were sent), and keeps no cookie.
    """

    def __init__(self, url: SecretStr) -> None:
        _silence_urllib3()
        address = url.get_secret_value()
        with requests.Session() as session:
            # The proxies and certificates that the environment names are looked up
            # once; passwords in ~/.netrc never.
            environment = session.merge_environment_settings(
                address, {}, None, None, None
            )
            session.trust_env = False
            headers = {"Content-Type": "application/json", "User-Agent": "hotwallet"}
            self._request = session.prepare_request(
                requests.Request("POST", address, headers, data=b"{}")
            )
        self._adapter = HTTPAdapter()
        self._proxies = environment["proxies"]
        self._verify = environment["verify"]

    def post(self, body: bytes, timeout: float) -> requests.Response:
        """Send *body*; whoever reads the answer closes it."""
        self._request.body = body
        self._request.headers["Content-Length"] = str(len(body))
        return self._adapter.send(
            self._request,
            stream=True,
            timeout=timeout,
            verify=self._verify,
            proxies=self._proxies,
        )


def _silence_urllib3() -> None:
    # It logs whole URLs: paths at DEBUG, and everything at WARNING.
    logger = logging.getLogger("urllib3")
    logger.setLevel(max(logger.level, logging.ERROR))


def _read(response: requests.Response, deadline: float) -> bytes:
    """
    Read the body before *deadline*.

    ``read1`` returns whatever one read from the socket brings, so that a node which
    sends byte after byte cannot hold us beyond the deadline.
    """
    body = bytearray()
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > _LARGEST_ANSWER:
            raise ValueError("the answer is too large")
        _remaining(deadline)
    return bytes(body)


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
