"""
The questions that one node is asked, through web3.py, and what its answers become.

web3 hands on what it cannot read, so each answer is checked before it is believed.
One that is not what it should be raises ``ChainUnavailableError``: it is none.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from eth_typing import ChecksumAddress, HexAddress, HexStr
from eth_utils.crypto import keccak
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import BlockNotFound, TransactionNotFound, Web3Exception
from web3.types import TxParams, Wei

from backends.json_rpc.answers import AlreadyKnownError
from signer.errors import ChainError, ChainUnavailableError
from signer.ports import Block, Call, Fees, Log, Receipt


_T = TypeVar("_T")

_HASH_LENGTH = 32


def ask(question: Callable[[Web3], _T], node: Web3) -> _T:
    """
    Return what *node* answers to *question*.

    Raises:
        ChainError: The node said no.
        ChainUnavailableError: It did not answer, or not in a way that makes sense.
    """
    try:
        return question(node)
    except ChainError:
        raise
    except (
        # What Python, and so web3, says of a result of another shape.
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        Web3Exception,
    ):
        pass
    # Out of the handler, since the error behind this one quotes the node.
    raise ChainUnavailableError("the node's answer makes no sense")


def chain_id(node: Web3) -> int:
    """Ask for the chain's id."""
    return _integer(node.eth.chain_id)


def has_code(node: Web3, address: str) -> bool:
    """Ask whether a contract lives at *address*."""
    return len(bytes(node.eth.get_code(_account(address)))) > 0


def balance(node: Web3, address: str) -> int:
    """Ask how many wei *address* has."""
    return _integer(node.eth.get_balance(_account(address)))


def call(node: Web3, question: Call) -> bytes:
    """Ask what *question* answers at the latest block."""
    return bytes(node.eth.call(_transaction(question)))


def estimate_gas(node: Web3, question: Call) -> int:
    """Ask how much gas *question* needs."""
    return _integer(node.eth.estimate_gas(_transaction(question)))


def transaction_count(node: Web3, address: str) -> int:
    """Ask for the next nonce of *address* at the latest block."""
    return _integer(node.eth.get_transaction_count(_account(address), "latest"))


def hand_over(node: Web3, raw: bytes) -> None:
    """Hand signed bytes to the node, and check that it speaks of the same ones."""
    try:
        answer = node.eth.send_raw_transaction(HexBytes(raw))
    except AlreadyKnownError:
        return
    if bytes(answer) != keccak(raw):
        raise ChainUnavailableError("the node answers for another transaction")


def fees(node: Web3) -> Fees:
    """Ask for the latest base fee, and for the tip that the node suggests."""
    latest: Mapping[str, Any] = node.eth.get_block("latest")
    _block(latest)
    if latest.get("baseFeePerGas") is None:
        raise ChainError("the chain has no base fee (EIP-1559)")
    return Fees(
        base_fee=_integer(latest["baseFeePerGas"]),
        priority_fee=_integer(node.eth.max_priority_fee),
    )


def receipt(node: Web3, tx_hash: str) -> Receipt | None:
    """Ask what became of *tx_hash*; None when the node does not know, or not yet."""
    try:
        found: Mapping[str, Any] = node.eth.get_transaction_receipt(HexStr(tx_hash))
    except TransactionNotFound:
        return None
    if found["blockHash"] is None:
        return None  # Some nodes have receipts of what is pending.
    status = _integer(found["status"])
    if status > 1 or _hash(found["transactionHash"]) != tx_hash.lower():
        raise ValueError("not a receipt (EIP-658), or another transaction's")
    return Receipt(
        tx_hash=tx_hash.lower(),
        block=Block(_integer(found["blockNumber"]), _hash(found["blockHash"])),
        succeeded=status == 1,
        logs=tuple(_log(log) for log in found["logs"]),
    )


def latest_block(node: Web3) -> Block:
    """Ask for the head of the chain."""
    return _block(node.eth.get_block("latest"))


def block(node: Web3, number: int) -> Block | None:
    """Ask for the canonical block at *number*; None when the node has none."""
    try:
        found = _block(node.eth.get_block(number))
    except BlockNotFound:
        return None
    if found.number != number:
        raise ValueError("another block")
    return found


def _block(found: Mapping[str, Any]) -> Block:
    return Block(_integer(found["number"]), _hash(found["hash"]))


def _log(log: Mapping[str, Any]) -> Log:
    return Log(
        address=str(log["address"]),
        topics=tuple(bytes(topic) for topic in log["topics"]),
        data=bytes(log["data"]),
    )


def _transaction(question: Call) -> TxParams:
    return {
        "from": _account(question.sender),
        "to": _account(question.to),
        "data": HexBytes(question.data),
        "value": Wei(0),
    }


def _account(address: str) -> ChecksumAddress:
    return ChecksumAddress(HexAddress(HexStr(address)))


def _integer(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a quantity")
    return value


def _hash(value: Any) -> str:
    digest = bytes(value)
    if len(digest) != _HASH_LENGTH:
        raise ValueError("not a hash")
    return "0x" + digest.hex()
