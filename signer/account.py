"""
An account for web3.py and eth-account whose key lives in an HSM.

::

    account = HSMAccount(signer)
    signed = account.sign_transaction({"to": ..., "chainId": 1, ...})
    w3.eth.send_raw_transaction(signed.raw_transaction)

It returns the same bytes as ``eth_account.Account.from_key(...)`` except for the
signature itself, which differs each time.  The key cannot be exported, so web3.py's
signing middleware does not accept this account.

It refuses what a hot wallet must never sign: authorisations that delegate the account
to a contract (EIP-7702), blob transactions (EIP-4844), and transactions without a chain
id, which would be valid on every chain (EIP-155).

Open it with a ledger to sign with a key of a service's ring.  Then each signature needs
that the ring lets the key sign when the intent becomes durable, which one transaction
checks: after a revocation on any host, the account signs nothing.  Without a ledger the
account knows no ring, and only the device can refuse.

Do not send transactions with a key from which the service pays refunds: the service
pauses a wallet when it finds a nonce that it did not reserve.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, cast

import rlp
import structlog
from eth_account.datastructures import SignedMessage, SignedTransaction
from eth_account.messages import SignableMessage
from eth_account.signers.base import BaseAccount
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_account.types import TransactionDictType
from eth_typing import ChecksumAddress, Hash32
from eth_utils.address import (
    is_address,
    is_checksum_address,
    is_same_address,
    to_canonical_address,
)
from eth_utils.conversions import to_bytes, to_int
from eth_utils.hexadecimal import is_0x_prefixed
from hexbytes import HexBytes
from rlp.sedes import big_endian_int

from signer.audit.log import AuditLog
from signer.crypto.keccak import keccak
from signer.crypto.messages import message_digest
from signer.crypto.secp256k1 import Signature
from signer.crypto.typed_data import TypedData
from signer.errors import (
    HotWalletError,
    InvalidInputError,
    KeyRotatedError,
    KeyUnusableError,
    PolicyViolationError,
)
from signer.keys.signer import Signer
from signer.model.audit_record import Operation, Purpose
from signer.model.key import SIGNING
from signer.ports import Journal, KeyBackend, KeyId


_LEGACY_FIELDS = ("nonce", "gasPrice", "gas", "to", "value", "data", "chainId")

_SIGNED_TYPES = (1, 2)

_MALFORMED = "not a complete, valid transaction"

_NOT_IN_RING = (
    "the ledger's key ring does not let this key sign: it was revoked, it failed over"
    " to a replica, or it never was in the ring; `hotwallet keys list` shows its state,"
    " and an account must be opened again after a failover"
)


class HSMAccount(BaseAccount):
    """
    Signs transactions, messages and typed data with one ``Signer``.

    *actor* is the name of the account's user in audit records.  Every method raises
    ``InvalidInputError`` for malformed input, ``SigningError`` if the device did not
    sign, and if *signer* writes to a ledger, ``KeyUnusableError`` if its ring does not
    let the key sign, and ``StoreError`` if it does not answer.
    """

    def __init__(self, signer: Signer, actor: str = "account") -> None:
        self._signer = signer
        self._actor = actor

    @classmethod
    def open(
        cls,
        backend: KeyBackend,
        key_id: str,
        *,
        expected_address: str | None = None,
        ledger: Journal | None = None,
    ) -> Self:
        """
        Return the account of *key_id*, with its public key fetched and pinned.

        It needs no ledger and no networks file.  Audit events go to structlog's
        logger ``audit``, and to *ledger* if there is one; the key must then be in its
        ring.  It raises as ``Signer.open``.
        """
        audit = AuditLog(structlog.get_logger("audit"), journal=ledger)
        key = KeyId(key_id)
        return cls(Signer.open(backend, key, audit, expected_address=expected_address))

    @property
    def address(self) -> ChecksumAddress:
        """The EIP-55 address."""
        return cast("ChecksumAddress", self._signer.address)

    def __repr__(self) -> str:
        return f"HSMAccount({self.address!r})"

    def unsafe_sign_hash(self, message_hash: Hash32) -> SignedMessage:
        """
        Sign the 32 bytes of *message_hash* as they are.

        The hash may be that of any transaction.  Prefer ``sign_message``, which cannot
        sign a transaction.
        """
        digest = bytes(HexBytes(message_hash))
        signature = self._sign(digest, Operation.MESSAGE_SIGNING)
        v = 27 + signature.y_parity
        return SignedMessage(
            message_hash=HexBytes(digest),
            r=signature.r,
            s=signature.s,
            v=v,
            signature=HexBytes(signature.to_bytes()[:-1] + bytes([v])),
        )

    def sign_message(self, signable_message: SignableMessage) -> SignedMessage:
        """
        Sign an EIP-191 message; v is 27 or 28.

        Of typed data, such a message has only the hashes.  ``sign_typed_data`` checks
        the whole document.
        """
        return self.unsafe_sign_hash(cast("Hash32", message_digest(signable_message)))

    def sign_typed_data(
        self,
        domain_data: dict[str, Any] | None = None,
        message_types: dict[str, Any] | None = None,
        message_data: dict[str, Any] | None = None,
        full_message: dict[str, Any] | None = None,
    ) -> SignedMessage:
        """
        Sign EIP-712 data, given whole or as domain, types and message.

        It refuses documents that wallets read differently; see ``TypedData``.
        """
        parts = (domain_data, message_types, message_data)
        if full_message is None:
            document = TypedData.of(*parts)
        elif parts == (None, None, None):
            document = TypedData.parse(full_message)
        else:
            raise InvalidInputError(
                "give full_message or the three parts, not both", field="full_message"
            )
        return self.unsafe_sign_hash(cast("Hash32", document.digest()))

    def sign_transaction(
        self, transaction_dict: TransactionDictType
    ) -> SignedTransaction:
        """
        Sign a legacy (EIP-155), type 1 (EIP-2930) or type 2 (EIP-1559) transaction.

        Raises:
            PolicyViolationError: The type is another one, or there is no chain id.
        """
        fields = self._without_sender(transaction_dict)
        _require_chain(fields)
        if "type" in fields or "maxFeePerGas" in fields or "accessList" in fields:
            return self._sign_typed(fields)
        return self._sign_legacy(fields)

    def _without_sender(self, transaction: Mapping[str, Any]) -> dict[str, Any]:
        fields = dict(transaction)
        sender = fields.pop("from", self.address)
        if not is_address(sender) or not is_same_address(sender, self.address):
            raise InvalidInputError(
                f"from must be the address of this account, {self.address}",
                field="from",
            )
        return fields

    def _sign_typed(self, fields: dict[str, Any]) -> SignedTransaction:
        with _rejecting(_MALFORMED):
            unsigned = TypedTransaction.from_dict(fields)
            if unsigned.transaction_type not in _SIGNED_TYPES:
                raise PolicyViolationError(
                    f"type {unsigned.transaction_type} transactions are never signed",
                    rule="transaction-type",
                )
            digest, chain_id = unsigned.hash(), _integer(fields["chainId"])
        signature = self._sign(digest, Operation.TRANSACTION_SIGNING, chain_id)
        numbers = {"v": signature.y_parity, "r": signature.r, "s": signature.s}
        signed = TypedTransaction.from_dict({**unsigned.as_dict(), **numbers})
        return _result(signed.encode(), signature, signature.y_parity)

    def _sign_legacy(self, fields: dict[str, Any]) -> SignedTransaction:
        with _rejecting(_MALFORMED):
            if unknown := fields.keys() - set(_LEGACY_FIELDS):
                raise ValueError(unknown)
            chain_id = _integer(fields["chainId"])
            body = [
                *(_integer(fields[name]) for name in ("nonce", "gasPrice", "gas")),
                _recipient(fields.get("to", b"")),
                _integer(fields.get("value", 0)),
                _data(fields.get("data", b"")),
            ]
            digest = keccak(rlp.encode([*body, chain_id, 0, 0]))
        signature = self._sign(digest, Operation.TRANSACTION_SIGNING, chain_id)
        v = 35 + 2 * chain_id + signature.y_parity
        raw = rlp.encode([*body, v, signature.r, signature.s])
        return _result(raw, signature, v)

    def _sign(
        self, digest: bytes, operation: Operation, chain_id: int | None = None
    ) -> Signature:
        purpose = Purpose(operation, actor=self._actor)
        try:
            # A signer without a ledger has no ring to ask.
            self._signer.announce(digest, purpose, states=SIGNING, chain_id=chain_id)
        except KeyRotatedError:
            raise KeyUnusableError(_NOT_IN_RING) from None
        signed = self._signer.sign(digest, purpose)
        signed.audit.write(signed.outcome())
        return signed.signature


@contextmanager
def _rejecting(problem: str, field: str | None = None) -> Iterator[None]:
    """Raise ``InvalidInputError`` for every exception of eth-account."""
    try:
        yield
    except HotWalletError:
        raise
    except Exception:  # noqa: BLE001 - It documents no exception classes.
        raise InvalidInputError(problem, field=field) from None


def _result(raw: bytes, signature: Signature, v: int) -> SignedTransaction:
    return SignedTransaction(
        HexBytes(raw), HexBytes(keccak(raw)), signature.r, signature.s, v
    )


def _require_chain(fields: Mapping[str, Any]) -> None:
    with _rejecting("chainId is malformed", field="chainId"):
        chain_id = _integer(fields.get("chainId", 0))
    if chain_id == 0:
        raise PolicyViolationError(
            "a transaction without a chain id is valid on every chain", rule="chain-id"
        )


def _integer(value: int | str) -> int:
    if isinstance(value, bool):
        raise TypeError("a number must not be a boolean")
    if isinstance(value, str):
        if not is_0x_prefixed(value):  # Otherwise "10" would be read as 16.
            raise ValueError("a number in a string must be 0x-prefixed hex")
        value = to_int(hexstr=value)
    big_endian_int.serialize(value)  # Raises for negative numbers.
    return value


def _recipient(value: str | bytes | None) -> bytes:
    if value in (None, "", b""):
        return b""
    if isinstance(value, str) and not is_checksum_address(value):
        raise ValueError("an address must have its EIP-55 checksum")
    return to_canonical_address(value)


def _data(value: str | bytes) -> bytes:
    return to_bytes(hexstr=value) if isinstance(value, str) else to_bytes(value)
