"""Transactions of type 3: they pay for blobs, which travel beside them (EIP-4844)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions.access_lists import (
    AccessList,
    access_list_items,
    check_access_list,
    take_access_list,
)
from signer.crypto.transactions.envelopes import (
    take_signature,
    typed_bytes,
    typed_digest,
)
from signer.crypto.transactions.rlp_items import (
    WORD_SIZE,
    address_bytes,
    minimal,
    take,
    take_address,
    take_bytes,
    take_list,
    take_number,
    take_word,
)
from signer.crypto.transactions.validation import (
    UINT256,
    check_common,
    check_fees,
    require,
)
from signer.errors import EncodingError


_PREFIX = b"\x03"

_HASH_VERSION = b"\x01"  # EIP-4844: VERSIONED_HASH_VERSION_KZG


@dataclass(frozen=True, slots=True)
class BlobTransaction:
    """
    An unsigned transaction of type 3; fees in wei per gas, ``value`` in wei.

    It has the hashes of its blobs, and not the blobs.
    """

    type: ClassVar[int] = 3

    chain_id: int
    nonce: int
    max_priority_fee_per_gas: int
    max_fee_per_gas: int
    gas: int
    to: str
    value: int
    data: bytes
    access_list: AccessList
    max_fee_per_blob_gas: int
    blob_versioned_hashes: tuple[bytes, ...]

    def __post_init__(self) -> None:
        """Raise ``InvalidInputError`` for the first field out of range."""
        check_common(self, self.max_fee_per_gas, "max_fee_per_gas")
        check_fees(self.max_fee_per_gas, self.max_priority_fee_per_gas)
        check_access_list(self.access_list)
        require(bool(self.to), "to", "must be an address: it cannot create a contract")
        fee, hashes = self.max_fee_per_blob_gas, self.blob_versioned_hashes
        require(0 <= fee < UINT256, "max_fee_per_blob_gas", "must be 0 to 2**256 - 1")
        require(len(hashes) > 0, "blob_versioned_hashes", "must not be empty")
        for each in hashes:
            require(
                len(each) == WORD_SIZE and each.startswith(_HASH_VERSION),
                "blob_versioned_hashes",
                "must be of 32 bytes, the first of which is 1",
            )

    def signing_digest(self) -> bytes:
        """Return the digest to sign."""
        return typed_digest(_PREFIX, self._items())

    def serialise(self, signature: Signature) -> bytes:
        """Return the signed bytes, without the blobs that nodes also need."""
        return typed_bytes(_PREFIX, self._items(), signature)

    def _items(self) -> list[object]:
        return [
            minimal(self.chain_id),
            minimal(self.nonce),
            minimal(self.max_priority_fee_per_gas),
            minimal(self.max_fee_per_gas),
            minimal(self.gas),
            address_bytes(self.to),
            minimal(self.value),
            self.data,
            access_list_items(self.access_list),
            minimal(self.max_fee_per_blob_gas),
            list(self.blob_versioned_hashes),
        ]


def read_blob(items: list[Any]) -> tuple[BlobTransaction, Signature]:
    """Return the transaction of RLP *items*, and its signature."""
    if items and isinstance(items[0], list):
        # The form that nodes exchange: [transaction, ..., blobs, commitments, proofs].
        raise EncodingError(
            "a blob transaction together with its blobs; give its first part alone"
        )
    *numbers, to, value, data, access_list, blob_fee, hashes, y_parity, r, s = take(
        items, 14
    )
    chain_id, nonce, priority_fee, max_fee, gas = map(take_number, numbers)
    transaction = BlobTransaction(
        chain_id=chain_id,
        nonce=nonce,
        max_priority_fee_per_gas=priority_fee,
        max_fee_per_gas=max_fee,
        gas=gas,
        to=take_address(to),
        value=take_number(value),
        data=take_bytes(data),
        access_list=take_access_list(access_list),
        max_fee_per_blob_gas=take_number(blob_fee),
        blob_versioned_hashes=tuple(map(take_word, take_list(hashes))),
    )
    return transaction, take_signature(y_parity, r, s)
