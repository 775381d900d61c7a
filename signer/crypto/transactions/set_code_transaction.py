"""Transactions of type 4: they let accounts run the code of contracts (EIP-7702)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions.authorizations import (
    Authorization,
    take_authorizations,
)
from signer.crypto.transactions.rlp_items import take
from signer.crypto.transactions.typed_transaction import (
    FeeMarketTransaction,
    take_common,
    take_signature,
)
from signer.crypto.transactions.validation import require


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCodeTransaction(FeeMarketTransaction):
    """An unsigned transaction of type 4."""

    type: ClassVar[int] = 4
    may_create: ClassVar[bool] = False

    authorization_list: tuple[Authorization, ...]

    def _check_more(self) -> None:
        is_list = len(self.authorization_list) > 0
        require(is_list, "authorization_list", "must not be empty")

    def _more_items(self) -> list[object]:
        return [[each.items() for each in self.authorization_list]]


def read_set_code(items: list[Any]) -> tuple[SetCodeTransaction, Signature]:
    """Return the transaction of RLP *items*, and its signature."""
    *common, authorizations, y_parity, r, s = take(items, 13)
    transaction = SetCodeTransaction(
        **take_common(common, SetCodeTransaction),
        authorization_list=take_authorizations(authorizations),
    )
    return transaction, take_signature(y_parity, r, s)
