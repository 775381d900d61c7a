"""
An account for web3.py and eth-account whose key lives in an HSM.

::

    account = HSMAccount(signer)
    signed = account.sign_transaction({"to": ..., "chainId": 1, ...})
    w3.eth.send_raw_transaction(signed.raw_transaction)

It answers what ``eth_account.Account.from_key(...)`` answers, in the same bytes but for
the signature itself, which a device makes anew each time.  There is no key to export,
so web3.py's signing middleware does not take it, and it refuses what a hot wallet must
never sign: authorisations that hand the account to a contract (EIP-7702), blobs, and
transactions without a chain id, which would be valid on every chain (EIP-155).

A wallet that the service pays from pauses at a nonce that its ledger did not give out:
send nothing of one's own with its key on those networks.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, cast

import rlp
import structlog
from eth_account.datastructures import SignedMessage, SignedTransaction
from eth_account.messages import SignableMessage, encode_typed_data
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
from eth_utils.crypto import keccak
from eth_utils.hexadecimal import is_0x_prefixed
from hexbytes import HexBytes
from rlp.sedes import big_endian_int

from signer.audit.log import AuditLog
from signer.crypto.messages import message_digest
from signer.crypto.secp256k1 import Signature
from signer.errors import HotWalletError, InvalidInputError, PolicyViolationError
from signer.keys.signer import Signer
from signer.model.audit_record import Operation, Purpose
from signer.ports import KeyBackend, KeyId


_LEGACY_FIELDS = ("nonce", "gasPrice", "gas", "to", "value", "data", "chainId")

_SIGNED_TYPES = (1, 2)

_MALFORMED = "not a complete, valid transaction"


class HSMAccount(BaseAccount):
    """
    Signs transactions, messages and typed data with one ``Signer``.

    *actor* is the name that the audit log gives to whoever holds the account.
    """

    def __init__(self, signer: Signer, actor: str = "account") -> None:
        self._signer = signer
        self._actor = actor

    @classmethod
    def open(
        cls, backend: KeyBackend, key_id: str, *, expected_address: str | None = None
    ) -> Self:
        """
        Return the account of *key_id*, with its public key fetched and pinned.

        It needs no ledger and no networks file.  Audit events go to structlog's
        logger ``audit``.

        Raises:
            KeyUnusableError: The key's address is not *expected_address*.
            EncodingError: The key is not a secp256k1 key.
            BackendError: The device did not answer, or has no such key.
        """
        audit = AuditLog(structlog.get_logger("audit"))
        return cls(
            Signer.open(
                backend, KeyId(key_id), audit, expected_address=expected_address
            )
        )

    @property
    def address(self) -> ChecksumAddress:
        """The EIP-55 address."""
        return cast("ChecksumAddress", self._signer.address)

    def __repr__(self) -> str:
        return f"HSMAccount({self.address!r})"

    def unsafe_sign_hash(self, message_hash: Hash32) -> SignedMessage:
        """
        Sign 32 bytes as they are.

        A hash that somebody else made may be that of any transaction: prefer
        ``sign_message``, which cannot sign one.
        """
        digest = bytes(HexBytes(message_hash))
        signature = self._signer.sign_digest(
            digest, Purpose(Operation.MESSAGE_SIGNING, actor=self._actor)
        )
        v = 27 + signature.y_parity
        return SignedMessage(
            message_hash=HexBytes(digest),
            r=signature.r,
            s=signature.s,
            v=v,
            signature=HexBytes(signature.to_bytes()[:-1] + bytes([v])),
        )

    def sign_message(self, signable_message: SignableMessage) -> SignedMessage:
        """Sign an EIP-191 message, v being 27 or 28."""
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

        Raises:
            InvalidInputError: The document does not say what it means.
        """
        with _refused("not a valid EIP-712 document"):
            message = encode_typed_data(
                domain_data, message_types, message_data, full_message
            )
        return self.sign_message(message)

    def sign_transaction(
        self, transaction_dict: TransactionDictType
    ) -> SignedTransaction:
        """
        Sign a legacy (EIP-155), type 1 (EIP-2930) or type 2 (EIP-1559) transaction.

        Raises:
            PolicyViolationError: Another type, or no chain id.
            InvalidInputError: A field is missing, unknown or malformed.
        """
        fields = self._own(transaction_dict)
        _require_chain(fields)
        if "type" in fields or "maxFeePerGas" in fields or "accessList" in fields:
            return self._sign_typed(fields)
        return self._sign_legacy(fields)

    def _own(self, transaction: Mapping[str, Any]) -> dict[str, Any]:
        fields = dict(transaction)
        sender = fields.pop("from", self.address)
        if not is_address(sender) or not is_same_address(sender, self.address):
            raise InvalidInputError(
                f"from must be this account, {self.address}", field="from"
            )
        return fields

    def _sign_typed(self, fields: dict[str, Any]) -> SignedTransaction:
        with _refused(_MALFORMED):
            unsigned = TypedTransaction.from_dict(fields)
            if unsigned.transaction_type not in _SIGNED_TYPES:
                raise PolicyViolationError(
                    f"type {unsigned.transaction_type} transactions are never signed",
                    rule="transaction-type",
                )
            digest = unsigned.hash()
        signature = self._sign(digest)
        signed = TypedTransaction.from_dict(
            {
                **unsigned.as_dict(),
                "v": signature.y_parity,
                "r": signature.r,
                "s": signature.s,
            }
        )
        return _result(signed.encode(), signature, signature.y_parity)

    def _sign_legacy(self, fields: dict[str, Any]) -> SignedTransaction:
        with _refused(_MALFORMED):
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
        signature = self._sign(digest)
        v = 35 + 2 * chain_id + signature.y_parity
        raw = rlp.encode([*body, v, signature.r, signature.s])
        return _result(raw, signature, v)

    def _sign(self, digest: bytes) -> Signature:
        return self._signer.sign_digest(
            digest, Purpose(Operation.TRANSACTION_SIGNING, actor=self._actor)
        )


@contextmanager
def _refused(problem: str, field: str | None = None) -> Iterator[None]:
    """Raise our error for whatever eth-account stumbles on."""
    try:
        yield
    except HotWalletError:
        raise
    except Exception:  # noqa: BLE001 - It promises no kind of exception.
        raise InvalidInputError(problem, field=field) from None


def _result(raw: bytes, signature: Signature, v: int) -> SignedTransaction:
    return SignedTransaction(
        HexBytes(raw), HexBytes(keccak(raw)), signature.r, signature.s, v
    )


def _require_chain(fields: Mapping[str, Any]) -> None:
    with _refused("chainId is malformed", field="chainId"):
        chain_id = _integer(fields.get("chainId", 0))
    if chain_id == 0:
        raise PolicyViolationError(
            "a transaction without a chain id is valid on every chain",
            rule="chain-id",
        )


def _integer(value: int | str) -> int:
    if isinstance(value, bool):
        raise TypeError("a number must not be a boolean")
    if isinstance(value, str):
        if not is_0x_prefixed(value):  # "10" would be sixteen.
            raise ValueError("a number in a string must be 0x-prefixed hex")
        value = to_int(hexstr=value)
    big_endian_int.serialize(value)  # Refuses whatever is no natural number.
    return value


def _recipient(value: str | bytes | None) -> bytes:
    if value in (None, "", b""):
        return b""
    if isinstance(value, str) and not is_checksum_address(value):
        raise ValueError("an address must have its EIP-55 checksum")
    return to_canonical_address(value)


def _data(value: str | bytes) -> bytes:
    return to_bytes(hexstr=value) if isinstance(value, str) else to_bytes(value)
