"""
A typed-data document (EIP-712), as ``eth_signTypedData_v4`` receives it.

It accepts only what ethers, viem and eth-account accept and hash alike: what one of
them refuses, or two of them read differently, is refused before anything is hashed.
docs/reference/library.md has the list.  Names are Solidity identifiers: other
characters, such as a comma, could give two different structs the same type string.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Any, Self

from signer.addresses import parse_address
from signer.crypto.messages import message_digest
from signer.errors import InvalidInputError
from signer.strict_json import is_deeper, plain_name, unique_members


def _problem(text: str, path: str) -> InvalidInputError:
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
        raise _problem("must be an object of struct types", "types")
    if len(types) > MAX_TYPES:
        raise _problem(f"must have at most {MAX_TYPES} struct types", "types")
    result: dict[str, tuple[Member, ...]] = {}
    for name, members in types.items():
        _require_struct_name(name)
        result[name] = _read_members(members, f"types.{name}")
    if sum(map(len, result.values())) > MAX_MEMBERS:
        text = f"must have at most {MAX_MEMBERS} members in all struct types"
        raise _problem(text, "types")
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
        raise _problem("a struct type must not contain itself", "types") from None
    roots = types.keys() - set().union(*references.values())
    if len(roots) != 1:
        text = (
            "there must be one struct type that no other contains: remove unused types"
        )
        raise _problem(text, "types")
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
        raise _problem("the name of a struct type must be an identifier", "types")
    if _RESERVED.fullmatch(name):
        text = "a struct type must not have the name of a Solidity type"
        raise _problem(text, f"types.{name}")


def _read_members(members: object, path: str) -> tuple[Member, ...]:
    if not isinstance(members, list):
        raise _problem("must be a list of members", path)
    result = tuple(_read_member(member, path) for member in members)
    if len({member.name for member in result}) < len(result):
        raise _problem("a member's name appears twice", path)
    return result


def _read_member(member: object, path: str) -> Member:
    if not isinstance(member, Mapping) or member.keys() != {"name", "type"}:
        raise _problem("each member must have a name and a type, and no more", path)
    name, type_ = member["name"], member["type"]
    if not isinstance(name, str) or not _MEMBER_NAME.fullmatch(name):
        raise _problem("the name of a member must be an identifier", path)
    if name == "__proto__":
        raise _problem("a member must not be called __proto__", path)
    if not isinstance(type_, str) or not _TYPE.fullmatch(type_):
        raise _problem("the type of a member is malformed", f"{path}.{name}")
    return Member(name, type_)


def _require_defined(types: StructTypes) -> None:
    for name, members in types.items():
        for member in members:
            base, _, _ = member.type.partition("[")
            if base == DOMAIN or not (base in types or is_atomic(base)):
                text = "the type is neither defined in the document nor one of EIP-712"
                raise _problem(text, f"types.{name}.{member.name}")


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
            raise _problem(f"must be an object of type {name}", path)
        members = self._types[name]
        for member in members:
            if member.name not in value:
                raise _problem("is missing", f"{path}.{member.name}")
        if len(value) != len(members):
            raise _problem(f"has a member that type {name} does not have", path)
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
            raise _problem("must be a list", path)
        if size and len(value) != int(size):
            raise _problem(f"must have {size} items", path)
        return [
            self._read(item_type, item, f"{path}.{index}", depth + 1)
            for index, item in enumerate(value)
        ]

    def _count(self, path: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _problem(f"is nested deeper than {MAX_DEPTH} levels", path)
        self._values_left -= 1
        if self._values_left < 0:
            raise _problem(f"the document has more than {MAX_VALUES} values", path)

    def _spend(self, size: int, path: str) -> None:
        self._size_left -= size
        if self._size_left < 0:
            raise _problem("the document is too large", path)


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
        raise _problem("must be true or false, without quotes", path)
    return value


def _read_address(value: object, path: str) -> str:
    try:
        return parse_address(value if isinstance(value, str) else "", field=path)
    except InvalidInputError as e:
        raise _problem(str(e), path) from None


def _read_string(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _problem("must be a string", path)
    if _SURROGATE.search(value):
        raise _problem("has half a surrogate pair, which has no UTF-8", path)
    return str(value)


def _read_bytes(value: object, path: str) -> bytes:
    if isinstance(value, bytes):
        return bytes(value)
    if not isinstance(value, str) or not _HEX_BYTES.fullmatch(value):
        raise _problem("must be bytes in hex, with 0x and two digits for each", path)
    return bytes.fromhex(value[2:])


def _fixed_bytes(size: int) -> Callable[[object, str], bytes]:
    def read(value: object, path: str) -> bytes:
        result = _read_bytes(value, path)
        if len(result) != size:
            raise _problem(f"must have exactly {size} bytes", path)
        return result

    return read


def _integer(lowest: int, highest: int, type_: str) -> Callable[[object, str], int]:
    def read(value: object, path: str) -> int:
        if isinstance(value, str):
            value = _number_in_text(value)
        if not isinstance(value, int) or isinstance(value, bool):
            text = "must be an integer, or a string of decimal digits or 0x and hex"
            raise _problem(text, path)
        if not lowest <= value <= highest:
            raise _problem(f"is out of the range of {type_}", path)
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


MAX_SIZE = 2**17
"""Characters of a document in JSON, and bytes of the texts and bytes in it."""

_DOCUMENT = "document"

_MEMBERS = ("types", "primaryType", "domain", "message")

# In this order (EIP-712, "Definition of domainSeparator"): viem hashes the order of the
# document, and ethers and eth-account this one.
_DOMAIN_MEMBERS = (
    Member("name", "string"),
    Member("version", "string"),
    Member("chainId", "uint256"),
    Member("verifyingContract", "address"),
    Member("salt", "bytes32"),
)

USER_OPERATION = (
    "PackedUserOperation(address sender,uint256 nonce,bytes initCode,bytes callData,"
    "bytes32 accountGasLimits,uint256 preVerificationGas,bytes32 gasFees,"
    "bytes paymasterAndData)"
)
"""The type of ERC-4337's operations, of entry points from version 0.8 on."""

_SIGNATURE = {"signature": (Member("signature", "bytes"),)}

_MAX_DIGITS = 80  # Of an integer; 2**256 has 78.


@dataclass(frozen=True, slots=True)
class TypedData:
    """
    A valid document with normalised values, made by ``parse`` or ``of``.

    ``domain`` has those of name, version, chainId, verifyingContract and salt that the
    document has; ``types`` are without ``EIP712Domain``.  Integers are ``int``, bytes
    are ``bytes``, addresses have their EIP-55 checksum, arrays are lists.
    """

    domain: Mapping[str, Any]
    primary_type: str
    types: StructTypes
    message: Mapping[str, Any]

    @classmethod
    def parse(cls, document: object) -> Self:
        """
        Return the document *document*: a decoded JSON object, or its JSON text.

        Bytes may be given as ``bytes`` instead of hex.

        Raises:
            InvalidInputError: It is not a document that every wallet hashes alike;
                ``field`` is the path of the part that is wrong.
        """
        if isinstance(document, str):
            document = _decode(document)
        if not isinstance(document, Mapping) or document.keys() != set(_MEMBERS):
            text = f"must be an object with {', '.join(_MEMBERS)}, and no more"
            raise _problem(text, _DOCUMENT)
        types, primary_type, domain, message = (document[name] for name in _MEMBERS)
        result = cls.of(domain, types, message)
        if primary_type != result.primary_type:
            text = (
                "must be the struct type that no other struct type contains:"
                f" {result.primary_type}"
            )
            raise _problem(text, "primaryType")
        return result

    @classmethod
    def of(cls, domain: object, types: object, message: object) -> Self:
        """
        Return the document of three parts, as ``sign_typed_data`` of ethers gets them.

        The primary type is the one that no other type contains.  It raises as
        ``parse``.
        """
        structs = read_types(types)
        declared = structs.pop(DOMAIN, None)
        primary_type = find_root(structs)
        reader = ValueReader(structs, MAX_SIZE)
        if encode_type(structs, primary_type) == USER_OPERATION:
            message = _without_signature(message)
        return cls(
            _read_domain(domain, declared),
            primary_type,
            structs,
            reader.read_struct(primary_type, message, "message"),
        )

    @property
    def chain_id(self) -> int | None:
        """The chain id of the domain; None if it has none."""
        return self.domain.get("chainId")

    @property
    def verifying_contract(self) -> str | None:
        """The contract of the domain, with its checksum; None if it has none."""
        return self.domain.get("verifyingContract")

    def encode_type(self) -> str:
        """Return the type string of the message, which identifies its meaning."""
        return encode_type(self.types, self.primary_type)

    def digest(self) -> bytes:
        """Return keccak256(0x1901 || domain separator || hash of the message)."""
        from eth_account.messages import encode_typed_data  # noqa: PLC0415

        types = {
            name: [{"name": each.name, "type": each.type} for each in members]
            for name, members in self.types.items()
        }
        return message_digest(
            encode_typed_data(dict(self.domain), types, dict(self.message))
        )


def _read_domain(domain: object, declared: tuple[Member, ...] | None) -> dict[str, Any]:
    if not isinstance(domain, Mapping):
        raise _problem("must be an object", "domain")
    present = tuple(each for each in _DOMAIN_MEMBERS if each.name in domain)
    if declared is not None and declared != present:
        text = (
            "must list the domain's members with their types, in the order of EIP-712:"
            " name, version, chainId, verifyingContract, salt"
        )
        raise _problem(text, f"types.{DOMAIN}")
    return ValueReader({DOMAIN: present}, MAX_SIZE).read_struct(
        DOMAIN, domain, "domain"
    )


def _without_signature(message: object) -> object:
    """
    Return the operation *message* as it is signed.

    viem leaves the member ``signature`` in it, which the type does not have: no wallet
    hashes it, so no reader of the document may see it.
    """
    if not isinstance(message, Mapping) or "signature" not in message:
        return message
    ValueReader(_SIGNATURE, MAX_SIZE).read_struct(
        "signature", {"signature": message["signature"]}, "message"
    )
    return {name: value for name, value in message.items() if name != "signature"}


def _decode(text: str) -> object:
    if len(text) > MAX_SIZE:
        raise _problem(f"must have at most {MAX_SIZE} characters", _DOCUMENT)
    if is_deeper(text, MAX_DEPTH):
        raise _problem(f"is nested deeper than {MAX_DEPTH} levels", _DOCUMENT)
    try:
        return _DECODER.decode(text)
    except ValueError:
        # Not chained: the message of json quotes the input.
        raise _problem("is not JSON (RFC 8259)", _DOCUMENT) from None


def _exact_integer(digits: str) -> int | float:
    # Integers are exact, since wallets send token amounts as numbers.  What is no
    # integer becomes a float, which no type accepts: here is no name for an error.
    if len(digits) > _MAX_DIGITS or digits == "-0":
        return 0.0
    return int(digits)


_DECODER = json.JSONDecoder(
    parse_int=_exact_integer,
    parse_float=lambda _: 0.0,
    parse_constant=lambda _: 0.0,
    object_pairs_hook=unique_members,
)
