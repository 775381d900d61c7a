"""Access lists (EIP-2930): the storage that a transaction declares to use."""

from signer.crypto.transactions.rlp_items import (
    WORD_SIZE,
    address_bytes,
    take,
    take_address,
    take_list,
    take_word,
)
from signer.crypto.transactions.validation import is_address, require


AccessList = tuple[tuple[str, tuple[bytes, ...]], ...]
"""Addresses with their EIP-55 checksums, each with storage keys of 32 bytes."""


def check_access_list(access_list: AccessList) -> None:
    """Raise ``InvalidInputError`` if an address or a key of *access_list* is none."""
    for address, keys in access_list:
        require(is_address(address), "access_list", "has an invalid address")
        for key in keys:
            require(
                len(key) == WORD_SIZE,
                "access_list",
                "must have storage keys of 32 bytes",
            )


def access_list_items(access_list: AccessList) -> list[object]:
    """Return the RLP items of *access_list*."""
    if not access_list:  # Nearly always.
        return []
    return [[address_bytes(address), list(keys)] for address, keys in access_list]


def take_access_list(item: object) -> AccessList:
    """Return the access list of an RLP item, or raise ``EncodingError``."""
    if item == []:
        return ()
    entries = (take(entry, 2) for entry in take_list(item))
    return tuple(
        (take_address(address), tuple(map(take_word, take_list(keys))))
        for address, keys in entries
    )
