"""
A local chain without anvil: JSON-RPC over HTTP for eth-tester and py-evm.

It returns geth's error codes and messages.  It mines each transaction at once, queues
none (a nonce that is too high is refused), and stores nothing.
"""

import argparse
import ast
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from eth_abi.abi import encode
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_tester import (  # type: ignore[import-untyped]  # It ships no types.
    EthereumTester,
    PyEVMBackend,
)
from eth_tester.exceptions import (  # type: ignore[import-untyped]  # Nor here.
    TransactionFailed,
)
from hexbytes import HexBytes
from web3 import EthereumTesterProvider, Web3
from web3.exceptions import ContractLogicError
from web3.types import RPCEndpoint


# py-evm's messages for a refused transaction, and geth's messages for the same.
_MESSAGES = (
    (r"does not have enough balance", "insufficient funds for gas * price + value"),
    (r"is lower than block's base fee", "max fee per gas less than block base fee"),
    (r"Insufficient gas|Transaction gas too low", "intrinsic gas too low"),
)

_ERROR_STRING = bytes.fromhex("08c379a0")  # The selector of Error(string).


class TesterNode:
    """An Ethereum node in this process; a lock makes it thread-safe."""

    def __init__(self, chain_id: int) -> None:
        self._chain_id = chain_id
        self._lock = threading.Lock()
        backend = PyEVMBackend()
        # The class belongs to this backend only, and has no parameter for the id.
        type(backend.chain).chain_id = chain_id
        self._tester = EthereumTester(backend)
        provider = EthereumTesterProvider(self._tester)
        w3 = Web3(provider, middleware=[])
        self._request = provider.request_func(w3, w3.middleware_onion)

    def mine(self) -> None:
        """Add an empty block."""
        with self._lock:
            self._tester.mine_blocks(1)

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON-RPC 2.0 answer to *request*."""
        method, params = str(request["method"]), list(request.get("params") or ())
        try:
            with self._lock:
                outcome = self._outcome(method, params)
        except Exception as e:  # noqa: BLE001  # py-evm raises errors of any class.
            outcome = {"error": _error(e)}
        return {"jsonrpc": "2.0", "id": request.get("id"), **outcome}

    def _outcome(self, method: str, params: list[Any]) -> dict[str, Any]:
        if method == "eth_chainId":
            return {"result": hex(self._chain_id)}
        if method == "eth_sendRawTransaction":
            self._check_chain(HexBytes(params[0]))
        answer = self._request(RPCEndpoint(method), params)
        if "error" in answer:
            return {"error": answer["error"]}
        return {"result": _jsonable(answer["result"])}

    def _check_chain(self, raw: HexBytes) -> None:
        # py-evm accepts typed transactions of any chain; EIP-155 forbids that.
        if raw[0] > 0x7F:  # noqa: PLR2004  # EIP-2718: a legacy transaction.
            return
        if int(TypedTransaction.from_bytes(raw).as_dict()["chainId"]) != self._chain_id:
            raise ValueError("invalid chain id for signer")


def _jsonable(value: Any) -> Any:
    """Return *value* with quantities and bytes encoded as in JSON-RPC."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value


def _error(error: Exception) -> dict[str, Any]:
    if isinstance(error, (TransactionFailed, ContractLogicError)):
        data = "0x" + _revert_data(error).hex()
        return {"code": 3, "message": "execution reverted", "data": data}
    return {"code": -32000, "message": _translate_message(str(error))}


def _revert_data(error: Exception) -> bytes:
    """
    Return the return data of a revert.

    Both libraries replace it: web3 by the message of a panic, and eth-tester by the
    text of the reason or the Python literal of the bytes.
    """
    if isinstance(error, ContractLogicError):
        return HexBytes(str(error.data))
    words = str(error).removeprefix("execution reverted: ")
    if words.startswith(("b'", 'b"')):
        return bytes(ast.literal_eval(words))
    return _ERROR_STRING + encode(["string"], [words])


def _translate_message(message: str) -> str:
    nonces = re.search(r"nonce: Expected (\d+), but got (\d+)", message)
    if nonces:
        expected, given = map(int, nonces.groups())
        return "nonce too low" if given < expected else "nonce too high"
    for pattern, words in _MESSAGES:
        if re.search(pattern, message):
            return words
    return message


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # Otherwise threads that connect at once wait a second.


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    node: TesterNode

    def do_POST(self) -> None:
        """Respond to one request or a batch."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if isinstance(request, list):
            body = json.dumps([self.node.answer(each) for each in request]).encode()
        else:
            body = json.dumps(self.node.answer(request)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def main() -> None:
    """Serve on loopback until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m dev.tester_chain")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--chain-id", type=int, required=True)
    parser.add_argument("--block-time", type=int)
    options = parser.parse_args()
    node = TesterNode(options.chain_id)
    handler = type("Handler", (_Handler,), {"node": node})
    server = _Server(("127.0.0.1", options.port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pause = threading.Event()
    while not pause.wait(options.block_time):
        node.mine()


if __name__ == "__main__":
    main()
