"""One node behind one URL: the transport below web3.py."""

import itertools
import json
import logging
import threading
import time
from http.cookiejar import DefaultCookiePolicy
from types import NoneType
from typing import Any

import requests
import urllib3
from pydantic import SecretStr
from pydantic_core import from_json
from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from backends.json_rpc.answers import says_not_found, translate
from signer.errors import ChainUnavailableError


_LARGEST_ANSWER = 16 * 1024 * 1024
_CHUNK = 64 * 1024
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_OK = 200

# Results are hex strings, but for these.
_SHAPES: dict[str, tuple[type, ...]] = {
    "eth_getBlockByNumber": (dict, NoneType),
    "eth_getTransactionReceipt": (dict, NoneType),
}


class Node(JSONBaseProvider):
    """
    A web3.py provider that speaks in our errors and never in the node's.

    web3's own HTTP provider logs URLs, which hold the provider's API key, retries
    by itself, and bounds each read from the socket, but not their sum.  This one has
    one deadline for the whole exchange, repeats only what the connection broke, and
    checks that the answer is the one to its question.

    Threads share it: each has its own connection, since a ``requests`` session is
    not made for more.  Processes do not: see ``JSONRPCChain``.

    Args:
        url: Where the node listens; a secret.
        timeout: Seconds for one exchange.  A node that stalls in the middle of its
            answer may take twice as long.
    """

    # EIP-3668 lets a contract answer with URLs for the caller to fetch: not for us.
    global_ccip_read_enabled = False

    def __init__(self, url: SecretStr, timeout: float) -> None:
        super().__init__()
        self._url = url
        self._timeout = timeout
        self._ids = itertools.count(1)
        self._thread = threading.local()

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """
        Return the node's result.

        Raises:
            ChainError: What ``answers.translate`` makes of the node's error, or
                ``ChainUnavailableError`` when there is no answer that makes sense.
        """
        question = {
            "jsonrpc": "2.0",
            "id": next(self._ids),
            "method": method,
            "params": params,
        }
        answer = self._answer(question)
        error = answer.get("error")
        if error is not None:
            if method == "eth_getBlockByNumber" and says_not_found(error):
                return RPCResponse(jsonrpc="2.0", id=question["id"], result=None)
            raise translate(method, error)
        result = answer["result"]
        if not isinstance(result, _SHAPES.get(method, (str,))):
            # web3 would make bytes of anything, even of true.
            raise ChainUnavailableError("the node's answer makes no sense")
        return RPCResponse(jsonrpc="2.0", id=question["id"], result=result)

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        status, body = self._exchange(json.dumps(question).encode())
        if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
            raise ChainUnavailableError(f"the node answers with HTTP status {status}")
        try:
            # Not json.loads: eth-account's dependencies raise Python's recursion limit
            # so far that a deeply nested answer would overflow the stack and kill us.
            answer = from_json(body)
        except ValueError:
            answer = None
        if isinstance(answer, dict) and _is_about(answer, question["id"], status):
            return answer
        if status != _OK:
            raise ChainUnavailableError(f"the node answers with HTTP status {status}")
        raise ChainUnavailableError("the node's answer is not one to the question")

    def _exchange(self, body: bytes) -> tuple[int, bytes]:
        """Return the HTTP status and the answer's body."""
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


def _is_about(answer: dict[str, Any], identifier: int, status: int) -> bool:
    if answer.get("error") is not None:
        # Gateways send errors with 4xx, and null where they do not know the id.
        return answer.get("id") in (identifier, None)
    return status == _OK and answer.get("id") == identifier and "result" in answer


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
