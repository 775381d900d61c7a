"""Transactions of type 3: they pay for blobs, which travel beside them (EIP-4844)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions.rlp_items import (
    WORD_SIZE,
    minimal,
    take,
    take_list,
    take_number,
    take_word,
)
from signer.crypto.transactions.typed_transaction import (
    FeeMarketTransaction,
    take_common,
    take_signature,
)
from signer.crypto.transactions.validation import UINT256, require
from signer.errors import EncodingError


_HASH_VERSION = b"\x01"  # EIP-4844: VERSIONED_HASH_VERSION_KZG


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobTransaction(FeeMarketTransaction):
    """
    An unsigned transaction of type 3.

    It has the hashes of its blobs, and not the blobs.
    """

    type: ClassVar[int] = 3
    may_create: ClassVar[bool] = False

    max_fee_per_blob_gas: int
    blob_versioned_hashes: tuple[bytes, ...]

    def _check_more(self) -> None:
        fee, hashes = self.max_fee_per_blob_gas, self.blob_versioned_hashes
        require(0 <= fee < UINT256, "max_fee_per_blob_gas", "must be 0 to 2**256 - 1")
        require(len(hashes) > 0, "blob_versioned_hashes", "must not be empty")
        for each in hashes:
            require(
                len(each) == WORD_SIZE and each.startswith(_HASH_VERSION),
                "blob_versioned_hashes",
                "must be of 32 bytes, the first of which is 1",
            )

    def _more_items(self) -> list[object]:
        return [minimal(self.max_fee_per_blob_gas), list(self.blob_versioned_hashes)]


def read_blob(items: list[Any]) -> tuple[BlobTransaction, Signature]:
    """Return the transaction of RLP *items*, and its signature."""
    if items and isinstance(items[0], list):
        # The form that nodes exchange: [transaction, ..., blobs, commitments, proofs].
        raise EncodingError(
            "a blob transaction together with its blobs; give its first part alone"
        )
    *common, blob_fee, hashes, y_parity, r, s = take(items, 14)
    transaction = BlobTransaction(
        **take_common(common, BlobTransaction),
        max_fee_per_blob_gas=take_number(blob_fee),
        blob_versioned_hashes=tuple(map(take_word, take_list(hashes))),
    )
    return transaction, take_signature(y_parity, r, s)
