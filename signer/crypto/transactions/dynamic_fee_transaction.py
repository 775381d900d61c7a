"""Transactions of type 2: a max fee and a priority fee (EIP-1559)."""

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
    address_bytes,
    minimal,
    take,
    take_bytes,
    take_number,
    take_recipient,
)
from signer.crypto.transactions.validation import check_common, check_fees


_PREFIX = b"\x02"


@dataclass(frozen=True, slots=True)
class DynamicFeeTransaction:
    """
    An unsigned transaction of type 2; fees in wei per gas, ``value`` in wei.

    ``to`` is None if it creates a contract.
    """

    type: ClassVar[int] = 2

    chain_id: int
    nonce: int
    max_priority_fee_per_gas: int
    max_fee_per_gas: int
    gas: int
    to: str | None
    value: int
    data: bytes
    access_list: AccessList = ()

    def __post_init__(self) -> None:
        """Raise ``InvalidInputError`` for the first field out of range."""
        check_common(self, self.max_fee_per_gas, "max_fee_per_gas")
        check_fees(self.max_fee_per_gas, self.max_priority_fee_per_gas)
        check_access_list(self.access_list)

    def signing_digest(self) -> bytes:
        """Return the digest to sign."""
        return typed_digest(_PREFIX, self._items())

    def serialise(self, signature: Signature) -> bytes:
        """Return the signed bytes to broadcast."""
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
        ]


def read_dynamic_fee(items: list[Any]) -> tuple[DynamicFeeTransaction, Signature]:
    """Return the transaction of RLP *items*, and its signature."""
    *numbers, to, value, data, access_list, y_parity, r, s = take(items, 12)
    chain_id, nonce, priority_fee, max_fee, gas = map(take_number, numbers)
    transaction = DynamicFeeTransaction(
        chain_id=chain_id,
        nonce=nonce,
        max_priority_fee_per_gas=priority_fee,
        max_fee_per_gas=max_fee,
        gas=gas,
        to=take_recipient(to),
        value=take_number(value),
        data=take_bytes(data),
        access_list=take_access_list(access_list),
    )
    return transaction, take_signature(y_parity, r, s)
