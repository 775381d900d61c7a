"""Requests for tests of the JSON-RPC client, and good responses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from eth_utils.crypto import keccak

from backends.json_rpc import JSONRPCChain
from backends.json_rpc.node import NO_RULES, NodeRules
from signer.ports.chain import Block, Call, ChainClient, Fees, Preflight, Receipt
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Computed, Error, Reply, Result


RAW = b"\x02signed bytes"
HASH = "0x" + keccak(RAW).hex()
ADDRESS = "0x00000000000000000000000000000000DeaDBeef"
CALL = Call(ADDRESS, ADDRESS, b"\x01\x02\x03\x04")
BLOCK = {"number": "0x10", "hash": "0x" + "AB" * 32, "baseFeePerGas": "0x64"}
RECEIPT = {
    "transactionHash": HASH,
    "blockHash": "0x" + "ab" * 32,
    "blockNumber": "0x10",
    "status": "0x1",
    "logs": [],
}

REVERTED = RECEIPT | {"status": "0x0"}
FORKED = RECEIPT | {"blockHash": "0x" + "cd" * 32}

METHODS: dict[str, tuple[str, Callable[[JSONRPCChain], object]]] = {
    "chain_id": ("eth_chainId", lambda chain: chain.chain_id()),
    "code": ("eth_getCode", lambda chain: chain.code(ADDRESS)),
    "balance": ("eth_getBalance", lambda chain: chain.balance(ADDRESS)),
    "call": ("eth_call", lambda chain: chain.call(CALL)),
    "estimate_gas": ("eth_estimateGas", lambda chain: chain.estimate_gas(CALL)),
    "transaction_count": (
        "eth_getTransactionCount",
        lambda chain: chain.transaction_count(ADDRESS),
    ),
    "pending_count": (
        "eth_getTransactionCount",
        lambda chain: chain.pending_count(ADDRESS),
    ),
    "past_count": (
        "eth_getTransactionCount",
        lambda chain: chain.transaction_count(ADDRESS, 15),
    ),
    "fees": ("eth_getBlockByNumber", lambda chain: chain.fees()),
    "preflight": (
        "eth_getTransactionCount",
        lambda chain: chain.preflight(ADDRESS, [CALL]),
    ),
    "broadcast": ("eth_sendRawTransaction", lambda chain: broadcast(chain, RAW)),
    "receipt": ("eth_getTransactionReceipt", lambda chain: receipt_of(chain, HASH)),
    "receipts": ("eth_getTransactionReceipt", lambda chain: chain.receipts([HASH])),
    "find_transaction": (
        "eth_getBlockByNumber",
        lambda chain: chain.find_transaction(ADDRESS, 5),
    ),
    "latest_block": ("eth_getBlockByNumber", lambda chain: chain.latest_block()),
    "block": ("eth_getBlockByNumber", lambda chain: chain.block(16)),
}
"""The first JSON-RPC method of each method of the port, and a call of it."""

RESULTS: dict[str, object] = {
    "eth_chainId": "0x1",
    "eth_getCode": "0x60",
    "eth_getBalance": "0x2",
    "eth_call": "0x03",
    "eth_estimateGas": "0x4",
    "eth_getTransactionCount": "0x5",
    "eth_getBlockByNumber": BLOCK,
    "eth_maxPriorityFeePerGas": "0x7",
    "eth_sendRawTransaction": HASH,
    "eth_getTransactionReceipt": None,
}
"""A good result of each method of JSON-RPC."""

ANSWERS: dict[str, object] = {
    "chain_id": 1,
    "code": b"\x60",
    "balance": 2,
    "call": b"\x03",
    "estimate_gas": 4,
    "transaction_count": 5,
    "pending_count": 5,
    "past_count": 5,
    "fees": Fees(base_fee=100, priority_fee=7),
    "preflight": Preflight(5, Fees(base_fee=100, priority_fee=7), (4,)),
    "broadcast": None,
    "receipt": None,
    "receipts": {},
    "find_transaction": None,
    "latest_block": Block(16, "0x" + "ab" * 32),
    "block": Block(16, "0x" + "ab" * 32),
}
"""The values that the methods of the port return for those results."""

BATCHES = {
    "fees": ("eth_maxPriorityFeePerGas",),
    "preflight": (
        "eth_getBlockByNumber",
        "eth_maxPriorityFeePerGas",
        "eth_estimateGas",
    ),
}
"""The other JSON-RPC methods of methods of the port that send a batch."""

every_method = pytest.mark.parametrize("name", METHODS)


def script_first(node: FakeNode, name: str, reply: Reply) -> None:
    """Let *node* answer the first request of the method *name* with *reply*."""
    endpoint, _ = METHODS[name]
    for other in BATCHES.get(name, ()):
        node.script(other, Result(RESULTS[other]))
        if not isinstance(reply, Result | Error):
            node.script("batch", reply)  # Not possible for a member.
    node.script(endpoint, reply)


HASH_OF_SENT = Computed(lambda params: "0x" + keccak(hexstr=params[0]).hex())
"""An honest response to ``eth_sendRawTransaction``."""

Three = tuple[FakeNode, FakeNode, FakeNode]


def script_all(nodes: Three, method: str, *replies: Reply) -> None:
    """Let each of three nodes answer *method* with its reply."""
    for node, reply in zip(nodes, replies, strict=True):
        node.script(method, reply)


def script_receipts(nodes: Three, *replies: Reply) -> None:
    """Let each of three nodes answer requests for receipts with its reply."""
    script_all(nodes, "eth_getTransactionReceipt", *replies)


def client(
    *nodes: FakeNode,
    timeout: float = 5.0,
    chain_id: int | None = None,
    rules: NodeRules = NO_RULES,
) -> JSONRPCChain:
    """Return a client of *nodes*, the first one preferred."""
    urls = [node.url for node in nodes]
    return JSONRPCChain(urls, timeout, chain_id, rules=rules)


def receipt_of(chain: ChainClient, tx_hash: str) -> Receipt | None:
    return chain.receipts([tx_hash]).get(tx_hash.lower())


def broadcast(chain: ChainClient, raw: bytes) -> None:
    """
    Broadcast one transaction through *chain*.

    Raises:
        ChainError: The error of ``broadcast_all`` for it.
    """
    (error,) = chain.broadcast_all([raw])
    if error:
        raise error


@dataclass
class ScriptedProxy:
    """Answers what a test sets, and remembers what was asked."""

    answers: Mapping[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, list[Any]]] = field(default_factory=list)

    def forward(self, method: str, params: Sequence[Any]) -> Any:
        """Return or raise the answer to *method*."""
        self.asked.append((method, list(params)))
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        return answer
