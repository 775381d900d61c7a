"""
Transactions in the JSON form that Ethereum tools use: JSON-RPC's and eth-account's.

Each field is used or refused: a tool that means more than what is signed gets no
signature.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from eth_utils.address import is_checksum_address, to_checksum_address

from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions import (
    AccessList,
    AccessListTransaction,
    AnyTransaction,
    Authorization,
    BlobTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SetCodeTransaction,
)
from signer.errors import EncodingError, InvalidInputError


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


_AUTHORIZATION: dict[str, Callable[[object, str], Any]] = {
    "chainId": read_quantity,
    "address": read_address,
    "nonce": read_quantity,
    "yParity": read_quantity,
    "r": read_padded,
    "s": read_padded,
}


def read_access_list(value: object, field: str) -> AccessList:
    """Return an access list (EIP-2930)."""
    entries = []
    for element, path in read_list(value, field):
        entry = read_object(element, ("address", "storageKeys"), path)
        address = read_address(entry["address"], f"{path}.address")
        keys = read_list(entry["storageKeys"], f"{path}.storageKeys")
        entries.append((address, tuple(read_word(*key) for key in keys)))
    return tuple(entries)


def read_hashes(value: object, field: str) -> tuple[bytes, ...]:
    """Return the hashes of blobs (EIP-4844)."""
    return tuple(read_word(*element) for element in read_list(value, field))


def read_authorizations(value: object, field: str) -> tuple[Authorization, ...]:
    """Return signed authorizations (EIP-7702)."""
    return tuple(_read_authorization(*element) for element in read_list(value, field))


def _read_authorization(value: object, path: str) -> Authorization:
    entry = read_object(value, tuple(_AUTHORIZATION), path)
    read = {
        name: read_value(entry[name], f"{path}.{name}")
        for name, read_value in _AUTHORIZATION.items()
    }
    try:
        return Authorization(
            chain_id=read["chainId"],
            address=read["address"],
            nonce=read["nonce"],
            signature=Signature(read["r"], read["s"], read["yParity"]),
        )
    except (EncodingError, InvalidInputError):
        raise InvalidInputError(
            f"{path} has a number or a signature that is out of range", field=path
        ) from None


class _Form(NamedTuple):
    """The fields that transactions of one class have."""

    make: type[Any]
    required: tuple[str, ...]
    optional: tuple[str, ...]


_ALIASES = {"gasLimit": "gas", "input": "data"}

_COMMON = ("chainId", "nonce", "gas")
_FEES = ("maxFeePerGas", "maxPriorityFeePerGas")
_BLOBS = ("maxFeePerBlobGas", "blobVersionedHashes")
_CALL = ("value", "data")

_FORMS = {
    0: _Form(LegacyTransaction, (*_COMMON, "gasPrice"), ("to", *_CALL)),
    1: _Form(
        AccessListTransaction,
        (*_COMMON, "gasPrice"),
        ("to", *_CALL, "accessList"),
    ),
    2: _Form(DynamicFeeTransaction, (*_COMMON, *_FEES), ("to", *_CALL, "accessList")),
    3: _Form(
        BlobTransaction,
        (*_COMMON, *_FEES, "to", *_BLOBS),
        (*_CALL, "accessList"),
    ),
    4: _Form(
        SetCodeTransaction,
        (*_COMMON, *_FEES, "to", "authorizationList"),
        (*_CALL, "accessList"),
    ),
}

_READERS: dict[str, Callable[[object, str], Any]] = {
    "chainId": read_quantity,
    "nonce": read_quantity,
    "gas": read_quantity,
    "gasPrice": read_quantity,
    "maxFeePerGas": read_quantity,
    "maxPriorityFeePerGas": read_quantity,
    "to": read_recipient,
    "value": read_quantity,
    "data": read_data,
    "accessList": read_access_list,
    "maxFeePerBlobGas": read_quantity,
    "blobVersionedHashes": read_hashes,
    "authorizationList": read_authorizations,
}

_DEFAULTS: dict[str, object] = {"to": None, "value": 0, "data": b"", "accessList": ()}


def parse_transaction(fields: Mapping[str, object]) -> AnyTransaction:
    """
    Return the transaction of *fields*, which must be complete.

    ``type`` is inferred from the other fields if it is absent, as eth-account does.
    ``gasLimit`` is another name of ``gas``, and ``input`` of ``data``.  ``from`` is no
    part of the result: see ``parse_sender``.

    Raises:
        InvalidInputError: A field is missing, malformed, out of range, or not one of
            this type; ``field`` is its path.
    """
    if not isinstance(fields, Mapping):
        raise InvalidInputError("a transaction must be an object")
    parse_sender(fields)
    given = {name: value for name, value in fields.items() if name != "from"}
    _merge_aliases(given)
    form = _FORMS[_take_type(given)]
    for name in given:
        if name not in form.required + form.optional:
            message = f"{name} is no field of a transaction of type {form.make.type}"
            raise InvalidInputError(message, field=str(name))
    for name in form.required:
        if name not in given:
            raise InvalidInputError(f"{name} is missing", field=name)
    return _make(form, given)


def parse_sender(fields: Mapping[str, object]) -> str | None:
    """
    Return the address in ``from``, with its EIP-55 checksum; None if it is absent.

    Raises:
        InvalidInputError: It is not an address.
    """
    return read_address(fields["from"], "from") if "from" in fields else None


def _merge_aliases(given: dict[str, object]) -> None:
    for alias, name in _ALIASES.items():
        if alias in given:
            read = _READERS[name]
            value = read(given.pop(alias), alias)
            if read(given.setdefault(name, value), name) != value:
                raise InvalidInputError(f"{alias} differs from {name}", field=alias)


def _take_type(given: dict[str, object]) -> int:
    """Remove the type from *given* and return it; infer it if there is none."""
    if "type" in given:
        number = read_quantity(given.pop("type"), "type")
        if number not in _FORMS:
            raise InvalidInputError("type must be 0 to 4", field="type")
        return number
    if {"gasPrice", "accessList"} <= given.keys():
        return AccessListTransaction.type
    if given.keys().isdisjoint(_FEES):
        return LegacyTransaction.type
    if not given.keys().isdisjoint(_BLOBS):
        return BlobTransaction.type
    if "authorizationList" in given:
        return SetCodeTransaction.type
    return DynamicFeeTransaction.type


def _make(form: _Form, given: Mapping[str, object]) -> AnyTransaction:
    names = form.required + form.optional
    attributes = {_attribute(name): name for name in names}
    values = {
        attribute: _READERS[name](given[name], name)
        if name in given
        else _DEFAULTS[name]
        for attribute, name in attributes.items()
    }
    try:
        return form.make(**values)  # type: ignore[no-any-return]  # One of the union.
    except InvalidInputError as e:
        attribute = str(e.field)
        name = attributes[attribute]
        message = str(e).replace(attribute, name)
        raise InvalidInputError(message, field=name) from None


def _attribute(name: str) -> str:
    """
    Return the name in Python of a field in JSON.

    >>> _attribute("maxFeePerGas")
    'max_fee_per_gas'
    """
    return re.sub("[A-Z]", lambda match: "_" + match[0].lower(), name)
