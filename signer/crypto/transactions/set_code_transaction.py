"""Transactions of type 4: they let accounts run the code of contracts (EIP-7702)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions.access_lists import (
    AccessList,
    access_list_items,
    check_access_list,
    take_access_list,
)
from signer.crypto.transactions.authorizations import (
    Authorization,
    take_authorizations,
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
    take_address,
    take_bytes,
    take_number,
)
from signer.crypto.transactions.validation import check_common, check_fees, require


_PREFIX = b"\x04"


@dataclass(frozen=True, slots=True)
class SetCodeTransaction:
    """An unsigned transaction of type 4; fees in wei per gas, ``value`` in wei."""

    type: ClassVar[int] = 4

    chain_id: int
    nonce: int
    max_priority_fee_per_gas: int
    max_fee_per_gas: int
    gas: int
    to: str
    value: int
    data: bytes
    access_list: AccessList
    authorization_list: tuple[Authorization, ...]

    def __post_init__(self) -> None:
        """Raise ``InvalidInputError`` for the first field out of range."""
        check_common(self, self.max_fee_per_gas, "max_fee_per_gas")
        check_fees(self.max_fee_per_gas, self.max_priority_fee_per_gas)
        check_access_list(self.access_list)
        require(bool(self.to), "to", "must be an address: it cannot create a contract")
        is_list = len(self.authorization_list) > 0
        require(is_list, "authorization_list", "must not be empty")

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
            [each.items() for each in self.authorization_list],
        ]


def read_set_code(items: list[Any]) -> tuple[SetCodeTransaction, Signature]:
    """Return the transaction of RLP *items*, and its signature."""
    *numbers, to, value, data, access_list, authorizations, y_parity, r, s = take(
        items, 13
    )
    chain_id, nonce, priority_fee, max_fee, gas = map(take_number, numbers)
    transaction = SetCodeTransaction(
        chain_id=chain_id,
        nonce=nonce,
        max_priority_fee_per_gas=priority_fee,
        max_fee_per_gas=max_fee,
        gas=gas,
        to=take_address(to),
        value=take_number(value),
        data=take_bytes(data),
        access_list=take_access_list(access_list),
        authorization_list=take_authorizations(authorizations),
    )
    return transaction, take_signature(y_parity, r, s)
