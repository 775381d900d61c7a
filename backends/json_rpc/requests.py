"""
The requests to one node.

They are encoded and parsed here: web3's formatters take as long as the whole exchange
with a near node.

``ChainClient`` (``signer/ports/chain.py``) documents them.  Results are parsed strictly
(``parsing``); ``send`` raises ``ChainUnavailableError`` for a malformed one, as if the
node had not responded.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from eth_utils.crypto import keccak
from web3 import Web3
from web3.types import RPCEndpoint

from backends.json_rpc import parsing
from backends.json_rpc.error_mapping import AlreadyKnownError
from backends.json_rpc.node import MethodCall, Node
from backends.json_rpc.outcomes import attempt, require
from backends.json_rpc.parsing import Result, data, digest, quantity
from signer.errors import ChainError, ChainUnavailableError
from signer.ports import Block, Call, Fees, MinedTransaction, Receipt


_T = TypeVar("_T")
_A = TypeVar("_A")

# One batch, since a refund waits for it.  A chain without EIP-1559 serves only the
# first method.
_FEES: Sequence[MethodCall] = (
    ("eth_getBlockByNumber", ["latest", False]),
    ("eth_maxPriorityFeePerGas", []),
)


class ImpossibleResponseError(ChainUnavailableError):
    """The response of the node cannot be true."""


def send(request: Callable[[_A], _T], node: _A) -> _T:
    """
    Return the response of *node* to *request*.

    Raises:
        ChainError: The node refused the request.
        ChainUnavailableError: It did not respond, or its response is malformed.
    """
    try:
        return request(node)
    except ChainError:
        raise
    except (
        # What Python raises for a malformed result.
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ):
        pass
    # Outside the handler, because the caught error quotes the node.
    raise ChainUnavailableError("the node's response is malformed")


def chain_id(node: Web3) -> int:
    return quantity(ask(node, "eth_chainId", []))


def has_code(node: Web3, address: str) -> bool:
    return len(data(ask(node, "eth_getCode", [address, "latest"]))) > 0


def balance(node: Web3, address: str) -> int:
    return quantity(ask(node, "eth_getBalance", [address, "latest"]))


def call(node: Web3, call: Call) -> bytes:
    return data(ask(node, "eth_call", [_build_transaction(call), "latest"]))


def estimate_gas(node: Web3, call: Call) -> int:
    return quantity(ask(node, *_estimate(call)))


def transaction_count(node: Web3, address: str) -> int:
    return quantity(ask(node, *_count(address, "latest")))


def pending_count(node: Web3, address: str) -> int:
    return quantity(ask(node, *_count(address, "pending")))


def transaction_count_at(node: Web3, address: str, block: int) -> int:
    return quantity(ask(node, *_count(address, hex(block))))


def outlook(node: Web3, sender: str, calls: Sequence[Call]) -> Sequence[Any]:
    """Return the pending count, the fees and an estimate per call, or their errors."""
    count, block, tip, *estimates = ask_all(
        node, [_count(sender, "pending"), *_FEES, *(_estimate(call) for call in calls)]
    )
    return [
        _parse(quantity, count),
        _parse(lambda block: _parse_fees(node, block, tip), block),
        *(_parse(quantity, estimate) for estimate in estimates),
    ]


def estimates(node: Web3, calls: Sequence[Call]) -> Sequence[int | ChainError]:
    """Return an estimate per call, or its error."""
    results = ask_all(node, [_estimate(call) for call in calls])
    return [_parse(quantity, result) for result in results]


def broadcast_all(node: Web3, raws: Sequence[bytes]) -> Sequence[ChainError | None]:
    """Broadcast *raws*, and check the hashes in the responses; return the errors."""
    results = ask_all(
        node, [("eth_sendRawTransaction", [f"0x{raw.hex()}"]) for raw in raws]
    )
    return [
        None
        if isinstance(result, AlreadyKnownError)
        else _parse(partial(_check_hash, raw), result)
        for raw, result in zip(raws, results, strict=True)
    ]


def _check_hash(raw: bytes, tx_hash: str) -> None:
    if data(tx_hash) != keccak(raw):
        raise ImpossibleResponseError("the node responded for another transaction")


def fees(node: Web3) -> Fees:
    block, tip = ask_all(node, _FEES)
    return _parse_fees(node, require(block), tip)


def _parse_fees(node: Web3, block: Result, tip: Any) -> Fees:
    parsing.block(block)  # Raises if it is malformed.
    base_fee = block.get("baseFeePerGas")
    if base_fee is None:
        return Fees(base_fee=None, priority_fee=quantity(ask(node, "eth_gasPrice", [])))
    return Fees(quantity(base_fee), priority_fee=quantity(require(tip)))


def receipts(
    node: Web3, tx_hashes: Sequence[str]
) -> Sequence[Receipt | ChainError | None]:
    """Return each receipt, None if the node does not have it, or its error."""
    results = ask_all(
        node, [("eth_getTransactionReceipt", [tx_hash]) for tx_hash in tx_hashes]
    )
    return [
        _parse(partial(parsing.receipt, tx_hash=tx_hash), result)
        for tx_hash, result in zip(tx_hashes, results, strict=True)
    ]


def transaction(node: Web3, tx_hash: str) -> MinedTransaction | None:
    """Return a mined transaction, or None if the node does not have it mined."""
    result = ask(node, "eth_getTransactionByHash", [tx_hash])
    return parsing.transaction(result, tx_hash)


def hash_in_block(node: Web3, number: int, sender: str, nonce: int) -> str | None:
    """
    Return the hash of *sender*'s transaction with *nonce* in the block at *number*.

    The other transactions are not parsed: each rollup has its own transaction types.
    """
    found = ask(node, "eth_getBlockByNumber", [hex(number), True])
    result: Result = found or {"transactions": ()}
    for entry in result["transactions"]:
        if entry["from"].lower() == sender.lower() and int(entry["nonce"], 16) == nonce:
            return digest(entry["hash"])
    return None


def latest_block(node: Web3) -> Block:
    return parsing.block(ask(node, *_block("latest")))


def block(node: Web3, number: int) -> Block | None:
    """Return the canonical block at *number*, or None if the node has none."""
    found = ask(node, *_block(hex(number)))
    if found is None:
        return None
    result = parsing.block(found)
    if result.number != number:
        raise ValueError("another block")
    return result


def _count(address: str, block: str) -> MethodCall:
    return "eth_getTransactionCount", [address, block]


def _estimate(call: Call) -> MethodCall:
    return "eth_estimateGas", [_build_transaction(call)]


def _block(number: str) -> MethodCall:
    return "eth_getBlockByNumber", [number, False]


def _build_transaction(call: Call) -> dict[str, str]:
    return {
        **({} if call.sender is None else {"from": call.sender}),
        "to": call.to,
        "data": f"0x{call.data.hex()}",
        "value": "0x0",
    }


def ask(node: Web3, method: str, params: list[Any]) -> Any:
    """Return the result of *method*, as JSON."""
    provider = cast("Node", node.provider)
    return provider.make_request(RPCEndpoint(method), params)["result"]


def ask_all(node: Web3, calls: Sequence[MethodCall]) -> list[Any]:
    """Return the result of each call, as JSON, or its ``ChainError``."""
    return cast("Node", node.provider).request_all(calls)


def _parse(parse: Callable[[Any], _T], outcome: Any) -> _T | ChainError:
    """Return the result of a request, parsed, or its error."""
    return attempt(lambda: send(parse, require(outcome)))
