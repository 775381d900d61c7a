"""Generated transactions of all types, and the forms that other libraries give them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eth_account import Account
from eth_account._utils.legacy_transactions import (
    Transaction,
    serializable_unsigned_transaction_from_dict,
)
from eth_account.datastructures import SignedTransaction
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes

from signer.crypto.secp256k1 import HALF_N, N, Signature
from signer.crypto.transactions import (
    AccessList,
    AccessListTransaction,
    AnyTransaction,
    Authorization,
    BlobTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SetCodeTransaction,
)


SAFE_INTEGER = 2**53 - 1
"""The largest nonce that ethers can represent."""


SIGNATURE = Signature(1, 2, 1)

_FIELDS: dict[str, Any] = {
    "chain_id": 31337,
    "nonce": 0,
    "gas": 65_000,
    "to": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
    "value": 0,
    "data": b"",
}
_FEES: dict[str, Any] = {
    "max_priority_fee_per_gas": 10**9,
    "max_fee_per_gas": 2 * 10**9,
}
_KEY = bytes(31) + b"\x07"

LEGACY = LegacyTransaction(**_FIELDS, gas_price=2 * 10**9)
TYPE_1 = AccessListTransaction(
    **_FIELDS, gas_price=2 * 10**9, access_list=((_FIELDS["to"], (_KEY,)),)
)
TYPE_2 = DynamicFeeTransaction(**_FIELDS, **_FEES)
TYPE_3 = BlobTransaction(
    **_FIELDS,
    **_FEES,
    access_list=(),
    max_fee_per_blob_gas=1,
    blob_versioned_hashes=(b"\x01" + bytes(31),),
)
TYPE_4 = SetCodeTransaction(
    **_FIELDS,
    **_FEES,
    access_list=(),
    authorization_list=(Authorization(0, _FIELDS["to"], 0, SIGNATURE),),
)

EXAMPLES: tuple[AnyTransaction, ...] = (LEGACY, TYPE_1, TYPE_2, TYPE_3, TYPE_4)
"""One transaction of each type."""


def generate(
    number: int, seed: int, max_nonce: int = SAFE_INTEGER
) -> Iterator[AnyTransaction]:
    """Yield *number* transactions, the five types in turn; *seed* decides all of it."""
    source = _Source(random.Random(seed), max_nonce)
    for i in range(number):
        yield source.transaction(i % 5)


class _Source:
    """Draws fields; small numbers and the ends of ranges are as likely as others."""

    def __init__(self, rng: random.Random, max_nonce: int) -> None:
        self._rng = rng
        self._max_nonce = max_nonce

    def transaction(self, type_: int) -> AnyTransaction:
        rng = self._rng
        gas = self._number(2**64 - 1)
        # The price of all the gas is at most 2**256 - 1.
        most = (2**256 - 1) // max(gas, 1)
        fees = sorted((self._number(most), self._number(most)))
        common: dict[str, Any] = {
            "chain_id": max(1, self._number(2**63 - 37)),
            "nonce": self._number(self._max_nonce),
            "gas": gas,
            "to": self._address() if type_ in (3, 4) or rng.random() < 0.9 else None,
            "value": self._number(2**256 - 1),
            "data": rng.randbytes(rng.choice((0, 1, 4, 55, 56, 84, 300))),
        }
        if type_ == 0:
            return LegacyTransaction(**common, gas_price=fees[1])
        common["access_list"] = self._access_list()
        if type_ == 1:
            return AccessListTransaction(**common, gas_price=fees[1])
        common |= {"max_priority_fee_per_gas": fees[0], "max_fee_per_gas": fees[1]}
        if type_ == 2:
            return DynamicFeeTransaction(**common)
        if type_ == 3:
            return BlobTransaction(
                **common,
                max_fee_per_blob_gas=self._number(2**256 - 1),
                blob_versioned_hashes=tuple(
                    b"\x01" + rng.randbytes(31) for _ in range(rng.randint(1, 3))
                ),
            )
        return SetCodeTransaction(
            **common,
            authorization_list=tuple(
                self._authorization() for _ in range(rng.randint(1, 2))
            ),
        )

    def _number(self, largest: int) -> int:
        rng = self._rng
        bits = rng.randint(0, largest.bit_length())
        number = rng.choice((0, 1, 127, 128, 255, 256, largest, rng.getrandbits(bits)))
        return min(number, largest)

    def _address(self) -> str:
        return to_checksum_address(self._rng.randbytes(20))

    def _access_list(self) -> AccessList:
        rng = self._rng
        return tuple(
            (self._address(), tuple(self._key() for _ in range(rng.randint(0, 2))))
            for _ in range(rng.choice((0, 0, 1, 2)))
        )

    def _key(self) -> bytes:
        return self._number(2**256 - 1).to_bytes(32, "big")

    def _authorization(self) -> Authorization:
        rng = self._rng
        signature = Signature(
            max(1, self._number(N - 1)),
            max(1, self._number(HALF_N)),
            rng.randint(0, 1),
        )
        return Authorization(
            chain_id=self._number(2**64 - 1),
            address=self._address(),
            nonce=self._number(self._max_nonce),
            signature=signature,
        )


def as_json(transaction: AnyTransaction) -> dict[str, Any]:
    """Return *transaction* in the form of JSON-RPC; see ``as_dictionary``."""
    return {name: _in_json(value) for name, value in _fields(transaction).items()}


def as_dictionary(transaction: AnyTransaction) -> dict[str, Any]:
    """Return *transaction* as eth-account takes it."""
    fields = _fields(transaction)
    if transaction.type == 0:
        del fields["type"]
    return fields


def _fields(t: AnyTransaction) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "type": t.type,
        "chainId": t.chain_id,
        "nonce": t.nonce,
        "gas": t.gas,
        "to": t.to,
        "value": t.value,
        "data": t.data,
    }
    if isinstance(t, LegacyTransaction | AccessListTransaction):
        fields["gasPrice"] = t.gas_price
    else:
        fields["maxFeePerGas"] = t.max_fee_per_gas
        fields["maxPriorityFeePerGas"] = t.max_priority_fee_per_gas
    if not isinstance(t, LegacyTransaction):
        fields["accessList"] = [
            {"address": address, "storageKeys": ["0x" + key.hex() for key in keys]}
            for address, keys in t.access_list
        ]
    if isinstance(t, BlobTransaction):
        fields["maxFeePerBlobGas"] = t.max_fee_per_blob_gas
        fields["blobVersionedHashes"] = list(t.blob_versioned_hashes)
    if isinstance(t, SetCodeTransaction):
        fields["authorizationList"] = [
            {
                "chainId": each.chain_id,
                "address": each.address,
                "nonce": each.nonce,
                "yParity": each.signature.y_parity,
                "r": each.signature.r,
                "s": each.signature.s,
            }
            for each in t.authorization_list
        ]
    return fields


def _in_json(value: object) -> object:
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, list):
        return [_in_json(each) for each in value]
    if isinstance(value, dict):
        return {name: _in_json(each) for name, each in value.items()}
    return value


ACCOUNT = Account.from_key("0x" + "11" * 32)

_FIRST_V = 35


def sign(transaction: AnyTransaction) -> SignedTransaction:
    fields: Any = as_dictionary(transaction)
    signed: SignedTransaction = ACCOUNT.sign_transaction(fields)
    return signed


def digest(transaction: AnyTransaction) -> bytes:
    """Return the digest that eth-account signs."""
    fields: Any = as_dictionary(transaction)
    return bytes(serializable_unsigned_transaction_from_dict(fields).hash())


@dataclass(frozen=True, slots=True)
class Decoded:
    """Fields and signature that eth-account decodes, in the form of JSON-RPC."""

    fields: dict[str, Any]
    signature: dict[str, str]


def decode(raw: bytes) -> Decoded | None:
    """Return what *raw* contains, or None if eth-account refuses it."""
    try:
        if raw[0] < 0x80:
            return _describe(dict(TypedTransaction.from_bytes(HexBytes(raw)).as_dict()))
        fields = dict(Transaction.from_bytes(raw).as_dict())
        chain_id, parity = divmod(fields["v"] - _FIRST_V, 2)
        return _describe({**fields, "type": 0, "chainId": chain_id, "v": parity})
    except Exception:  # noqa: BLE001 - It documents no exception classes.
        return None


def recover(raw: bytes) -> str | None:
    """Return the sender of *raw*, or None if there is none."""
    try:
        return str(Account.recover_transaction(raw))
    except Exception:  # noqa: BLE001 - It documents no exception classes.
        return None


def _describe(fields: dict[str, Any]) -> Decoded:
    parity, r, s = (hex(fields.pop(name)) for name in "vrs")
    shown = {name: _show(name, value) for name, value in fields.items()}
    return Decoded(shown, {"yParity": parity, "r": r, "s": s})


def _show(name: str, value: Any) -> Any:
    if name in {"to", "address"}:
        return to_checksum_address(value) if value else None
    if name == "storageKeys":
        return [f"0x{key:064x}" for key in value]
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, dict):
        return {inner: _show(inner, each) for inner, each in value.items()}
    return [_show("", each) for each in value]
