"""
What web3 makes of nodes' results, read with suspicion: values of ours, or an error.

web3 hands on what it cannot read.  What is not what it should be raises whatever
Python says of it, which ``questions.ask`` turns into "no answer".
"""

from collections.abc import Mapping
from typing import Any

from eth_utils.address import to_checksum_address
from hexbytes import HexBytes

from signer.ports import Block, Log, MinedTransaction, Receipt, Whereabouts


Found = Mapping[str, Any]

_HASH_LENGTH = 32
_ADDRESS_LENGTH = 20


def receipt(found: Found, tx_hash: str) -> Receipt | None:
    """Read the receipt of *tx_hash*; None while it is pending, as some nodes say."""
    if found["blockHash"] is None:
        return None
    status = integer(found["status"])
    if status > 1 or digest(found["transactionHash"]) != tx_hash.lower():
        raise ValueError("not a receipt (EIP-658), or another transaction's")
    return Receipt(
        tx_hash=tx_hash.lower(),
        block=_containing(found),
        succeeded=status == 1,
        logs=tuple(_log(log) for log in found["logs"]),
    )


def transaction(found: Found, tx_hash: str) -> MinedTransaction | None:
    """Read the transaction *tx_hash*; None while it is pending."""
    if found["blockHash"] is None:
        return None
    if digest(found["hash"]) != tx_hash.lower():
        raise ValueError("another transaction")
    to = found.get("to")
    return MinedTransaction(
        tx_hash=tx_hash.lower(),
        sender=_address(found["from"]),
        nonce=integer(found["nonce"]),
        to=None if to is None else _address(to),
        data=bytes(found["input"]),
        gas_limit=integer(found["gas"]),
        block=_containing(found),
    )


def whereabouts(found: Found, tx_hash: str) -> Whereabouts:
    """Read whether the transaction *tx_hash* is in a block, or in the node's pool."""
    if digest(found["hash"]) != tx_hash.lower():
        raise ValueError("another transaction")
    return "pending" if found["blockHash"] is None else "mined"


def block(found: Found) -> Block:
    """Read a block's number and hash."""
    return Block(integer(found["number"]), digest(found["hash"]))


def integer(value: object) -> int:
    """Read a quantity."""
    if type(value) is not int or value < 0:
        raise ValueError("not a quantity")
    return value


def digest(value: Any) -> str:
    """Read a hash of 32 bytes, as the port writes it."""
    content = bytes(value)
    if len(content) != _HASH_LENGTH:
        raise ValueError("not a hash")
    return "0x" + content.hex()


def _containing(found: Found) -> Block:
    return Block(integer(found["blockNumber"]), digest(found["blockHash"]))


def _log(log: Found) -> Log:
    return Log(
        address=str(log["address"]),
        topics=tuple(bytes(topic) for topic in log["topics"]),
        data=bytes(log["data"]),
    )


def _address(value: Any) -> str:
    if len(HexBytes(value)) != _ADDRESS_LENGTH:
        raise ValueError("not an address")
    return to_checksum_address(value)
