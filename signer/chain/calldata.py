"""
Decodes the calldata of known functions, strictly.

Contracts ignore what they do not read: bytes after the arguments, and offsets that
point anywhere.  Some ignore the upper bytes of an address as well.  What a policy reads
must be what the contract reads, so only the one canonical encoding is accepted
(Solidity ABI specification, "Strict Encoding Mode").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from signer.chain.known_functions import BY_SELECTOR, BY_SIGNATURE, Function
from signer.errors import EncodingError


MAX_SIZE = 2**17
"""Bytes of calldata that are decoded; nodes accept no larger transaction."""

MAX_CALLS = 256
"""Calls of one ``multicall``, and items of any other array."""


@dataclass(frozen=True, slots=True)
class DecodedCall:
    """
    The decoded calldata of a known function.

    *signature* is canonical, such as ``transfer(address,uint256)``.  *arguments* are
    integers, booleans, bytes, addresses in lower case (a checksum costs a hash), and
    tuples of them.  *extra* are the bytes after the arguments.
    """

    name: str
    signature: str
    arguments: tuple[Any, ...]
    extra: bytes = b""

    def named(self) -> dict[str, Any]:
        """Return the arguments by the names in ``known_functions.toml``."""
        names = BY_SIGNATURE[self.signature].names
        return dict(zip(names, self.arguments, strict=True))

    def inner_calls(self) -> Iterator["DecodedCall | None"]:
        """
        Yield the calls that a ``multicall`` contains, and None for an unknown one.

        Raises:
            EncodingError: One of them is a known function with malformed arguments.
        """
        if self.name == "multicall":
            for data in self.arguments[-1]:
                yield decode_call(data)


def decode_call(data: bytes) -> DecodedCall | None:
    """
    Decode *data*, the calldata of a transaction.

    It returns None if no known function has its selector, and if it has no selector:
    a contract's fallback function is then called.

    Raises:
        EncodingError: The function is known, and its arguments are too short, are not
            encoded canonically, or are too large to decode.
    """
    function = BY_SELECTOR.get(data[:4])
    if function is None:
        return None
    if len(data) > MAX_SIZE:
        raise EncodingError(f"calldata must have at most {MAX_SIZE} bytes")
    body = data[4:]
    try:
        arguments, size = _decode(function, body)
    except (DecodingError, OverflowError):
        problem = f"the calldata is not a canonical {function.signature}"
        raise EncodingError(problem) from None
    return DecodedCall(function.name, function.signature, arguments, body[size:])


def _decode(function: Function, body: bytes) -> tuple[tuple[Any, ...], int]:
    """Return the arguments and the number of bytes that they occupy."""
    if function.static_size is not None:
        # eth-abi refuses dirty padding, so there is one encoding.
        return decode(function.types, body), function.static_size
    _limit_items(function, body)
    arguments = decode(function.types, body)
    # Of dynamic types, offsets may overlap, leave gaps or repeat the same bytes.
    canonical = encode(function.types, arguments)
    if not body.startswith(canonical):
        raise DecodingError("offsets or padding")
    return arguments, len(canonical)


def _limit_items(function: Function, body: bytes) -> None:
    # Many offsets could point to one large item: a small input would fill the memory.
    # Read alone, the offsets of ``bytes[]`` are a ``uint256[]``.
    types = ["uint256[]" if each == "bytes[]" else each for each in function.types]
    for value in decode(types, body):
        if isinstance(value, tuple) and len(value) > MAX_CALLS:
            raise EncodingError(f"an array has more than {MAX_CALLS} items")
