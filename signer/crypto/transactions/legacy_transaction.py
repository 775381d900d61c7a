"""Legacy transactions: without a type byte, bound to their chain by EIP-155."""

from dataclasses import dataclass
from typing import Any, ClassVar

from signer.crypto.keccak import keccak
from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions.access_lists import AccessList
from signer.crypto.transactions.rlp_items import (
    address_bytes,
    encode,
    minimal,
    take,
    take_bytes,
    take_number,
    take_recipient,
)
from signer.crypto.transactions.validation import check_common
from signer.errors import EncodingError


_FIRST_V = 35  # EIP-155: v = chain id * 2 + 35 + parity.


@dataclass(frozen=True, slots=True)
class LegacyTransaction:
    """
    An unsigned transaction of type 0, with one gas price, in wei.

    ``to`` is None if it creates a contract.
    """

    type: ClassVar[int] = 0
    access_list: ClassVar[AccessList] = ()

    chain_id: int
    nonce: int
    gas_price: int
    gas: int
    to: str | None
    value: int
    data: bytes

    def __post_init__(self) -> None:
        """Raise ``InvalidInputError`` for the first field out of range."""
        check_common(self, self.gas_price, "gas_price")

    @property
    def max_fee_per_gas(self) -> int:
        """The gas price."""
        return self.gas_price

    @property
    def max_priority_fee_per_gas(self) -> int:
        """The gas price: without a base fee, the block producer gets all of it."""
        return self.gas_price

    def signing_digest(self) -> bytes:
        """Return the digest to sign: keccak256(rlp(fields, chain id, 0, 0))."""
        return keccak(encode([*self._items(), minimal(self.chain_id), b"", b""]))

    def serialise(self, signature: Signature) -> bytes:
        """Return the signed bytes to broadcast."""
        numbers = (self.v(signature), signature.r, signature.s)
        return encode([*self._items(), *map(minimal, numbers)])

    def v(self, signature: Signature) -> int:
        """Return the number that holds the chain id and the y-parity (EIP-155)."""
        return self.chain_id * 2 + _FIRST_V + signature.y_parity

    def _items(self) -> list[object]:
        return [
            minimal(self.nonce),
            minimal(self.gas_price),
            minimal(self.gas),
            address_bytes(self.to),
            minimal(self.value),
            self.data,
        ]


def read_legacy(items: list[Any]) -> tuple[LegacyTransaction, Signature]:
    """Return the transaction of RLP *items*, and its signature."""
    *numbers, to, value, data, v, r, s = take(items, 9)
    chain_id, y_parity = divmod(take_number(v) - _FIRST_V, 2)
    if chain_id <= 0:
        # No class represents it: it could be replayed on any chain.
        raise EncodingError("the transaction is not bound to a chain (EIP-155)")
    nonce, gas_price, gas = map(take_number, numbers)
    transaction = LegacyTransaction(
        chain_id=chain_id,
        nonce=nonce,
        gas_price=gas_price,
        gas=gas,
        to=take_recipient(to),
        value=take_number(value),
        data=take_bytes(data),
    )
    return transaction, Signature(take_number(r), take_number(s), y_parity)
