"""What eth-account makes of transactions, in the form of JSON-RPC."""

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

from signer.crypto.transactions import AnyTransaction
from tests.support.transactions import as_dictionary


ACCOUNT = Account.from_key("0x" + "11" * 32)

_FIRST_V = 35


def sign(transaction: AnyTransaction) -> SignedTransaction:
    """Return *transaction* as ``ACCOUNT`` signs it."""
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
