"""One node behind one URL: JSON-RPC below web3.py, single requests and batches."""

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
from backends.json_rpc.error_mapping import says_not_found, translate
from signer.errors import ChainUnavailableError


MethodCall = tuple[str, list[Any]]
"""A method of JSON-RPC, and its parameters as web3 writes them."""

_OK = 200

# As many as the public endpoints that count their members take.
_LARGEST_BATCH = 50

# Results are hex strings, but for these.
_SHAPES: dict[str, tuple[type, ...]] = {
    "eth_getBlockByNumber": (dict, NoneType),
    "eth_getTransactionByHash": (dict, NoneType),
    "eth_getTransactionReceipt": (dict, NoneType),
}


def connect(url: SecretStr, timeout: float) -> Web3:
    """Return web3 over the node at *url*; nothing is asked yet."""
    # Chains with proof of authority write more into a block's extra data than web3
    # would have; its other middleware is of no use here and costs time.
    return Web3(Node(url, timeout), middleware=[(ExtraDataToPOAMiddleware, "poa")])


class Node(JSONBaseProvider):
    """
    A web3.py provider that speaks in our errors and never in the node's.

    web3's own HTTP provider logs URLs, which hold the provider's API key, retries
    by itself, and bounds each read from the socket, but not their sum.  This one has
    one deadline for the whole exchange, repeats only what the connection broke, and
    checks that the answer is the one to its question.

    Threads share it, processes do not: see ``Connection``, which has the arguments.
    """

    # EIP-3668 lets a contract answer with URLs for the caller to fetch: not for us.
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
            ChainError: What ``answers.translate`` makes of the node's error, or
                ``ChainUnavailableError`` when there is no answer that makes sense.
        """
        fetched = self._fetched()
        answer = fetched.pop(_name(method, params), None) if fetched else None
        if answer is None:
            answer = self._ask(self._question(method, params))
        error = answer.get("error")
        if error is not None:
            if method == "eth_getBlockByNumber" and says_not_found(error):
                return _response(None)
            raise translate(method, error)
        result = answer["result"]
        if not isinstance(result, _SHAPES.get(method, (str,))):
            # web3 would make bytes of anything, even of true.
            raise ChainUnavailableError("the node's answer makes no sense")
        return _response(result)

    @contextmanager
    def batch(self, calls: Sequence[MethodCall]) -> Iterator[None]:
        """
        Ask for the results of several *calls* in one exchange, ahead of their use.

        Inside the block, requests of this thread for them are answered from there.
        What the batch did not bring, since the node takes none, or not so large
        ones, or has trouble with one member, is asked singly when it is needed.

        Raises:
            ChainUnavailableError: The node did not answer at all.
        """
        fetched = self._fetched()
        try:
            for chunk in _chunks(calls, _LARGEST_BATCH):
                fetched.update(self._ask_batch(chunk))
            yield
        finally:
            fetched.clear()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        status, answer = self._exchange(question)
        if isinstance(answer, dict) and _is_about(answer, question["id"], status):
            return answer
        if status != _OK:
            raise ChainUnavailableError(f"the node answers with HTTP status {status}")
        raise ChainUnavailableError("the node's answer is not one to the question")

    def _ask_batch(self, calls: Sequence[MethodCall]) -> dict[str, dict[str, Any]]:
        if len(calls) == 1:
            return {}  # It will be asked for by itself.
        questions = {q["id"]: q for q in (self._question(*call) for call in calls)}
        status, answers = self._exchange(list(questions.values()))
        if status != _OK or not isinstance(answers, list):
            return {}
        return {
            _name_of(questions[answer["id"]]): answer
            for answer in answers
            if isinstance(answer, dict)
            and type(answer.get("id")) is int
            and answer["id"] in questions
            and answer.get("error") is None
            and "result" in answer
        }

    def _question(self, method: str, params: Any) -> dict[str, Any]:
        identifier = next(self._ids)
        return {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}

    def _exchange(self, question: object) -> tuple[int, object]:
        status, body = self._connection.exchange(json.dumps(question).encode())
        try:
            # Not json.loads: eth-account's dependencies raise Python's recursion limit
            # so far that a deeply nested answer would overflow the stack and kill us.
            return status, from_json(body)
        except ValueError:
            return status, None

    def _fetched(self) -> dict[str, dict[str, Any]]:
        """Return this thread's answers that came ahead, by the question's name."""
        fetched: dict[str, dict[str, Any]] | None
        fetched = getattr(self._thread, "fetched", None)
        if fetched is None:
            fetched = self._thread.fetched = {}
        return fetched


def _response(result: Any) -> RPCResponse:
    # web3 wants an id, and leaves it to us whether it is the right one.
    return RPCResponse(jsonrpc="2.0", id=0, result=result)


def _is_about(answer: dict[str, Any], identifier: int, status: int) -> bool:
    if answer.get("error") is not None:
        # Gateways send errors with 4xx, and null where they do not know the id.
        return answer.get("id") in (identifier, None)
    return status == _OK and answer.get("id") == identifier and "result" in answer


def _name(method: str, params: Any) -> str:
    return f"{method}{json.dumps(params)}"


def _name_of(question: dict[str, Any]) -> str:
    return _name(question["method"], question["params"])


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
