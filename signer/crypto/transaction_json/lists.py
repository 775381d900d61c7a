"""Arrays in the JSON form of transactions; raises as the module ``values``."""

from collections.abc import Callable
from typing import Any

from signer.crypto.secp256k1 import Signature
from signer.crypto.transaction_json.values import (
    read_address,
    read_list,
    read_object,
    read_padded,
    read_quantity,
    read_word,
)
from signer.crypto.transactions import AccessList, Authorization
from signer.errors import EncodingError, InvalidInputError


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
