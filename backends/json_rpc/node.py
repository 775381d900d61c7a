"""JSON-RPC to one node: single requests and batches."""

import itertools
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import NoneType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import certifi
from pydantic import SecretStr
from pydantic_core import from_json

from backends.circuit_breaker import CircuitBreaker
from backends.http_client import (
    TOO_LARGE,
    TOO_SLOW,
    UNREACHABLE,
    ExchangeError,
    HTTPClient,
    Response,
)
from backends.json_rpc.error_mapping import (
    CannotAnswerError,
    is_conclusive,
    is_not_found,
    map_client_error,
    map_error,
)
from backends.json_rpc.parsing import attempt
from signer.config.networks import FeeForm
from signer.errors import (
    ChainError,
    ChainUnavailableError,
    ConfigurationError,
    Refusal,
    ResultTooLargeError,
    require,
)


MAX_RESPONSE_BYTES = 16 * 1024 * 1024
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_UNAVAILABLE = 503
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
        """Post *body*; return the HTTP status and the response body."""
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
        """Post *body*, and again once after the pause that a busy node asks for."""
        deadline = time.monotonic() + self._timeout
        response = self._post_now(body, deadline)
        pause = _read_pause(response)
        if pause is None or pause > (deadline - time.monotonic()) / 2:
            return response
        time.sleep(pause)
        remaining = deadline - time.monotonic()
        return self._get_client().exchange("POST", body, timeout=remaining)

    def _post_now(self, body: bytes, deadline: float) -> Response:
        client = self._get_client()
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


def _read_pause(response: Response) -> float | None:
    """Return the seconds until a node that refused a request takes it, if it says."""
    said = response.retry_after or ""
    is_busy = response.status in (_TOO_MANY_REQUESTS, _UNAVAILABLE)
    return float(said) if is_busy and said.isdecimal() else None


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
    from requests.utils import prepend_scheme_if_needed, select_proxy  # noqa: PLC0415

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


MethodCall = tuple[str, list[Any]]
"""A JSON-RPC method and its parameters."""

Observed = Sequence[tuple[str, str]]
"""Methods, each with ``ok`` or the code of its error."""

_OK = 200
_MISSING = object()

_AVOIDED_SECONDS = 600.0
"""How long a node is not asked again with a method to which it did not respond."""

LARGEST_BATCH = 50
"""The largest batch that a client asks for; a node may take less at once."""


@dataclass(frozen=True, slots=True)
class NodeRules:
    """
    What a network's nodes have in common, as ``Network`` declares it.

    ``batch`` is how many requests they take at once.  ``coin`` is the token that fees
    are paid in, and the wei of its unit: the nodes show no other balance.
    """

    batch: int = LARGEST_BATCH
    has_pending: bool = True
    fees: FeeForm | None = None
    coin: tuple[str, int] | None = None

    @property
    def pending(self) -> str:
        """The name of the state that has the most of an account's transactions."""
        return "pending" if self.has_pending else "latest"


NO_RULES = NodeRules()


# Results are hex strings, except for these methods.
_RESULT_TYPES: dict[str, tuple[type, ...]] = {
    "eth_getBlockByNumber": (dict, NoneType),
    "eth_getBlockReceipts": (list, NoneType),
    "eth_getLogs": (list,),
    "eth_getTransactionByHash": (dict, NoneType),
    "eth_getTransactionReceipt": (dict, NoneType),
    "eth_simulateV1": (list,),
}


_OF_BLOCK = frozenset({"eth_getBlockByNumber", "eth_getBlockReceipts"})


class Node:
    """
    Sends JSON-RPC requests to the node at *url*; no connection is opened yet.

    There is one deadline for the whole exchange, a request is repeated only after a
    broken connection or the pause that a busy node asks for, and the id of the response
    is checked.

    Threads share it, processes do not.  *timeout* is in seconds, for one exchange.
    *observe* is called with what was asked, and the seconds that it took.
    """

    def __init__(
        self,
        url: SecretStr,
        timeout: float,
        max_bytes: int = MAX_RESPONSE_BYTES,
        observe: Callable[[Observed, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        rules: NodeRules = NO_RULES,
    ) -> None:
        self.rules = rules
        self._observe = observe
        self._connection = NodeConnection(url, timeout, max_bytes)
        self._timeout = timeout
        self._ids = itertools.count(1)
        self._clock = clock
        self._avoided: dict[str, float] = {}  # Methods, and until when.

    def serves(self, method: str) -> bool:
        """Return whether to ask with *method*, for which there is another way."""
        return self._clock() >= self._avoided.get(method, 0.0)

    def avoid(self, method: str) -> None:
        """Use the other way for a while, since the node failed to respond."""
        self._avoided[method] = self._clock() + _AVOIDED_SECONDS

    def request(self, method: str, params: list[Any]) -> Any:
        """Return the node's result, as JSON."""

        def ask() -> list[Any]:
            request = self._build_request(method, params)
            return [attempt(lambda: _read(method, self._send(request)))]

        (outcome,) = self._observed([method], ask)
        return require(outcome)

    def forward(self, method: str, params: list[Any]) -> Any:
        """
        Return the node's result to a client's request, which may be any JSON.

        Raises as ``request`` and ``map_client_error``.  A response that is too large is
        a ``ResultTooLargeError``, since the client asked for it.
        """
        try:
            response = self._send(self._build_request(method, params))
        except ResponseTooLargeError:
            raise ResultTooLargeError from None
        error = response.get("error")
        if error is not None:
            raise map_client_error(method, error)
        return response.get("result")

    def request_all(self, calls: Sequence[MethodCall]) -> list[Any]:
        """
        Return the result of each call, as JSON, or its error, in one exchange.

        A call without a conclusive response is requested alone: the node may refuse
        batches, or large ones, or fail for one member.  Once the node does not respond,
        or after half of the timeout, the remaining calls fail.

        Raises:
            ChainUnavailableError: The node did not respond.
        """
        methods = [method for method, _ in calls]
        return self._observed(methods, lambda: self._request_all(calls))

    def takes(self, size: int) -> bool:
        """Return whether the node responds to each request of a batch of *size*."""
        found = attempt(lambda: self._send_batch([("eth_chainId", [])] * size))
        return not isinstance(found, ChainError) and len(found) == size

    def _observed(
        self, methods: Sequence[str], ask: Callable[[], list[Any]]
    ) -> list[Any]:
        started = time.monotonic()
        outcomes: Sequence[Any] = [ChainUnavailableError()] * len(methods)
        try:
            outcomes = answers = ask()
        finally:
            if self._observe is not None:
                codes = [
                    each.code if isinstance(each, ChainError) else "ok"
                    for each in outcomes
                ]
                seconds = time.monotonic() - started
                self._observe([*zip(methods, codes, strict=True)], seconds)
        return answers

    def _request_all(self, calls: Sequence[MethodCall]) -> list[Any]:
        outcomes: dict[int, Any] = {}
        size = self.rules.batch
        for start in range(0, len(calls), size):
            # Some gateways fail only batches, and a response may be too large.
            with suppress(ServerError, ResponseTooLargeError):
                chunk = calls[start : start + size]
                for position, outcome in self._send_batch(chunk).items():
                    outcomes[start + position] = outcome
        missing = [each for each in range(len(calls)) if each not in outcomes]
        alone = self._request_each([calls[position] for position in missing])
        outcomes.update(zip(missing, alone, strict=True))
        return [outcomes[position] for position in range(len(calls))]

    def _request_each(self, calls: Sequence[MethodCall]) -> Iterator[Any]:
        """Yield the outcome of each call, requested alone."""
        # The caller waits for one timeout, and needs the outcomes there are by then.
        deadline = time.monotonic() + self._timeout / 2
        failure: ChainError | None = None
        for method, params in calls:
            if failure is None and time.monotonic() > deadline:
                failure = CannotAnswerError(
                    "the node answers too slowly without batches"
                )
            if failure is None:
                request = self._build_request(method, params)
                response = attempt(partial(self._send, request))
                if not isinstance(response, ChainError):
                    yield _read(method, response)
                    continue
                failure = response
            yield failure

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        status, response = self._exchange(request)
        if isinstance(response, dict) and _matches(response, request["id"], status):
            return response
        if status != _OK:
            raise ChainUnavailableError(f"the node responded with HTTP status {status}")
        raise ChainUnavailableError("the node's response does not match the request")

    def _send_batch(self, calls: Sequence[MethodCall]) -> dict[int, Any]:
        """Return the conclusive results and errors by the positions of their calls."""
        if len(calls) == 1:
            return {}  # It will be requested alone.
        requests = [self._build_request(*call) for call in calls]
        status, responses = self._exchange(requests)
        by_id = _index(responses) if status == _OK else {}
        outcomes = {}
        for position, request in enumerate(requests):
            if request["id"] in by_id:
                outcome = _read(request["method"], by_id[request["id"]])
                if not isinstance(outcome, ChainError) or is_conclusive(outcome):
                    outcomes[position] = outcome
        return outcomes

    def _build_request(self, method: str, params: Any) -> dict[str, Any]:
        identifier = next(self._ids)
        return {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}

    def _exchange(self, request: object) -> tuple[int, object]:
        status, body = self._connection.exchange(json.dumps(request).encode())
        try:
            # Not json.loads: eth-account's dependencies raise Python's recursion limit
            # so far that a deeply nested response would overflow the stack.
            return status, from_json(body)
        except ValueError:
            return status, None


def _read(method: str, response: dict[str, Any]) -> Any:
    """Return the result in *response*, or the error as a value."""
    error = response.get("error")
    if error is not None:
        if method in _OF_BLOCK and is_not_found(error):
            return None
        return map_error(method, error)
    result = response.get("result", _MISSING)
    if not isinstance(result, _RESULT_TYPES.get(method, (str,))):
        return ChainUnavailableError("the node's response is malformed")
    return result


def _index(responses: object) -> dict[int, dict[str, Any]]:
    """Return the members of a batch by id; none if an id occurs twice."""
    if not isinstance(responses, list):
        return {}
    members = [
        response
        for response in responses
        if isinstance(response, dict) and type(response.get("id")) is int
    ]
    by_id = {member["id"]: member for member in members}
    return by_id if len(by_id) == len(members) else {}


def _matches(response: dict[str, Any], identifier: int, status: int) -> bool:
    if response.get("error") is not None:
        # Gateways send errors with 4xx, and null as the id if they did not parse it.
        return response.get("id") in (identifier, None)
    return status == _OK and response.get("id") == identifier and "result" in response
