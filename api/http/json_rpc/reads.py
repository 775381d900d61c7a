"""
The reads that are forwarded to the nodes: a list of what is allowed, and its bounds.

What a node answers is passed on, and decides nothing about a payment.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from api.http.json_rpc.errors import INVALID_PARAMS, RPCError
from signer.crypto.transaction_json import read_address, read_quantity
from signer.errors import InvalidInputError, ResultTooLargeError
from signer.ports.node_proxy import NodeProxy


READS: Mapping[str, int] = {
    "eth_blockNumber": 0,
    "eth_call": 4,
    "eth_createAccessList": 2,
    "eth_estimateGas": 3,
    "eth_feeHistory": 3,
    "eth_gasPrice": 0,
    "eth_getBalance": 2,
    "eth_getBlockByHash": 2,
    "eth_getBlockByNumber": 2,
    "eth_getBlockReceipts": 1,
    "eth_getCode": 2,
    "eth_getLogs": 1,
    "eth_getStorageAt": 3,
    "eth_getTransactionByHash": 1,
    "eth_getTransactionCount": 2,
    "eth_getTransactionReceipt": 1,
    "eth_maxPriorityFeePerGas": 0,
    "eth_syncing": 0,
    "hardhat_metadata": 0,
}
"""The methods, with the most parameters that each may have."""

LOCAL_CHAIN = 31337
"""Hardhat asks a node of this chain whether it is a simulated one."""

MAX_BLOCKS = 1_000
"""The most blocks of one ``eth_getLogs``."""

MAX_RESULT = 4 * 1024 * 1024
"""The results of one HTTP request together, in characters of JSON."""

_FIRST = "earliest"
_LAST = frozenset({"latest", "pending", "safe", "finalized"})


@dataclass
class ResponseBudget:
    """What is left for the results of one HTTP request, in characters of JSON."""

    left: int = MAX_RESULT

    @contextmanager
    def taken(self) -> Iterator[Callable[[int], None]]:
        """
        Take room for one result; the value takes that many characters.

        Raises:
            ResultTooLargeError: There is too little.  No further result has room then:
                reading each to its end would cost as much as answering it.
        """
        if self.left <= 0:
            raise ResultTooLargeError
        try:
            yield self._take
        except ResultTooLargeError:
            self.left = 0
            raise

    def _take(self, size: int) -> None:
        if size > self.left:
            raise ResultTooLargeError
        self.left -= size


class Reads:
    """The reads of one network."""

    def __init__(self, proxy: NodeProxy, next_nonce: Callable[[str], int]) -> None:
        """*next_nonce* returns that of the wallet's address."""
        self._proxy = proxy
        self._next_nonce = next_nonce

    def answer(
        self, method: str, params: Sequence[Any], own: str, budget: ResponseBudget
    ) -> Any:
        """
        Return the result of *method*, which is one of ``READS``.

        *own* is the wallet's address: its next nonce is the ledger's.  *budget* is what
        the HTTP request has left for results.

        Raises:
            RPCError: There are too many parameters.
            InvalidInputError, ChainError: As ``NodeProxy.forward``.
        """
        if len(params) > READS[method]:
            problem = f"{method} has at most {READS[method]} parameters"
            raise RPCError(INVALID_PARAMS, problem)
        if method == "eth_getTransactionCount":
            of_address, at_block = [*params, None, None][:2]
            if at_block == "pending" and read_address(of_address, "address") == own:
                return hex(self._next_nonce(own))
        if method == "eth_getLogs":
            self._require_few_blocks(params)
        with budget.taken() as take:
            result = self._proxy.forward(method, params)
            take(len(json.dumps(result)))
        return result

    def _require_few_blocks(self, params: Sequence[Any]) -> None:
        if len(params) != 1 or not isinstance(params[0], dict):
            raise InvalidInputError("must be one object", field="params")
        query = params[0]
        if query.get("blockHash") is not None:
            return
        first, last = query.get("fromBlock"), query.get("toBlock")
        head: int | None = None
        bounds = []
        for each, name in ((first, "fromBlock"), (last, "toBlock")):
            if each is None or (isinstance(each, str) and each in _LAST):
                if head is None:
                    found = self._proxy.forward("eth_blockNumber", [])
                    head = read_quantity(found, "eth_blockNumber")
                bounds.append(head)
            else:
                bounds.append(0 if each == _FIRST else read_quantity(each, name))
        if bounds[1] - bounds[0] >= MAX_BLOCKS:
            raise InvalidInputError(
                f"eth_getLogs reads at most {MAX_BLOCKS} blocks: ask for fewer",
                field="fromBlock",
            )
