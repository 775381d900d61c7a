"""A JSON-RPC client for nodes on this machine: the standard library, no retries."""

import itertools
import json
import time
import urllib.request
from typing import Any


class RPCError(Exception):
    """The node returned an error object (JSON-RPC 2.0, section 5.1)."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.data = data


class RPC:
    """Call it like a function: ``RPC(url)("eth_getBalance", address, "latest")``."""

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        self.url = url
        self._timeout = timeout
        self._ids = itertools.count(1)
        # A proxy of the environment cannot reach this machine's loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __call__(self, method: str, *params: object) -> Any:
        """
        Return the result of *method*.

        Raises:
            RPCError: The node returned an error.
            OSError: The node did not respond.
        """
        request = {
            "jsonrpc": "2.0",
            "id": next(self._ids),
            "method": method,
            "params": params,
        }
        with self._opener.open(
            urllib.request.Request(  # noqa: S310  # The caller's own http URL.
                self.url,
                json.dumps(request).encode(),
                {"Content-Type": "application/json"},
            ),
            timeout=self._timeout,
        ) as response:
            body = json.load(response)
        if "error" in body:
            error = body["error"]
            raise RPCError(error["code"], error["message"], error.get("data"))
        return body["result"]

    def transact(self, transaction: dict[str, str], timeout: float = 30.0) -> Any:
        """
        Send from an account that the node keeps unlocked; return the receipt.

        *transaction* has the hex strings of ``eth_sendTransaction``; ``gas`` defaults
        to two million.

        Raises:
            RPCError: The node returned an error, or the transaction failed on-chain.
            TimeoutError: It was not mined within *timeout* seconds.
        """
        defaults = {"gas": hex(2_000_000)}
        if self("eth_getBlockByNumber", "latest", False).get("baseFeePerGas") is None:
            # Otherwise anvil would add fees, which this chain does not know.
            defaults["gasPrice"] = self("eth_gasPrice")
        tx_hash = self("eth_sendTransaction", {**defaults, **transaction})
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            receipt = self("eth_getTransactionReceipt", tx_hash)
            if receipt is not None:
                if receipt["status"] != "0x1":
                    raise RPCError(3, "the transaction was mined and failed")
                return receipt
            time.sleep(0.02)
        raise TimeoutError("the transaction was not mined in time")
