"""
Items of RLP: encodes and decodes the values that a transaction has.

An item is ``bytes`` or a list of items.  Each value has one encoding; every other one
is refused, so that a signed transaction cannot get a second hash.
"""

from functools import lru_cache
from typing import Any

import rlp
from eth_utils.address import to_checksum_address
from rlp.exceptions import RLPException

from signer.errors import EncodingError


WORD_SIZE = 32

_ADDRESS_SIZE = 20

# Tokens repeat, and a checksum costs a hash.
_checksum = lru_cache(maxsize=1024)(to_checksum_address)


def encode(items: list[object]) -> bytes:
    """Return the RLP of a list of items."""
    # All are bytes already: without inference it takes a third of the time.
    return bytes(rlp.encode(items, infer_serializer=False))


def decode(encoded: bytes) -> list[Any]:
    """Return the items of an RLP list, or raise ``EncodingError``."""
    try:
        items = rlp.decode(encoded)
    except (RLPException, RecursionError):  # Lists may nest without limit.
        items = None
    if not isinstance(items, list):
        raise EncodingError("not the RLP of a transaction")
    return items


def take(item: object, count: int) -> list[Any]:
    """Return the *count* items of the list *item*."""
    if not isinstance(item, list) or len(item) != count:
        raise EncodingError("not the RLP of a transaction")
    return item


def take_list(item: object) -> list[Any]:
    """Return the items of the list *item*."""
    if not isinstance(item, list):
        raise EncodingError("a list of the transaction is not a list")
    return item


def minimal(number: int) -> bytes:
    """Return the shortest big-endian bytes of *number*; empty for 0, as in RLP."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def take_bytes(item: object) -> bytes:
    """Return the bytes of *item*."""
    if not isinstance(item, bytes):
        raise EncodingError("a field of the transaction is a list")
    return item


def take_number(item: object) -> int:
    """Return the number of *item*, which has no leading zeros."""
    digits = take_bytes(item)
    if digits.startswith(b"\0"):
        raise EncodingError("a number has leading zeros")
    return int.from_bytes(digits, "big")


def take_word(item: object) -> bytes:
    """Return the 32 bytes of *item*."""
    word = take_bytes(item)
    if len(word) != WORD_SIZE:
        raise EncodingError("a hash or storage key is not 32 bytes")
    return word


@lru_cache(maxsize=1024)
def address_bytes(address: str | None) -> bytes:
    """Return the 20 bytes of *address*; none for None, which creates a contract."""
    return b"" if address is None else bytes.fromhex(address[2:])


def take_address(item: object) -> str:
    """Return the address of *item*, with its EIP-55 checksum."""
    address = take_bytes(item)
    if len(address) != _ADDRESS_SIZE:
        raise EncodingError("an address is not 20 bytes")
    return _checksum(address)


def take_recipient(item: object) -> str | None:
    """Return the address of *item*, or None if it is empty."""
    return None if item == b"" else take_address(item)
