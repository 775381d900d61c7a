"""JSON-RPC to one node: single requests and batches, as a web3.py provider."""

import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import NoneType
from typing import Any

from pydantic import SecretStr
from pydantic_core import from_json
from web3 import Web3
from web3.middleware import ExtraDataToPOAMiddleware
from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from backends.json_rpc.connection import Connection
from backends.json_rpc.error_mapping import is_not_found, map_error
from signer.errors import ChainUnavailableError


MethodCall = tuple[str, list[Any]]
"""A JSON-RPC method and its parameters as web3 encodes them."""

_OK = 200

# The largest batch that public endpoints with a limit accept.
_LARGEST_BATCH = 50

# Results are hex strings, except for these methods.
_RESULT_TYPES: dict[str, tuple[type, ...]] = {
    "eth_getBlockByNumber": (dict, NoneType),
    "eth_getTransactionByHash": (dict, NoneType),
    "eth_getTransactionReceipt": (dict, NoneType),
}


def connect(url: SecretStr, timeout: float) -> Web3:
    """Return web3 over the node at *url*; no connection is opened."""
    # Proof-of-authority chains have more extra data in a block than web3 accepts
    # without this middleware.  The default middleware is not needed and costs time.
    return Web3(Node(url, timeout), middleware=[(ExtraDataToPOAMiddleware, "poa")])


class Node(JSONBaseProvider):
    """
    A web3.py provider that raises the errors of ``signer.errors``.

    web3's own HTTP provider logs URLs, which contain the API key, retries requests,
    and bounds each read from the socket, but not their sum.  This provider has one
    deadline for the whole exchange, retries only after a broken connection, and checks
    the id of the response.

    Threads share it, processes do not.  *timeout* is in seconds, for one exchange.
    """

    # With EIP-3668 a contract could make us fetch arbitrary URLs.
    global_ccip_read_enabled = False

    def __init__(self, url: SecretStr, timeout: float) -> None:
        super().__init__()
        self._connection = Connection(url, timeout)
        self._ids = itertools.count(1)
        self._thread = threading.local()

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """
        Return the node's result.

        Raises:
            ChainError: The node returned an error (``error_mapping.map_error``).
            ChainUnavailableError: There is no response, or it is malformed.
        """
        fetched = self._get_fetched()
        response = fetched.pop(_cache_key(method, params), None) if fetched else None
        if response is None:
            response = self._send(self._build_request(method, params))
        error = response.get("error")
        if error is not None:
            if method == "eth_getBlockByNumber" and is_not_found(error):
                return _wrap(None)
            raise map_error(method, error)
        result = response["result"]
        if not isinstance(result, _RESULT_TYPES.get(method, (str,))):
            # web3 would convert anything to bytes, even true.
            raise ChainUnavailableError("the node's response is malformed")
        return _wrap(result)

    @contextmanager
    def batch(self, calls: Sequence[MethodCall]) -> Iterator[None]:
        """
        Fetch the results of several *calls* in one exchange, before they are used.

        Inside the context, requests of this thread take their results from the batch.
        A result that is missing is requested alone when it is needed: the node may
        refuse batches, or large ones, or fail for one member.

        Raises:
            ChainUnavailableError: The node did not respond.
        """
        fetched = self._get_fetched()
        try:
            for start in range(0, len(calls), _LARGEST_BATCH):
                chunk = calls[start : start + _LARGEST_BATCH]
                fetched.update(self._send_batch(chunk))
            yield
        finally:
            fetched.clear()

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        status, response = self._exchange(request)
        if isinstance(response, dict) and _matches(response, request["id"], status):
            return response
        if status != _OK:
            raise ChainUnavailableError(f"the node responded with HTTP status {status}")
        raise ChainUnavailableError("the node's response does not match the request")

    def _send_batch(self, calls: Sequence[MethodCall]) -> dict[str, dict[str, Any]]:
        if len(calls) == 1:
            return {}  # It will be requested alone.
        requests = [self._build_request(*call) for call in calls]
        keys = {
            each["id"]: _cache_key(each["method"], each["params"]) for each in requests
        }
        status, responses = self._exchange(requests)
        if status != _OK or not isinstance(responses, list):
            return {}
        return {
            keys[response["id"]]: response
            for response in responses
            if isinstance(response, dict)
            and type(response.get("id")) is int
            and response["id"] in keys
            and response.get("error") is None
            and "result" in response
        }

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

    def _get_fetched(self) -> dict[str, dict[str, Any]]:
        """Return the responses that this thread fetched in a batch, by request."""
        fetched: dict[str, dict[str, Any]] | None
        fetched = getattr(self._thread, "fetched", None)
        if fetched is None:
            fetched = self._thread.fetched = {}
        return fetched


def _wrap(result: Any) -> RPCResponse:
    # web3 requires an id and does not check it.
    return RPCResponse(jsonrpc="2.0", id=0, result=result)


def _matches(response: dict[str, Any], identifier: int, status: int) -> bool:
    if response.get("error") is not None:
        # Gateways send errors with 4xx, and null as the id if they did not parse it.
        return response.get("id") in (identifier, None)
    return status == _OK and response.get("id") == identifier and "result" in response


def _cache_key(method: str, params: Any) -> str:
    return f"{method}{json.dumps(params)}"
