"""
The fields of a transaction: which values they may have, and their RLP items.

Each value and each item of RLP (Yellow Paper, appendix B) has one encoding; every other
one is refused, so that a signed transaction cannot get a second hash.  The rlp library
takes twice as long to decode and five times as long to encode; the tests compare each
byte with it.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Protocol

from signer.crypto.keccak import checksum_address
from signer.errors import EncodingError, InvalidInputError


MAX_GAS = 2**24
"""
The highest gas limit that a block may include (EIP-7825).

Transactions can have a higher one: chains without this EIP include them.
"""

UINT64 = 2**64
UINT256 = 2**256

MAX_CHAIN_ID = (UINT64 - 1) // 2 - 36
"""The highest chain id (EIP-2294): ``v`` of EIP-155, 35 + 2 * id + 1, fits 64 bits."""

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


def is_address(value: object) -> bool:
    """Return whether *value* is an address with its EIP-55 checksum."""
    is_text = isinstance(value, str) and _ADDRESS.fullmatch(value) is not None
    return is_text and value == checksum_address(str(value)[2:].lower())


class _Common(Protocol):
    """The fields of all types."""

    @property
    def chain_id(self) -> int: ...
    @property
    def nonce(self) -> int: ...
    @property
    def gas(self) -> int: ...
    @property
    def to(self) -> str | None: ...
    @property
    def value(self) -> int: ...


def require(condition: bool, field: str, rule: str) -> None:
    """Raise ``InvalidInputError`` for *field* unless *condition*; *rule* explains."""
    if not condition:
        raise InvalidInputError(f"the transaction's {field} {rule}", field=field)


def check_common(transaction: _Common, price: int, price_field: str) -> None:
    """
    Check the fields that all types have; *price* is the most for one gas, in wei.

    Raises:
        InvalidInputError: For the first field out of range.
    """
    t = transaction
    is_chain_id = 0 < t.chain_id <= MAX_CHAIN_ID
    require(is_chain_id, "chain_id", "must be 1 to 2**63 - 37 (EIP-2294)")
    # EIP-2681
    require(0 <= t.nonce < UINT64 - 1, "nonce", "must be 0 to 2**64 - 2")
    require(0 <= t.gas < UINT64, "gas", "must be 0 to 2**64 - 1")
    # Nodes refuse more, and so do the tests of Ethereum.
    total = (t.gas or 1) * price
    require(0 <= total < UINT256, price_field, "times gas must be 0 to 2**256 - 1")
    if t.to is not None:
        require(is_address(t.to), "to", "must have its EIP-55 checksum")
    require(0 <= t.value < UINT256, "value", "must be 0 to 2**256 - 1")


def check_fees(max_fee: int, priority_fee: int) -> None:
    """Check the fees of EIP-1559: the priority fee is a part of the max fee."""
    require(
        0 <= priority_fee <= max_fee,
        "max_priority_fee_per_gas",
        "must be 0 to max_fee_per_gas",
    )


WORD_SIZE = 32

_ADDRESS_SIZE = 20


def take(item: object, count: int) -> list[Any]:
    if not isinstance(item, list) or len(item) != count:
        raise EncodingError("not the RLP of a transaction")
    return item


def take_list(item: object) -> list[Any]:
    if not isinstance(item, list):
        raise EncodingError("a list of the transaction is not a list")
    return item


def minimal(number: int) -> bytes:
    """Return the shortest big-endian bytes of *number*; empty for 0, as in RLP."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def take_bytes(item: object) -> bytes:
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
    return checksum_address(address.hex())


def take_recipient(item: object) -> str | None:
    return None if item == b"" else take_address(item)


AccessList = tuple[tuple[str, tuple[bytes, ...]], ...]
"""Addresses with their EIP-55 checksums, each with storage keys of 32 bytes."""


def check_access_list(access_list: AccessList) -> None:
    """Raise ``InvalidInputError`` if an address or a key of *access_list* is none."""
    for address, keys in access_list:
        require(is_address(address), "access_list", "has an invalid address")
        for key in keys:
            require(
                len(key) == WORD_SIZE,
                "access_list",
                "must have storage keys of 32 bytes",
            )


def access_list_items(access_list: AccessList) -> list[object]:
    """Return the RLP items of *access_list*."""
    if not access_list:  # Nearly always.
        return []
    return [[address_bytes(address), list(keys)] for address, keys in access_list]


def take_access_list(item: object) -> AccessList:
    if item == []:
        return ()
    entries = (take(entry, 2) for entry in take_list(item))
    return tuple(
        (take_address(address), tuple(map(take_word, take_list(keys))))
        for address, keys in entries
    )


_TEXT, _LIST = 0x80, 0xC0
_LONGEST_SHORT = 55  # Longer ones begin with the size of their size.

_DEEPEST = 5
"""Levels down to storage keys, if a transaction is together with its blobs."""


def encode(items: Iterable[object]) -> bytes:
    """Return the RLP of a list of *items*."""
    body = b"".join(map(_encode_item, items))
    return _head(_LIST, len(body)) + body


def _encode_item(item: Any) -> bytes:
    if isinstance(item, list):
        return encode(item)
    if len(item) == 1 and item[0] < _TEXT:
        return bytes(item)
    return b"%b%b" % (_head(_TEXT, len(item)), item)


def _head(kind: int, size: int) -> bytes:
    if size <= _LONGEST_SHORT:
        return bytes((kind + size,))
    digits = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((kind + _LONGEST_SHORT + len(digits),)) + digits


def decode(encoded: bytes) -> list[Any]:
    """Return the items of an RLP list, or raise ``EncodingError``."""
    item, end = None, -1
    with suppress(IndexError):
        item, end = _decode_item(encoded, 0, _DEEPEST)
    if end != len(encoded) or not isinstance(item, list):
        raise EncodingError("not the RLP of a transaction")
    return item


def _decode_item(encoded: bytes, start: int, levels: int) -> tuple[Any, int]:
    """
    Return the item at *start*, and where it ends.

    It may be a list of at most *levels* levels.  ``IndexError`` means that it has no
    end; a list may end in the item that follows it.
    """
    first = encoded[start]
    if first < _TEXT:
        return encoded[start : start + 1], start + 1
    is_list = first >= _LIST
    size = first - (_LIST if is_list else _TEXT)
    start += 1
    if size > _LONGEST_SHORT:
        digits = encoded[start : start + size - _LONGEST_SHORT]
        start += size - _LONGEST_SHORT
        size = int.from_bytes(digits)
        _require(size > _LONGEST_SHORT and digits[0] != 0)
    end = start + size
    if not is_list:
        item = encoded[start:end]
        _require(size != 1 or item[:1] >= b"\x80")
        return item, end
    _require(levels > 0)
    items = []
    while start < end:
        each, start = _decode_item(encoded, start, levels - 1)
        items.append(each)
    _require(start == end)
    return items, end


def _require(is_canonical: bool) -> None:
    if not is_canonical:
        raise EncodingError("not the RLP of a transaction")
