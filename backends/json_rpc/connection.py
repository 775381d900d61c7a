"""The HTTP way to one node: one deadline, no secrets in errors, no state of theirs."""

import logging
import threading
import time
from http.cookiejar import DefaultCookiePolicy

import requests
import urllib3
from pydantic import SecretStr

from signer.errors import ChainUnavailableError


_LARGEST_ANSWER = 16 * 1024 * 1024
_CHUNK = 64 * 1024
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500


class Connection:
    """
    Exchanges one body for another with the server behind *url*.

    Threads share it: each has its own connection, since a ``requests`` session is
    not made for more.  Processes do not: see ``JSONRPCChain``.

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
            ChainUnavailableError: Nothing came back, or that the server is in
                trouble of its own (HTTP 429 and 5xx).
        """
        status, answer = self._exchange(body)
        if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
            raise ChainUnavailableError(f"the node answers with HTTP status {status}")
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
        with self._session().post(
            self._url.get_secret_value(),
            data=body,
            timeout=_remaining(deadline),
            allow_redirects=False,  # Signed bytes go where they were sent.
            stream=True,
        ) as response:
            return response.status_code, _read(response, deadline)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._thread, "session", None)
        if session is None:
            session = self._thread.session = _new_session(self._url)
        return session


def _new_session(url: SecretStr) -> requests.Session:
    _silence_urllib3()
    session = requests.Session()
    session.headers.update(
        {"Content-Type": "application/json", "User-Agent": "hotwallet"}
    )
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    # The proxies and certificates that the environment names are looked up once,
    # and not again for every request (100 us); passwords in ~/.netrc never.
    environment = session.merge_environment_settings(
        url.get_secret_value(), {}, None, None, None
    )
    session.proxies = environment["proxies"]
    session.verify = environment["verify"]
    session.trust_env = False
    return session


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
