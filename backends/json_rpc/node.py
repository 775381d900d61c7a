"""JSON-RPC to one node: single requests and batches."""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from types import NoneType
from typing import Any

from pydantic import SecretStr
from pydantic_core import from_json

from backends.json_rpc.connection import (
    MAX_RESPONSE_BYTES,
    NodeConnection,
    ResponseTooLargeError,
    ServerError,
)
from backends.json_rpc.error_mapping import (
    CannotAnswerError,
    is_conclusive,
    is_not_found,
    map_client_error,
    map_error,
)
from backends.json_rpc.parsing import attempt
from signer.errors import ChainError, ChainUnavailableError, ResultTooLargeError
from signer.outcomes import require


MethodCall = tuple[str, list[Any]]
"""A JSON-RPC method and its parameters."""

Observed = Sequence[tuple[str, str]]
"""Methods, each with ``ok`` or the code of its error."""

_OK = 200
_MISSING = object()

LARGEST_BATCH = 50
"""The largest batch that public endpoints with a limit accept."""

# Results are hex strings, except for these methods.
_RESULT_TYPES: dict[str, tuple[type, ...]] = {
    "eth_getBlockByNumber": (dict, NoneType),
    "eth_getLogs": (list,),
    "eth_getTransactionByHash": (dict, NoneType),
    "eth_getTransactionReceipt": (dict, NoneType),
}


class Node:
    """
    Sends JSON-RPC requests to the node at *url*; no connection is opened yet.

    There is one deadline for the whole exchange, a request is repeated only after a
    broken connection, and the id of the response is checked.

    Threads share it, processes do not.  *timeout* is in seconds, for one exchange.
    *observe* is called with what was asked, and the seconds that it took.
    """

    def __init__(
        self,
        url: SecretStr,
        timeout: float,
        max_bytes: int = MAX_RESPONSE_BYTES,
        observe: Callable[[Observed, float], None] | None = None,
    ) -> None:
        self._observe = observe
        self._connection = NodeConnection(url, timeout, max_bytes)
        self._timeout = timeout
        self._ids = itertools.count(1)

    def request(self, method: str, params: list[Any]) -> Any:
        """
        Return the node's result, as JSON.

        Raises:
            ChainError: The node returned an error (``error_mapping.map_error``).
            ChainUnavailableError: There is no response, or it is malformed.
        """

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
        for start in range(0, len(calls), LARGEST_BATCH):
            # Some gateways fail only batches.
            with suppress(ServerError):
                chunk = calls[start : start + LARGEST_BATCH]
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
        if method == "eth_getBlockByNumber" and is_not_found(error):
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
