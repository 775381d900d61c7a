"""Transactions of type 1: a gas price and an access list (EIP-2930)."""

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
from signer.crypto.transactions.validation import check_common


_PREFIX = b"\x01"


@dataclass(frozen=True, slots=True)
class AccessListTransaction:
    """
    An unsigned transaction of type 1, with one gas price, in wei.

    ``to`` is None if it creates a contract.
    """

    type: ClassVar[int] = 1

    chain_id: int
    nonce: int
    gas_price: int
    gas: int
    to: str | None
    value: int
    data: bytes
    access_list: AccessList = ()

    def __post_init__(self) -> None:
        """Raise ``InvalidInputError`` for the first field out of range."""
        check_common(self, self.gas_price, "gas_price")
        check_access_list(self.access_list)

    @property
    def max_fee_per_gas(self) -> int:
        """The gas price."""
        return self.gas_price

    @property
    def max_priority_fee_per_gas(self) -> int:
        """The gas price: the block producer gets what the base fee leaves of it."""
        return self.gas_price

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
            minimal(self.gas_price),
            minimal(self.gas),
            address_bytes(self.to),
            minimal(self.value),
            self.data,
            access_list_items(self.access_list),
        ]


def read_access_list(items: list[Any]) -> tuple[AccessListTransaction, Signature]:
    """Return the transaction of RLP *items*, and its signature."""
    *numbers, to, value, data, access_list, y_parity, r, s = take(items, 11)
    chain_id, nonce, gas_price, gas = map(take_number, numbers)
    transaction = AccessListTransaction(
        chain_id=chain_id,
        nonce=nonce,
        gas_price=gas_price,
        gas=gas,
        to=take_recipient(to),
        value=take_number(value),
        data=take_bytes(data),
        access_list=take_access_list(access_list),
    )
    return transaction, take_signature(y_parity, r, s)
