"""Chooses the type of a transaction in JSON form, and reads the fields of that type."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from signer.crypto.transaction_json.lists import (
    read_access_list,
    read_authorizations,
    read_hashes,
)
from signer.crypto.transaction_json.values import (
    read_address,
    read_data,
    read_quantity,
    read_recipient,
)
from signer.crypto.transactions import (
    AccessListTransaction,
    AnyTransaction,
    BlobTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SetCodeTransaction,
)
from signer.errors import InvalidInputError


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
