"""
What transactions of types 1 to 4 share: a type byte, and an order of fields (EIP-2718).

::

    type || rlp(chain_id, nonce, fees, gas, to, value, data, access_list, more fields,
                y-parity, r, s)
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from signer.crypto.keccak import keccak
from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions.access_lists import (
    AccessList,
    access_list_items,
    check_access_list,
    take_access_list,
)
from signer.crypto.transactions.rlp_items import (
    address_bytes,
    encode,
    minimal,
    take_address,
    take_bytes,
    take_number,
    take_recipient,
)
from signer.crypto.transactions.validation import check_common, check_fees, require


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedTransaction:
    """
    An unsigned transaction of types 1 to 4; ``value`` and fees for one gas are in wei.

    ``fee_fields`` has the names of the fees in the order of the bytes; the last of them
    is the most for one gas.  ``to`` is None if the transaction creates a contract;
    those without ``may_create`` cannot.
    """

    type: ClassVar[int]
    fee_fields: ClassVar[tuple[str, ...]]
    may_create: ClassVar[bool] = True

    chain_id: int
    nonce: int
    gas: int
    to: str | None
    value: int
    data: bytes
    access_list: AccessList = ()

    def __post_init__(self) -> None:
        """Raise ``InvalidInputError`` for the first field out of range."""
        priority_fee, max_fee = self._fees()[0], self._fees()[-1]
        check_common(self, max_fee, self.fee_fields[-1])
        check_fees(max_fee, priority_fee)
        check_access_list(self.access_list)
        has_recipient = self.may_create or bool(self.to)
        require(has_recipient, "to", "must be an address: it cannot create a contract")
        self._check_more()

    def _check_more(self) -> None:
        """Check the fields that not all types have; raises as ``__post_init__``."""

    def signing_digest(self) -> bytes:
        """Return the digest to sign: keccak256(type || rlp(fields))."""
        return keccak(self._prefix + encode(self._items()))

    def serialise(self, signature: Signature) -> bytes:
        """
        Return the bytes to broadcast: type || rlp(fields, y-parity, r, s).

        Those of a blob transaction are without the blobs, which nodes also need.
        """
        numbers = (signature.y_parity, signature.r, signature.s)
        return self._prefix + encode([*self._items(), *map(minimal, numbers)])

    @property
    def _prefix(self) -> bytes:
        return bytes((self.type,))

    def _items(self) -> list[object]:
        return [
            minimal(self.chain_id),
            minimal(self.nonce),
            *map(minimal, self._fees()),
            minimal(self.gas),
            address_bytes(self.to),
            minimal(self.value),
            self.data,
            access_list_items(self.access_list),
            *self._more_items(),
        ]

    def _fees(self) -> list[int]:
        return [getattr(self, name) for name in self.fee_fields]

    def _more_items(self) -> list[object]:
        """Return the items after the access list."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class FeeMarketTransaction(TypedTransaction):
    """An unsigned transaction with a max fee and a priority fee: types 2 to 4."""

    fee_fields: ClassVar[tuple[str, ...]] = (
        "max_priority_fee_per_gas",
        "max_fee_per_gas",
    )

    max_priority_fee_per_gas: int
    max_fee_per_gas: int


def take_common(items: list[Any], kind: type[TypedTransaction]) -> dict[str, Any]:
    """Return the fields that RLP *items* of *kind* begin with, by name."""
    chain_id, nonce, *fees, gas, to, value, data, access_list = items
    return {
        "chain_id": take_number(chain_id),
        "nonce": take_number(nonce),
        **dict(zip(kind.fee_fields, map(take_number, fees), strict=True)),
        "gas": take_number(gas),
        "to": take_recipient(to) if kind.may_create else take_address(to),
        "value": take_number(value),
        "data": take_bytes(data),
        "access_list": take_access_list(access_list),
    }


def take_signature(y_parity: object, r: object, s: object) -> Signature:
    """Return the signature of three RLP items, or raise ``EncodingError``."""
    return Signature(take_number(r), take_number(s), take_number(y_parity))
