"""Transactions of type 2: a max fee and a priority fee (EIP-1559)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions.rlp_items import take
from signer.crypto.transactions.typed_transaction import (
    FeeMarketTransaction,
    take_common,
    take_signature,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicFeeTransaction(FeeMarketTransaction):
    """An unsigned transaction of type 2."""

    type: ClassVar[int] = 2


def read_dynamic_fee(items: list[Any]) -> tuple[DynamicFeeTransaction, Signature]:
    """Return the transaction of RLP *items*, and its signature."""
    *common, y_parity, r, s = take(items, 12)
    fields = take_common(common, DynamicFeeTransaction)
    return DynamicFeeTransaction(**fields), take_signature(y_parity, r, s)
