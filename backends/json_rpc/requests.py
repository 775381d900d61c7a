"""
The requests to one node.

``ChainClient`` (``signer/ports/chain.py``) documents them.  Results are parsed strictly
(``parsing``); ``send`` raises ``ChainUnavailableError`` for a malformed one, as if the
node had not responded.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from eth_utils.crypto import keccak

from backends.json_rpc import parsing
from backends.json_rpc.error_mapping import AlreadyKnownError, CannotAnswerError
from backends.json_rpc.node import MethodCall, Node
from backends.json_rpc.parsing import Result, attempt, data, digest, quantity
from signer.chain.erc20 import encode_balance_of
from signer.errors import (
    ChainError,
    ChainUnavailableError,
    ExecutionRevertedError,
    require,
)
from signer.ports.chain import Block, Call, Fees, FinalityTag, MinedTransaction, Receipt


_T = TypeVar("_T")
_A = TypeVar("_A")

# One batch, since a refund waits for it.  A chain without EIP-1559 serves only the
# first method.
_FEES: Sequence[MethodCall] = (
    ("eth_getBlockByNumber", ["latest", False]),
    ("eth_maxPriorityFeePerGas", []),
)
_GAS_PRICE: Sequence[MethodCall] = (("eth_gasPrice", []),)


_SIMULATE = "eth_simulateV1"
_FAILED = "the call failed in one block with others"

_FEWEST_SIMULATED = 4
"""A simulation is an exchange more, and some providers bill it as several calls."""


class ImpossibleResponseError(ChainUnavailableError):
    """The response of the node cannot be true."""


def send(request: Callable[[_A], _T], node: _A) -> _T:
    """Return the response of *node* to *request*."""
    try:
        return request(node)
    except ChainError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError):
        pass
    # Outside the handler, because the caught error quotes the node.
    raise ChainUnavailableError("the node's response is malformed")


def _reads(method: str, parse: Callable[[Any], _T], *last: Any) -> Callable[..., _T]:
    """Return the request *method*, whose parameters end with *last*."""
    return lambda node, *params: parse(node.request(method, [*params, *last]))


chain_id = _reads("eth_chainId", quantity)
coin_of = _reads("eth_getBalance", quantity, "latest")
code = _reads("eth_getCode", data, "latest")
transaction_count = _reads("eth_getTransactionCount", quantity, "latest")
latest_block = _reads("eth_getBlockByNumber", parsing.block, "latest", False)


def pending_count(node: Node, address: str) -> int:
    params = [address, node.rules.pending]
    return quantity(node.request("eth_getTransactionCount", params))


def final_block(node: Node, tag: FinalityTag) -> Block:
    result = node.request("eth_getBlockByNumber", [tag, False])
    if result is None:
        raise CannotAnswerError(f"the node has no {tag} block")
    return parsing.block(result)


def balance(node: Node, address: str) -> int:
    if node.rules.coin is None:
        return coin_of(node, address)
    token, unit = node.rules.coin
    asked = Call(None, token, encode_balance_of(address))
    return parsing.number(call(node, asked)) * unit


def call(node: Node, call: Call) -> bytes:
    return data(node.request(*_run(call)))


def call_all(node: Node, calls: Sequence[Call]) -> Sequence[bytes | ChainError]:
    results = node.request_all([*map(_run, calls)])
    return [_parse(data, result) for result in results]


def estimate_gas(node: Node, call: Call) -> int:
    return quantity(node.request(*_estimate(call)))


def transaction_count_at(node: Node, address: str, block: int) -> int:
    return quantity(node.request("eth_getTransactionCount", [address, hex(block)]))


def preflight(node: Node, sender: str, calls: Sequence[Call]) -> Sequence[Any]:
    """Return the pending count, the fees and an estimate per call, or their errors."""
    count = ("eth_getTransactionCount", [sender, node.rules.pending])
    (counted, first, *prices), estimates = _try_all(
        node, calls, [count, *_fee_calls(node)]
    )
    return [
        _parse(quantity, counted),
        _parse(lambda block: _parse_fees(node, block, *prices), first),
        *estimates,
    ]


def estimates(node: Node, calls: Sequence[Call]) -> Sequence[int | ChainError]:
    """Return an estimate per call, or its gas limit if it suffices, or its error."""
    return _try_all(node, calls)[1]


def _try_all(
    node: Node, calls: Sequence[Call], others: Sequence[MethodCall] = ()
) -> tuple[list[Any], Sequence[int | ChainError]]:
    """Return the results of *others*, and what ``estimates`` has for *calls*."""
    limited = [call for call in calls if call.gas is not None]
    simulates = len(limited) >= _FEWEST_SIMULATED and node.serves(_SIMULATE)
    alone = [call for call in calls if call.gas is None] if simulates else calls
    results = node.request_all([*others, *map(_try, alone)])
    found = map(_parse_gas, alone, results[len(others) :])
    ran = iter(_simulate(node, limited) if simulates else ())
    return results[: len(others)], [
        next(found if call.gas is None or not simulates else ran) for call in calls
    ]


def _simulate(node: Node, calls: Sequence[Call]) -> Sequence[int | ChainError]:
    """
    Run *calls* as the transactions of one block, and return the limit of each.

    One that fails has an error, which the transactions before it may have caused.  A
    node that fails to respond so is asked for single calls for a while.  It is an
    exchange of its own: with other calls, a node that is too slow for it would not
    answer those either.
    """
    found = attempt(lambda: send(partial(_run_block, calls=calls), node))
    if isinstance(found, ChainError):
        node.avoid(_SIMULATE)
        return [*map(_parse_gas, calls, node.request_all([*map(_run, calls)]))]
    return found


def _run_block(node: Node, calls: Sequence[Call]) -> Sequence[int | ChainError]:
    block = {"calls": [*map(_build_transaction, calls)]}
    (simulated,) = node.request(_SIMULATE, [{"blockStateCalls": [block]}, "latest"])
    return [
        _parse_gas(call, _read_run(result))
        for call, result in zip(calls, simulated["calls"], strict=True)
    ]


def _read_run(result: Result) -> Any:
    """Return what a simulated call returned, or an error if it failed."""
    status = quantity(result["status"])
    if status > 1:
        raise ValueError("not a status")
    return result["returnData"] if status else ExecutionRevertedError(_FAILED)


def _try(call: Call) -> MethodCall:
    """Return the request that shows whether *call* succeeds."""
    return _estimate(call) if call.gas is None else _run(call)


def _run(call: Call) -> MethodCall:
    return "eth_call", [_build_transaction(call), "latest"]


def _parse_gas(call: Call, outcome: Any) -> int | ChainError:
    """Return the gas that *call* needs, or its limit, which suffices, or the error."""
    if call.gas is None:
        return _parse(quantity, outcome)
    ran = _parse(data, outcome)
    return ran if isinstance(ran, ChainError) else call.gas


def broadcast_all(node: Node, raws: Sequence[bytes]) -> Sequence[ChainError | None]:
    """Broadcast *raws*, and check the hashes in the responses; return the errors."""
    results = node.request_all(
        [("eth_sendRawTransaction", [f"0x{raw.hex()}"]) for raw in raws]
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


def fees(node: Node) -> Fees:
    first, *others = node.request_all(_fee_calls(node))
    return _parse_fees(node, require(first), *others)


def _fee_calls(node: Node) -> Sequence[MethodCall]:
    return _GAS_PRICE if node.rules.fees == "legacy" else _FEES


def _parse_fees(node: Node, first: Any, *others: Any) -> Fees:
    if node.rules.fees == "legacy":
        return Fees(base_fee=None, priority_fee=quantity(first))
    parsing.block(first)  # Raises if it is malformed.
    base_fee = first.get("baseFeePerGas")
    if base_fee is not None:
        (tip,) = others
        return Fees(quantity(base_fee), priority_fee=quantity(require(tip)))
    if node.rules.fees is not None:
        raise ImpossibleResponseError("the node's newest block has no base fee")
    price = quantity(node.request("eth_gasPrice", []))
    return Fees(base_fee=None, priority_fee=price)


def receipts(
    node: Node, tx_hashes: Sequence[str]
) -> Sequence[Receipt | ChainError | None]:
    """Return each receipt, None if the node does not have it, or its error."""
    results = node.request_all(
        [("eth_getTransactionReceipt", [tx_hash]) for tx_hash in tx_hashes]
    )
    return [
        _parse(partial(parsing.receipt, tx_hash=tx_hash), result)
        for tx_hash, result in zip(tx_hashes, results, strict=True)
    ]


def receipts_in(
    node: Node, number: int, tx_hashes: Sequence[str]
) -> Sequence[Receipt | ChainError | None]:
    """
    Return, as ``receipts``, those that are in the block at height *number*.

    All of the block come in one response, in which the others are not parsed: each
    rollup has its own types of them.  A node that fails to respond so is asked for
    single ones for a while.
    """
    method = "eth_getBlockReceipts"
    if node.serves(method):
        ask = partial(_request_by_hash, method=method, number=number)
        found = attempt(lambda: send(ask, node))
        if not isinstance(found, ChainError):
            return [
                _parse(partial(parsing.receipt, tx_hash=each), found.get(each))
                for each in tx_hashes
            ]
        node.avoid(method)
    return receipts(node, tx_hashes)


def _request_by_hash(node: Node, method: str, number: int) -> dict[str, Result]:
    entries = node.request(method, [hex(number)]) or ()
    return {entry["transactionHash"].lower(): entry for entry in entries}


def transaction(node: Node, tx_hash: str) -> MinedTransaction | None:
    """Return a mined transaction, or None if the node does not have it mined."""
    result = node.request("eth_getTransactionByHash", [tx_hash])
    return parsing.transaction(result, tx_hash)


def hash_in_block(node: Node, number: int, sender: str, nonce: int) -> str | None:
    """
    Return the hash of *sender*'s transaction with *nonce* in the block at *number*.

    Other transactions are not parsed: each rollup has its own types of them.
    """
    found = node.request("eth_getBlockByNumber", [hex(number), True])
    result: Result = found or {"transactions": ()}
    for entry in result["transactions"]:
        if entry["from"].lower() == sender.lower() and int(entry["nonce"], 16) == nonce:
            return digest(entry["hash"])
    return None


def block(node: Node, number: int) -> Block | None:
    """Return the canonical block at *number*, or None if the node has none."""
    found = node.request("eth_getBlockByNumber", [hex(number), False])
    if found is None:
        return None
    result = parsing.block(found)
    if result.number != number:
        raise ValueError("another block")
    return result


def _estimate(call: Call) -> MethodCall:
    return "eth_estimateGas", [_build_transaction(call), "latest"]


def _build_transaction(call: Call) -> dict[str, str]:
    return {
        **({} if call.sender is None else {"from": call.sender}),
        "to": call.to,
        "data": f"0x{call.data.hex()}",
        "value": hex(call.value),
        **({} if call.gas is None else {"gas": hex(call.gas)}),
    }


def _parse(parse: Callable[[Any], _T], outcome: Any) -> _T | ChainError:
    """Return the result of a request, parsed, or its error."""
    return attempt(lambda: send(parse, require(outcome)))


IsConsumed = Callable[[int], bool]
"""Returns whether the nonce is consumed in the state after the block at this height."""


def find_hash(node: Node, sender: str, nonce: int, timeout: float) -> str | None:
    """
    Return the hash of the canonical transaction of *sender* with *nonce*.

    None means that the nonce is not consumed, or that the node has pruned that state.
    The search makes at most 3 + 2 log2(height) requests within *timeout* seconds.

    Raises:
        ChainUnavailableError: The node did not respond, or the search took too long.
    """
    deadline = time.monotonic() + timeout

    def is_consumed(height: int) -> bool:
        if time.monotonic() > deadline:
            raise ChainUnavailableError("the search for a transaction took too long")
        try:
            return transaction_count_at(node, sender, height) > nonce
        except CannotAnswerError:
            # The state is pruned.  With "not consumed", the search ends at the oldest
            # state that the node keeps, and looks through that block.
            return False

    head = latest_block(node).number
    if not is_consumed(head):
        return None
    height = find_first(is_consumed, head)
    return hash_in_block(node, height, sender, nonce)


def find_first(is_consumed: IsConsumed, head: int) -> int:
    """
    Return the lowest height at which *is_consumed* holds, as it does at *head*.

    The steps back from the head double, because nodes keep recent states.

    >>> find_first(lambda height: height >= 90, 100)
    90
    """
    high, step = head, 1
    while high > 0 and is_consumed(low := max(head - step, 0)):
        high, step = low, step * 2
    if high == 0:
        return 0
    heights = range(low + 1, high)
    return low + 1 + bisect_left(heights, True, key=is_consumed)
