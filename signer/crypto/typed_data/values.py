"""
Reads the values of a typed-data document, each by its type, and normalises them.

Libraries convert what does not match its type, each in its own way: ethers reads the
string ``"false"`` as true, and eth-account as false.  Here a value has its type or is
refused.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from signer.addresses import parse_address
from signer.crypto.typed_data.problems import problem
from signer.crypto.typed_data.struct_types import StructTypes
from signer.errors import InvalidInputError


MAX_DEPTH = 16
"""Levels of a document, the document itself included."""

MAX_VALUES = 2048
"""Values of a document: structs, arrays and atomic values."""

_DECIMAL = re.compile(r"0|-?[1-9][0-9]{0,77}")
_HEX_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,64}")
_HEX_BYTES = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_SURROGATE = re.compile("[\ud800-\udfff]")


class ValueReader:
    """
    Reads structs of *types*, with *max_size* bytes of texts and bytes in total.

    Normalised values are ``bool``, ``int``, ``str``, ``bytes``, lists and dictionaries;
    addresses have their EIP-55 checksum.
    """

    def __init__(self, types: StructTypes, max_size: int) -> None:
        self._types = types
        self._values_left = MAX_VALUES
        self._size_left = max_size

    def read_struct(
        self, name: str, value: object, path: str, depth: int = 2
    ) -> dict[str, Any]:
        """
        Return *value*, a struct of type *name*, with normalised members.

        Raises:
            InvalidInputError: A member is missing, unknown or not of its type, or the
                document is too deep or too large.
        """
        self._count(path, depth)
        if not isinstance(value, Mapping):
            raise problem(f"must be an object of type {name}", path)
        members = self._types[name]
        for member in members:
            if member.name not in value:
                raise problem("is missing", f"{path}.{member.name}")
        if len(value) != len(members):
            raise problem(f"has a member that type {name} does not have", path)
        return {
            each.name: self._read(
                each.type, value[each.name], f"{path}.{each.name}", depth + 1
            )
            for each in members
        }

    def _read(self, type_: str, value: object, path: str, depth: int) -> Any:
        if type_.endswith("]"):
            return self._read_array(type_, value, path, depth)
        if type_ in self._types:
            return self.read_struct(type_, value, path, depth)
        self._count(path, 0)
        result = _reader(type_)(value, path)
        if isinstance(result, str):
            self._spend(len(result.encode()), path)
        elif isinstance(result, bytes):
            self._spend(len(result), path)
        return result

    def _read_array(
        self, type_: str, value: object, path: str, depth: int
    ) -> list[Any]:
        self._count(path, depth)
        item_type, _, size = type_[:-1].rpartition("[")
        if not isinstance(value, list):
            raise problem("must be a list", path)
        if size and len(value) != int(size):
            raise problem(f"must have {size} items", path)
        return [
            self._read(item_type, item, f"{path}.{index}", depth + 1)
            for index, item in enumerate(value)
        ]

    def _count(self, path: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise problem(f"is nested deeper than {MAX_DEPTH} levels", path)
        self._values_left -= 1
        if self._values_left < 0:
            raise problem(f"the document has more than {MAX_VALUES} values", path)

    def _spend(self, size: int, path: str) -> None:
        self._size_left -= size
        if self._size_left < 0:
            raise problem("the document is too large", path)


@lru_cache(maxsize=128)  # There are 98 atomic types.
def _reader(type_: str) -> Callable[[object, str], bool | int | str | bytes]:
    simple = _SIMPLE.get(type_)
    if simple is not None:
        return simple
    if type_.startswith("bytes"):
        return _fixed_bytes(int(type_.removeprefix("bytes")))
    bits = int(type_.lstrip("uint"))
    if type_.startswith("uint"):
        return _integer(0, 2**bits - 1, type_)
    return _integer(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, type_)


def _read_bool(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise problem("must be true or false, without quotes", path)
    return value


def _read_address(value: object, path: str) -> str:
    try:
        return parse_address(value if isinstance(value, str) else "", field=path)
    except InvalidInputError as e:
        raise problem(str(e), path) from None


def _read_string(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise problem("must be a string", path)
    if _SURROGATE.search(value):
        raise problem("has half a surrogate pair, which has no UTF-8", path)
    return str(value)


def _read_bytes(value: object, path: str) -> bytes:
    if isinstance(value, bytes):
        return bytes(value)
    if not isinstance(value, str) or not _HEX_BYTES.fullmatch(value):
        raise problem("must be bytes in hex, with 0x and two digits for each", path)
    return bytes.fromhex(value[2:])


def _fixed_bytes(size: int) -> Callable[[object, str], bytes]:
    def read(value: object, path: str) -> bytes:
        result = _read_bytes(value, path)
        if len(result) != size:
            raise problem(f"must have exactly {size} bytes", path)
        return result

    return read


def _integer(lowest: int, highest: int, type_: str) -> Callable[[object, str], int]:
    def read(value: object, path: str) -> int:
        if isinstance(value, str):
            value = _number_in_text(value)
        if not isinstance(value, int) or isinstance(value, bool):
            text = "must be an integer, or a string of decimal digits or 0x and hex"
            raise problem(text, path)
        if not lowest <= value <= highest:
            raise problem(f"is out of the range of {type_}", path)
        return int(value)

    return read


def _number_in_text(text: str) -> int | None:
    if _DECIMAL.fullmatch(text):
        return int(text)
    return int(text, 16) if _HEX_NUMBER.fullmatch(text) else None


_SIMPLE: dict[str, Callable[[object, str], bool | str | bytes]] = {
    "address": _read_address,
    "bool": _read_bool,
    "bytes": _read_bytes,
    "string": _read_string,
}
