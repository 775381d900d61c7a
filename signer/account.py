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

import structlog
from eth_account.datastructures import SignedMessage, SignedTransaction
from eth_account.messages import SignableMessage, encode_typed_data
from eth_account.signers.base import BaseAccount
from eth_account.types import TransactionDictType
from eth_typing import ChecksumAddress, Hash32
from eth_utils.address import is_checksum_address
from hexbytes import HexBytes

from signer.audit.log import AuditLog
from signer.crypto.messages import message_digest
from signer.crypto.secp256k1 import Signature
from signer.crypto.transaction_json import parse_sender, parse_transaction
from signer.crypto.transactions import (
    AccessListTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SignedBytes,
)
from signer.errors import (
    InvalidInputError,
    KeyRotatedError,
    KeyUnusableError,
    PolicyViolationError,
)
from signer.keys.signer import Signer
from signer.model.audit_record import Operation, Purpose
from signer.model.key import SIGNING
from signer.ports import Journal, KeyBackend, KeyId


_SIGNED_TYPES = (
    LegacyTransaction.type,
    AccessListTransaction.type,
    DynamicFeeTransaction.type,
)

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
        """Sign an EIP-191 message; v is 27 or 28."""
        return self.unsafe_sign_hash(cast("Hash32", message_digest(signable_message)))

    def sign_typed_data(
        self,
        domain_data: dict[str, Any] | None = None,
        message_types: dict[str, Any] | None = None,
        message_data: dict[str, Any] | None = None,
        full_message: dict[str, Any] | None = None,
    ) -> SignedMessage:
        """Sign EIP-712 data, given whole or as domain, types and message."""
        with _rejecting("not a valid EIP-712 document"):
            message = encode_typed_data(
                domain_data, message_types, message_data, full_message
            )
        return self.sign_message(message)

    def sign_transaction(
        self, transaction_dict: TransactionDictType
    ) -> SignedTransaction:
        """
        Sign a legacy (EIP-155), type 1 (EIP-2930) or type 2 (EIP-1559) transaction.

        The fields are those of eth-account, or of JSON-RPC.

        Raises:
            PolicyViolationError: The type is another one, or there is no chain id.
        """
        fields: Mapping[str, Any] = dict(transaction_dict)
        self._check_sender(fields)
        _check_chain(fields)
        _check_recipient(fields.get("to"))
        transaction = parse_transaction(fields)
        if transaction.type not in _SIGNED_TYPES:
            raise PolicyViolationError(
                f"type {transaction.type} transactions are never signed",
                rule="transaction-type",
            )
        signature = self._sign(
            transaction.signing_digest(),
            Operation.TRANSACTION_SIGNING,
            transaction.chain_id,
        )
        signed = SignedBytes.of(transaction, signature)
        return SignedTransaction(
            raw_transaction=HexBytes(signed.raw),
            hash=HexBytes(signed.tx_hash),
            r=signature.r,
            s=signature.s,
            v=signed.v,
        )

    def _check_sender(self, fields: Mapping[str, Any]) -> None:
        if parse_sender(fields) not in (None, self.address):
            raise InvalidInputError(
                f"from must be the address of this account, {self.address}",
                field="from",
            )

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
def _rejecting(problem: str) -> Iterator[None]:
    """Raise ``InvalidInputError`` for every exception of eth-account."""
    try:
        yield
    except Exception:  # noqa: BLE001 - It documents no exception classes.
        raise InvalidInputError(problem) from None


def _check_chain(fields: Mapping[str, Any]) -> None:
    if fields.get("chainId", 0) in (0, "0x0"):
        raise PolicyViolationError(
            "a transaction without a chain id is valid on every chain", rule="chain-id"
        )


def _check_recipient(recipient: object) -> None:
    """Require a checksum, as eth-account does; JSON-RPC's clients may omit it."""
    if isinstance(recipient, str) and recipient and not is_checksum_address(recipient):
        raise InvalidInputError(
            "to must be an address with its EIP-55 checksum", field="to"
        )
