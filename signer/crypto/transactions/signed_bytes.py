"""Signed transactions of every type: their bytes, and what the bytes contain."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from signer.crypto.keccak import keccak
from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions.fields import decode
from signer.crypto.transactions.types import (
    AccessListTransaction,
    BlobTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SetCodeTransaction,
    TempoTransaction,
    read_blob,
    read_legacy,
    read_tempo,
)
from signer.errors import EncodingError


AnyTransaction = (
    LegacyTransaction
    | AccessListTransaction
    | DynamicFeeTransaction
    | BlobTransaction
    | SetCodeTransaction
    | TempoTransaction
)
"""An unsigned transaction; ``type`` is which."""

TOKEN_FEE_CLASSES: Mapping[int, type[TempoTransaction]] = {
    each.type: each for each in (TempoTransaction,)
}
"""The transactions that name a token for their fee, by type."""

_Reader = Callable[[list[Any]], tuple[AnyTransaction, Signature]]

_READERS: dict[bytes, _Reader] = {
    b"\x01": AccessListTransaction.read,
    b"\x02": DynamicFeeTransaction.read,
    b"\x03": read_blob,
    b"\x04": SetCodeTransaction.read,
    b"\x76": read_tempo,
}

_FIRST_LIST = b"\xc0"  # EIP-2718: from this byte on, a legacy transaction (RLP).


@dataclass(frozen=True, slots=True)
class SignedBytes:
    """A signed transaction: its bytes, and what they contain."""

    raw: bytes = field(repr=False)
    transaction: AnyTransaction
    signature: Signature

    @classmethod
    def of(cls, transaction: AnyTransaction, signature: Signature) -> Self:
        """
        Serialise *transaction* with *signature*, and decode the bytes again.

        The bytes therefore contain exactly what was checked.

        Raises:
            EncodingError: The bytes contain anything else, because of a bug.
        """
        signed = cls.decode(transaction.serialise(signature))
        if (signed.transaction, signed.signature) != (transaction, signature):
            raise EncodingError("the signed bytes contain another transaction")
        return signed

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """
        Decode signed bytes.

        What is decoded is canonical, and may still be what must never be signed: a
        policy decides that.  A blob transaction is decoded without its blobs.

        Raises:
            EncodingError: *raw* is not one canonical transaction of type 0 or of
                ``_READERS``, is not bound to a chain (EIP-155), is together with its
                blobs, or a signature is out of range.
            InvalidInputError: A field is out of range.
        """
        reader = _READERS.get(raw[:1])
        if reader is not None:
            transaction, signature = reader(decode(raw[1:]))
        elif raw[:1] >= _FIRST_LIST:
            transaction, signature = read_legacy(decode(raw))
        else:
            known = ", ".join(f"{first[0]:#x}" for first in _READERS)
            raise EncodingError(f"not a transaction of the types 0, {known}")
        return cls(raw, transaction, signature)

    @property
    def tx_hash(self) -> str:
        """The transaction hash, as 0x-prefixed hex."""
        return "0x" + keccak(self.raw).hex()

    @property
    def v(self) -> int:
        """``35 + 2 * chain id + y-parity`` of a legacy one (EIP-155); else y-parity."""
        if isinstance(self.transaction, LegacyTransaction):
            return self.transaction.v(self.signature)
        return self.signature.y_parity
