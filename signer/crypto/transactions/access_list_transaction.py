"""Transactions of type 1: a gas price and an access list (EIP-2930)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions.rlp_items import take
from signer.crypto.transactions.typed_transaction import (
    TypedTransaction,
    take_common,
    take_signature,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessListTransaction(TypedTransaction):
    """An unsigned transaction of type 1, with one gas price, in wei."""

    type: ClassVar[int] = 1
    fee_fields: ClassVar[tuple[str, ...]] = ("gas_price",)

    gas_price: int

    @property
    def max_fee_per_gas(self) -> int:
        """The gas price."""
        return self.gas_price

    @property
    def max_priority_fee_per_gas(self) -> int:
        """The gas price: the block producer gets what the base fee leaves of it."""
        return self.gas_price


def read_access_list(items: list[Any]) -> tuple[AccessListTransaction, Signature]:
    """Return the transaction of RLP *items*, and its signature."""
    *common, y_parity, r, s = take(items, 11)
    fields = take_common(common, AccessListTransaction)
    return AccessListTransaction(**fields), take_signature(y_parity, r, s)
