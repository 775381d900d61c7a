"""Parses results strictly into values of the port; a malformed one raises any error."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from eth_utils.address import to_checksum_address

from signer.errors import ChainError
from signer.ports.chain import Block, Log, MinedTransaction, Receipt, TransactionState


_T = TypeVar("_T")


def attempt(action: Callable[[], _T]) -> _T | ChainError:
    """Return the result of *action*, or its ``ChainError``."""
    try:
        return action()
    except ChainError as e:
        return e


Result = Mapping[str, Any]

_QUANTITY = re.compile("0x[0-9a-fA-F]+")
_DATA = re.compile("0x(?:[0-9a-fA-F]{2})*")

# OP Stack, "Operator fee": the scalar is in millionths.
_OPERATOR_SCALE = 10**6

_HASH_LENGTH = 32
_ADDRESS_LENGTH = 20


def receipt(result: Result | None, tx_hash: str) -> Receipt | None:
    """
    Parse the receipt of *tx_hash*; None if the node does not have it.

    While a transaction is pending, some nodes return a receipt without a block.
    """
    if result is None or result["blockHash"] is None:
        return None
    status = quantity(result["status"])
    if status > 1 or digest(result["transactionHash"]) != tx_hash.lower():
        raise ValueError("not a receipt (EIP-658), or of another transaction")
    return Receipt(
        tx_hash=tx_hash.lower(),
        block=containing_block(result),
        succeeded=status == 1,
        logs=tuple(log(each) for each in result["logs"]),
        fee=_find_fee(result),
    )


def fees(receipt: Result) -> tuple[int, int]:
    """
    Return the execution fee of a receipt, and all that was charged, in wei.

    OP Stack chains charge more than gas; others charge nothing else.
    """

    def optional(name: str) -> int:
        value = receipt.get(name)
        return 0 if value is None else quantity(value)

    gas = quantity(receipt["gasUsed"])
    execution = gas * quantity(receipt["effectiveGasPrice"])
    operator = gas * optional("operatorFeeScalar") // _OPERATOR_SCALE
    more = optional("l1Fee") + operator + optional("operatorFeeConstant")
    return execution, execution + more


def _find_fee(receipt: Result) -> int | None:
    """Return the fee; None if it is missing or malformed, which spoils no receipt."""
    try:
        return fees(receipt)[1]
    except (KeyError, ValueError):
        return None


def transaction(result: Result | None, tx_hash: str) -> MinedTransaction | None:
    """Parse the transaction *tx_hash*; None while it is unknown or pending."""
    if result is None or result["blockHash"] is None:
        return None
    if digest(result["hash"]) != tx_hash.lower():
        raise ValueError("another transaction")
    made = _find_call(result)
    to = made.get("to")
    return MinedTransaction(
        tx_hash=tx_hash.lower(),
        sender=address(result["from"]),
        nonce=quantity(result["nonce"]),
        to=None if to is None else address(to),
        value=quantity(made["value"]),
        data=data(made["input"]),
        gas_limit=quantity(result["gas"]),
        block=containing_block(result),
    )


def _find_call(result: Result) -> Result:
    """Return what has ``to``, ``value`` and ``input``: of type 0x76, the only call."""
    calls = result.get("calls")
    if not isinstance(calls, list):
        return result
    (made,) = calls if len(calls) == 1 else [_NOT_OURS]
    if not isinstance(made, dict):
        raise ValueError("a call is no object")  # noqa: TRY004  As for other results.
    return made


def transaction_state(result: Result | None, tx_hash: str) -> TransactionState:
    """Parse whether *tx_hash* is in a block or in the node's pool."""
    if result is None:
        return "unknown"
    if digest(result["hash"]) != tx_hash.lower():
        raise ValueError("another transaction")
    return "pending" if result["blockHash"] is None else "mined"


def block(result: Result) -> Block:
    """Parse a block's number, hash and timestamp, and count its transactions."""
    listed = result.get("transactions")
    count = len(listed) if isinstance(listed, list) else None
    timestamp = quantity(result.get("timestamp", "0x0"))
    return Block(quantity(result["number"]), digest(result["hash"]), count, timestamp)


_WORD = 32

_NOT_OURS: Result = {"value": "0x0", "input": "0x"}
"""What a transaction of several calls is read as: a creation, which we never send."""


def number(word: bytes) -> int:
    """Return the number that a call returned: one word of 32 bytes."""
    if len(word) != _WORD:
        raise ValueError("not a number")
    return int.from_bytes(word)


def quantity(value: object) -> int:
    """Return *value*, a quantity as JSON-RPC encodes it: ``0x`` and hex digits."""
    if not isinstance(value, str) or _QUANTITY.fullmatch(value) is None:
        raise ValueError("not a quantity")
    return int(value, 16)


def data(value: object) -> bytes:
    """Return *value*, bytes as JSON-RPC encodes them: ``0x`` and pairs of digits."""
    if not isinstance(value, str) or _DATA.fullmatch(value) is None:
        raise ValueError("not bytes")
    return bytes.fromhex(value[2:])


def digest(value: object) -> str:
    """Return *value*, a 32-byte hash, as 0x-prefixed lower-case hex."""
    content = data(value)
    if len(content) != _HASH_LENGTH:
        raise ValueError("not a hash")
    return "0x" + content.hex()


def containing_block(result: Result) -> Block:
    """Parse the block that a receipt, a transaction or an event is in."""
    return Block(quantity(result["blockNumber"]), digest(result["blockHash"]))


@lru_cache(1024)  # A checksum takes longer than the rest of a receipt.
def address(value: object) -> str:
    """Return *value*, 20 bytes, as an EIP-55 address."""
    content = data(value)
    if len(content) != _ADDRESS_LENGTH:
        raise ValueError("not an address")
    return to_checksum_address(content)


def log(value: Result) -> Log:
    """Return an event, without its place."""
    return Log(
        address=address(value["address"]),
        topics=tuple(data(topic) for topic in value["topics"]),
        data=data(value["data"]),
    )
