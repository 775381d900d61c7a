"""
The struct types of a typed-data document (EIP-712, "Definition of encodeType").

A document is refused if two wallets could read its types differently.  Names are
Solidity identifiers: other characters, such as a comma, could give two different
structs the same type string.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Any

from signer.addresses import parse_address
from signer.errors import InvalidInputError
from signer.strict_json import plain_name


def problem(text: str, path: str) -> InvalidInputError:
    """
    Return the error for the part at *path*, such as ``message.from.wallet``.

    Names in the path are the caller's; if they are long or unusual, only the first one,
    which is ours, is shown.
    """
    first, _, _ = path.partition(".")
    return InvalidInputError(text, field=plain_name(path) or first)


DOMAIN = "EIP712Domain"
"""The name of the domain's struct; no message may contain it."""

MAX_TYPES = 64
MAX_MEMBERS = 256
"""Struct types of a document, and members of all of them together."""

_STRUCT_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$:]{0,63}")  # viem allows ":".
_MEMBER_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,63}")

# Solidity's own types, with sizes that do not exist as well: libraries read these names
# as atomic types, also if the document defines them.  JavaScript treats the last one as
# the object's prototype.
_RESERVED = re.compile(
    r"address|bool|string|function|(?:u?int|bytes|u?fixed)[0-9]*(?:x[0-9]+)?|__proto__"
)

_ATOMIC = re.compile(
    r"address|bool|string|bytes(?:[1-9]|[12][0-9]|3[0-2])?"
    rf"|u?int(?:{'|'.join(str(bits) for bits in range(8, 257, 8))})"
)

# Solidity has no array of fixed size 0; leading zeros would be another type string.
_TYPE = re.compile(r"([^\[\]]{1,64})((?:\[(?:[1-9][0-9]{0,3})?\]){0,16})")


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct; *type* is for example ``address`` or ``Person[2][]``."""

    name: str
    type: str


StructTypes = Mapping[str, tuple[Member, ...]]
"""The members of each struct type, by the type's name; without ``EIP712Domain``."""


def read_types(types: object) -> dict[str, tuple[Member, ...]]:
    """
    Return the struct types of *types*, the member ``types`` of a document.

    ``EIP712Domain`` is read as the others, and stays in the result.

    Raises:
        InvalidInputError: A name is invalid, reserved or used twice, a type is not
            defined or contains itself, or there are too many types or members.
    """
    if not isinstance(types, Mapping):
        raise problem("must be an object of struct types", "types")
    if len(types) > MAX_TYPES:
        raise problem(f"must have at most {MAX_TYPES} struct types", "types")
    result: dict[str, tuple[Member, ...]] = {}
    for name, members in types.items():
        _require_struct_name(name)
        result[name] = _read_members(members, f"types.{name}")
    if sum(map(len, result.values())) > MAX_MEMBERS:
        text = f"must have at most {MAX_MEMBERS} members in all struct types"
        raise problem(text, "types")
    _require_defined(result)
    return result


def find_root(types: StructTypes) -> str:
    """
    Return the one struct type that no other struct type contains.

    ethers and eth-account sign that type, and refuse documents that have several.

    Raises:
        InvalidInputError: A struct type contains itself, or no or several types are
            contained in no other.
    """
    references = {name: set(_references(types, name)) for name in types}
    try:
        TopologicalSorter(references).prepare()
    except CycleError:
        raise problem("a struct type must not contain itself", "types") from None
    roots = types.keys() - set().union(*references.values())
    if len(roots) != 1:
        text = (
            "there must be one struct type that no other contains: remove unused types"
        )
        raise problem(text, "types")
    return roots.pop()


def encode_type(types: StructTypes, name: str) -> str:
    """
    Return the type string of struct *name* (EIP-712, "Definition of encodeType").

    The structs that it contains follow, sorted by name.
    """
    found = {name}
    open_ = [name]
    while open_:
        new = set(_references(types, open_.pop())) - found
        found |= new
        open_ += new
    names = [name, *sorted(found - {name})]
    return "".join(_signature(each, types[each]) for each in names)


def is_atomic(type_: str) -> bool:
    """Return whether *type_* is a type of EIP-712 that is no struct and no array."""
    return _ATOMIC.fullmatch(type_) is not None


def _signature(name: str, members: tuple[Member, ...]) -> str:
    return f"{name}({','.join(f'{each.type} {each.name}' for each in members)})"


def _references(types: StructTypes, name: str) -> Iterator[str]:
    for member in types[name]:
        base, _, _ = member.type.partition("[")
        if base in types:
            yield base


def _require_struct_name(name: object) -> None:
    if not isinstance(name, str) or not _STRUCT_NAME.fullmatch(name):
        raise problem("the name of a struct type must be an identifier", "types")
    if _RESERVED.fullmatch(name):
        text = "a struct type must not have the name of a Solidity type"
        raise problem(text, f"types.{name}")


def _read_members(members: object, path: str) -> tuple[Member, ...]:
    if not isinstance(members, list):
        raise problem("must be a list of members", path)
    result = tuple(_read_member(member, path) for member in members)
    if len({member.name for member in result}) < len(result):
        raise problem("a member's name appears twice", path)
    return result


def _read_member(member: object, path: str) -> Member:
    if not isinstance(member, Mapping) or member.keys() != {"name", "type"}:
        raise problem("each member must have a name and a type, and no more", path)
    name, type_ = member["name"], member["type"]
    if not isinstance(name, str) or not _MEMBER_NAME.fullmatch(name):
        raise problem("the name of a member must be an identifier", path)
    if name == "__proto__":
        raise problem("a member must not be called __proto__", path)
    if not isinstance(type_, str) or not _TYPE.fullmatch(type_):
        raise problem("the type of a member is malformed", f"{path}.{name}")
    return Member(name, type_)


def _require_defined(types: StructTypes) -> None:
    for name, members in types.items():
        for member in members:
            base, _, _ = member.type.partition("[")
            if base == DOMAIN or not (base in types or is_atomic(base)):
                text = "the type is neither defined in the document nor one of EIP-712"
                raise problem(text, f"types.{name}.{member.name}")


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
