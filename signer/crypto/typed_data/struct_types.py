"""
The struct types of a typed-data document (EIP-712, "Definition of encodeType").

A document is refused if two wallets could read its types differently.  Names are
Solidity identifiers: other characters, such as a comma, could give two different
structs the same type string.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from signer.crypto.typed_data.problems import problem


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
