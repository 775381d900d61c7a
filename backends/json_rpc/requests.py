"""
The questions that one node is asked, through web3.py, and what its answers become.

Each answer is read with suspicion (``readings``).  One that is not what it should be
raises ``ChainUnavailableError``: it is none.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

from eth_typing import BlockNumber, ChecksumAddress, HexAddress, HexStr
from eth_utils.crypto import keccak
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import BlockNotFound, TransactionNotFound, Web3Exception
from web3.types import RPCEndpoint, TxParams, Wei

from backends.json_rpc import parsing as readings
from backends.json_rpc.connection import ServerError
from backends.json_rpc.error_mapping import AlreadyKnownError
from backends.json_rpc.node import MethodCall, Node
from backends.json_rpc.parsing import Found, digest, integer
from signer.errors import ChainError, ChainUnavailableError
from signer.ports import Block, Call, Fees, MinedTransaction, Receipt


_T = TypeVar("_T")

# Together, since a refund waits for them; a chain without EIP-1559 knows one of them.
_FEES: Sequence[MethodCall] = (
    ("eth_getBlockByNumber", ["latest", False]),
    ("eth_maxPriorityFeePerGas", []),
)


class LyingNodeError(ChainUnavailableError):
    """The node said what cannot be true."""


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
    return integer(node.eth.chain_id)


def has_code(node: Web3, address: str) -> bool:
    """Ask whether a contract lives at *address*."""
    return len(bytes(node.eth.get_code(_account(address)))) > 0


def balance(node: Web3, address: str) -> int:
    """Ask how many wei *address* has."""
    return integer(node.eth.get_balance(_account(address)))


def call(node: Web3, question: Call) -> bytes:
    """Ask what *question* answers at the latest block."""
    return bytes(node.eth.call(_transaction(question)))


def estimate_gas(node: Web3, question: Call) -> int:
    """Ask how much gas *question* needs."""
    return integer(node.eth.estimate_gas(_transaction(question)))


def transaction_count(node: Web3, address: str) -> int:
    """Ask for the next nonce of *address* at the latest block."""
    return integer(node.eth.get_transaction_count(_account(address), "latest"))


def pending_count(node: Web3, address: str) -> int:
    """Ask for the next nonce of *address* behind the node's pool."""
    return integer(node.eth.get_transaction_count(_account(address), "pending"))


def past_count(node: Web3, address: str, block: int) -> int:
    """Ask for the next nonce of *address* behind the block at height *block*."""
    height = BlockNumber(block)
    return integer(node.eth.get_transaction_count(_account(address), height))


def hand_over(node: Web3, raw: bytes) -> None:
    """Hand signed bytes to the node, and check that it speaks of the same ones."""
    try:
        answer = node.eth.send_raw_transaction(HexBytes(raw))
    except AlreadyKnownError:
        return
    if bytes(answer) != keccak(raw):
        raise LyingNodeError("the node answers for another transaction")


def fees(node: Web3) -> Fees:
    """Ask for base fee and suggested tip, or for the gas price where there is none."""
    try:
        with cast("Node", node.provider).batch(_FEES):
            return _fees(node)
    except ServerError:
        # Some gateways say so of batches alone, and no refund is paid without fees.
        return _fees(node)


def _fees(node: Web3) -> Fees:
    latest: Found = node.eth.get_block("latest")
    readings.block(latest)
    if latest.get("baseFeePerGas") is None:
        return Fees(base_fee=None, priority_fee=integer(node.eth.gas_price))
    return Fees(
        base_fee=integer(latest["baseFeePerGas"]),
        priority_fee=integer(node.eth.max_priority_fee),
    )


def receipt(node: Web3, tx_hash: str) -> Receipt | None:
    """Ask what became of *tx_hash*; None when the node does not know, or not yet."""
    try:
        found: Found = node.eth.get_transaction_receipt(HexStr(tx_hash))
    except TransactionNotFound:
        return None
    return readings.receipt(found, tx_hash)


def receipts(node: Web3, tx_hashes: Sequence[str]) -> Mapping[str, Receipt]:
    """Ask what became of each of *tx_hashes*, in as few exchanges as the node takes."""
    calls = [("eth_getTransactionReceipt", [tx_hash]) for tx_hash in tx_hashes]
    with cast("Node", node.provider).batch(calls):
        found = {tx_hash.lower(): receipt(node, tx_hash) for tx_hash in tx_hashes}
    return {tx_hash: known for tx_hash, known in found.items() if known is not None}


def transaction(node: Web3, tx_hash: str) -> MinedTransaction | None:
    """Ask for a mined transaction; None when the node has none such, or not yet."""
    try:
        found: Found = node.eth.get_transaction(HexStr(tx_hash))
    except TransactionNotFound:
        return None
    return readings.transaction(found, tx_hash)


def hash_in_block(node: Web3, number: int, sender: str, nonce: int) -> str | None:
    """
    Ask which transaction in the block at *number* is *sender*'s with *nonce*.

    Without web3's reading of the block: it would have to understand the others in
    it, too, and each rollup has kinds of its own.
    """
    answer = cast("Node", node.provider).make_request(
        RPCEndpoint("eth_getBlockByNumber"), [hex(number), True]
    )
    found: Found = answer["result"] or {"transactions": ()}
    for entry in found["transactions"]:
        if entry["from"].lower() == sender.lower() and int(entry["nonce"], 16) == nonce:
            return digest(bytes.fromhex(entry["hash"].removeprefix("0x")))
    return None


def latest_block(node: Web3) -> Block:
    """Ask for the head of the chain."""
    return readings.block(node.eth.get_block("latest"))


def block(node: Web3, number: int) -> Block | None:
    """Ask for the canonical block at *number*; None when the node has none."""
    try:
        found = readings.block(node.eth.get_block(number))
    except BlockNotFound:
        return None
    if found.number != number:
        raise ValueError("another block")
    return found


def _transaction(question: Call) -> TxParams:
    return {
        **({} if question.sender is None else {"from": _account(question.sender)}),
        "to": _account(question.to),
        "data": HexBytes(question.data),
        "value": Wei(0),
    }


def _account(address: str) -> ChecksumAddress:
    return ChecksumAddress(HexAddress(HexStr(address)))
