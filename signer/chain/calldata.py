"""
Decodes the calldata of known functions, strictly.

Contracts ignore what they do not read: bytes after the arguments, and offsets that
point anywhere.  Some ignore the upper bytes of an address as well.  What a policy reads
must be what the contract reads, so only the one canonical encoding is accepted
(Solidity ABI specification, "Strict Encoding Mode").

A selector is the first four bytes of the hash of a signature, so other functions can
have the same one, and a contract may do anything under a known name.  The table
``known_functions.toml`` is how to read the bytes; policy decides which contracts to
trust.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from signer.crypto.keccak import keccak
from signer.errors import EncodingError


@dataclass(frozen=True, slots=True)
class Function:
    """
    A function of a contract: its name, canonical signature and parameters.

    ``types`` are ABI types, and ``names`` has one name for each of them.
    ``static_size`` is the number of bytes of the arguments, or None if it varies.
    ``words`` say what a call does; names of parameters in braces are its arguments.
    """

    name: str
    signature: str
    types: tuple[str, ...]
    names: tuple[str, ...]
    static_size: int | None
    words: str

    @property
    def selector(self) -> bytes:
        """The first four bytes of the calldata (Solidity ABI specification)."""
        return keccak(self.signature.encode())[:4]


_LEAF = re.compile(r"[^(),]+")


def _read_function(declaration: str, words: str) -> Function:
    name, _, rest = declaration.removesuffix(")").partition("(")
    parameters = [each.rpartition(" ") for each in rest.split(", ") if each]
    types = tuple(each for each, _, _ in parameters)
    arguments = ",".join(types)
    is_dynamic = re.search(r"\[|bytes\b", arguments) is not None
    size = None if is_dynamic else 32 * len(_LEAF.findall(arguments))
    names = tuple(each for _, _, each in parameters)
    return Function(name, f"{name}({arguments})", types, names, size, words)


_TABLE = files("signer.chain").joinpath("known_functions.toml").read_text("utf-8")
_FUNCTIONS = [_read_function(*row) for row in tomllib.loads(_TABLE).items()]

BY_SELECTOR = {function.selector: function for function in _FUNCTIONS}

BY_SIGNATURE = {function.signature: function for function in _FUNCTIONS}


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
