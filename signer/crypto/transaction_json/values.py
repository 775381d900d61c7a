"""
Values in the JSON form of transactions, as Ethereum's JSON-RPC and eth-account have it.

A number may be an integer or a hex quantity, and bytes may be Python's or hex data
(https://ethereum.org/developers/docs/apis/json-rpc/#hex-encoding).  Every function
raises ``InvalidInputError`` for another value; *field* is its path.
"""

import re
from collections.abc import Mapping
from typing import Any

from eth_utils.address import is_checksum_address, to_checksum_address

from signer.errors import InvalidInputError


# As in geth without leading zeros; at most 256 bits.
_QUANTITY = re.compile(r"0x(0|[1-9a-fA-F][0-9a-fA-F]{0,63})")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")

_ADDRESS_SIZE = 20
_WORD_SIZE = 32


def read_quantity(value: object, field: str) -> int:
    """Return a number that is not negative."""
    if isinstance(value, str) and _QUANTITY.fullmatch(value):
        return int(value, 16)
    # True is an int, and no number.
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return int(value)
    raise _invalid(
        field,
        "must be an integer that is not negative, or a string of 0x and at most 64 hex"
        " digits without leading zeros",
    )


def read_data(value: object, field: str) -> bytes:
    """Return bytes; an empty string is none."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str) and (value == "" or _DATA.fullmatch(value)):
        return bytes.fromhex(value[2:])
    raise _invalid(field, "must be 0x and an even number of hex digits")


def read_word(value: object, field: str) -> bytes:
    """Return 32 bytes."""
    word = read_data(value, field)
    if len(word) != _WORD_SIZE:
        raise _invalid(field, "must be 0x and 64 hex digits")
    return word


def read_padded(value: object, field: str) -> int:
    """Return a number that may be padded to 32 bytes, as ethers and viem do."""
    if isinstance(value, str) and len(value) == len("0x") + 2 * _WORD_SIZE:
        return int.from_bytes(read_word(value, field), "big")
    return read_quantity(value, field)


def read_address(value: object, field: str) -> str:
    """
    Return an address, with its EIP-55 checksum.

    In lower or upper case it has no checksum to verify: ethers and cast send lower
    case.
    """
    if isinstance(value, bytes) and len(value) == _ADDRESS_SIZE:
        return to_checksum_address(value)
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value):
        raise _invalid(field, "must be 0x and 40 hex digits")
    has_checksum = value[2:] not in {value[2:].lower(), value[2:].upper()}
    if has_checksum and not is_checksum_address(value):
        raise _invalid(field, "has a wrong EIP-55 checksum: compare its digits")
    return to_checksum_address(value)


def read_recipient(value: object, field: str) -> str | None:
    """Return an address; None if there is none, so that a contract is created."""
    return None if value in (None, "", b"") else read_address(value, field)


def read_list(value: object, field: str) -> list[tuple[object, str]]:
    """Return the elements of an array, each with its path."""
    if not isinstance(value, list | tuple):
        raise _invalid(field, "must be an array")
    return [(each, f"{field}[{i}]") for i, each in enumerate(value)]


def read_object(value: object, names: tuple[str, ...], field: str) -> dict[str, Any]:
    """Return an object that has exactly the fields *names*."""
    if not isinstance(value, Mapping) or set(value) != set(names):
        raise _invalid(field, f"must be an object with the fields {', '.join(names)}")
    return dict(value)


def _invalid(field: str, rule: str) -> InvalidInputError:
    return InvalidInputError(f"{field} {rule}", field=field)
