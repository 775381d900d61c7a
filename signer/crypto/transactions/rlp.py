"""
RLP (Yellow Paper, appendix B), strictly: each item has one encoding.

An item is ``bytes`` or a list of items.  The rlp library takes twice as long, and it
is what the tests compare each byte with.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from signer.errors import EncodingError


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
