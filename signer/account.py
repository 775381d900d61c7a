"""
An account for web3.py and eth-account whose key lives in an HSM.

::

    account = HSMAccount.open(backend, key_id)
    signed = account.sign_transaction({"to": ..., "chainId": 1, ...})
    w3.eth.send_raw_transaction(signed.raw_transaction)

    # Or let web3.py fill in nonce, gas and fees, and sign what it sends:
    w3.middleware_onion.inject(SignAndSendRawMiddlewareBuilder.build(account), layer=0)
    w3.eth.send_transaction({"from": account.address, "to": ..., "value": 1})

It returns the same bytes as ``eth_account.Account.from_key(...)`` except for the
signature itself, which differs each time.  It is a ``LocalAccount`` without a key:
``key`` and ``encrypt`` raise ``KeyNotExportableError``.

A policy decides about each signature (``signer/policy``).  The default one signs plain
transactions, messages and typed data.  It refuses what gives a wallet away: approvals
and permits of tokens, orders, typed data for a contract, hashes without a meaning,
contract creation, blobs (EIP-4844), authorisations that delegate the account to a
contract (EIP-7702), and gas above 2**24.  ``policy=account_policy("...")`` permits
more, or less.  No policy permits a transaction without a chain id, which would be valid
on every chain (EIP-155).

Open it with a ledger to sign with a key of a service's ring.  Then each signature needs
that the ring lets the key sign when the intent becomes durable, which one transaction
checks: after a revocation on any host, the account signs nothing.  Without a ledger the
account knows no ring, and only the device can refuse.

With a ledger it also refuses transactions from an address from which the service pays
(rule ``service-wallet``), because the service pauses a wallet when it finds a nonce
that it did not reserve.  Send through the service instead.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn, Self, SupportsIndex, cast

from eth_account.datastructures import (
    SignedMessage,
    SignedSetCodeAuthorization,
    SignedTransaction,
)
from eth_account.messages import SignableMessage
from eth_account.signers.local import LocalAccount
from eth_account.typed_transactions.set_code_transaction import Authorization
from eth_account.types import Blobs, TransactionDictType
from eth_keys.datatypes import Signature as EthSignature
from eth_typing import ChecksumAddress, Hash32
from eth_utils.address import (
    is_checksum_address,
    to_canonical_address,
    to_checksum_address,
)
from hexbytes import HexBytes

from signer.audit.log import AuditLog
from signer.config.networks import Network
from signer.crypto.transaction_json import parse_sender, parse_transaction
from signer.crypto.typed_data import TypedData
from signer.errors import (
    InvalidInputError,
    KeyNotExportableError,
    KeyRotatedError,
    KeyUnusableError,
    PolicyViolationError,
)
from signer.keys.signer import Signer
from signer.model.audit_record import Actor
from signer.model.key import KeyState
from signer.policy.attributes import MAX_LONG
from signer.policy.default_rules import account_policy
from signer.policy.facts import Caller, Path
from signer.policy.policy import Policy
from signer.ports.clock import Clock, utc_now
from signer.ports.key_backend import KeyBackend, KeyId
from signer.ports.ledger import Ledger
from signer.signing.service import (
    KnownAddresses,
    MessageSignature,
    Requester,
    SigningService,
)


_PAYING = frozenset({KeyState.ACTIVE, KeyState.PENDING})
"""States in which the service opens wallets of the key on further chains."""


def is_service_wallet(ledger: Ledger, address: str, chain_id: int) -> bool:
    """
    Return whether the service of *ledger* pays, or will pay, from *address*.

    A chain id of 0 means every chain.  The active key counts on each chain: the service
    opens its wallet with the first refund of a network, and pauses it at once if the
    address has a nonce by then.  A former key counts on the chains where it paid.

    Raises:
        StoreError: The ledger cannot be read.
    """
    ring = ledger.keys()
    if any(key.address == address and key.state in _PAYING for key in ring):
        return True
    if chain_id == 0:
        return any(wallet.sender == address for wallet in ledger.wallets())
    # No network can have a larger id, and the databases cannot store one.
    return chain_id <= MAX_LONG and ledger.wallet(chain_id, address) is not None


NO_NETWORKS: Mapping[str, Network] = MappingProxyType({})

_NOT_IN_RING = (
    "the ledger's key ring does not let this key sign: it was revoked, it failed over"
    " to a replica, or it never was in the ring; `hotwallet keys list` shows its state,"
    " and an account must be opened again after a failover"
)


_NO_KEY = (
    "the private key is in the HSM and cannot be exported; sign with this account"
    " instead: sign_transaction, sign_message, sign_typed_data"
)


class KeylessAccount(LocalAccount):
    """
    Has the interface of ``LocalAccount`` without a key; subclasses sign.

    web3.py's signing middleware accepts instances of ``LocalAccount`` only
    (``web3.middleware.signing.to_account``), whose constructor stores a key.

    ``key``, ``privateKey``, ``encrypt`` and ``bytes(account)`` raise
    ``KeyNotExportableError``, so that ``hasattr(account, "key")`` is False.
    """

    def __init__(self) -> None:
        """Store no key."""

    def __bytes__(self) -> NoReturn:
        raise KeyNotExportableError(_NO_KEY)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied: it uses a connection"
            " to the HSM; open it in each process"
        )

    @property
    def key(self) -> NoReturn:
        raise KeyNotExportableError(_NO_KEY)

    # What ``LocalAccount`` stores, and the name of ``key`` before eth-account 0.13.
    _private_key = _key_obj = _publicapi = privateKey = key  # noqa: N815

    def encrypt(self, *arguments: object, **options: object) -> NoReturn:
        raise KeyNotExportableError(_NO_KEY)


class HSMAccount(KeylessAccount):
    """
    Signs transactions, messages and typed data with one ``Signer``.

    *actor* is the name of the account's user in audit records, *policy* decides what is
    signed, and *networks* are those of a networks file, whose tokens and limits the
    policy then knows.  *ledger* is the one that *signer* writes to, if it has one.

    It is thread-safe.  It cannot be pickled: open it in each process, after the fork.

    Every method raises ``InvalidInputError`` for malformed input,
    ``PolicyViolationError`` if the policy refuses, ``SigningError`` if the device did
    not sign, and if *signer* writes to a ledger, ``KeyUnusableError`` if its ring does
    not let the key sign, and ``StoreError`` if it does not answer.
    """

    def __init__(
        self,
        signer: Signer,
        actor: str = "account",
        *,
        policy: Policy | None = None,
        networks: Mapping[str, Network] = NO_NETWORKS,
        ledger: Ledger | None = None,
        clock: Clock = utc_now,
    ) -> None:
        super().__init__()
        self._signer = signer
        self._requester = Requester(Caller(Path.ACCOUNT, subject=actor), Actor(actor))
        self._ledger = ledger
        self._actor = actor
        self._policy = policy or account_policy()
        self._networks = dict(networks)
        self._service = SigningService(
            lambda: signer,
            self._policy,
            networks,
            clock,
            known=KnownAddresses(is_service_wallet=partial(_is_service_wallet, ledger)),
        )

    @classmethod
    def open(
        cls,
        backend: KeyBackend,
        key_id: str,
        *,
        expected_address: str | None = None,
        actor: str = "account",
        ledger: Ledger | None = None,
        policy: Policy | None = None,
        networks: Mapping[str, Network] = NO_NETWORKS,
    ) -> Self:
        """
        Return the account of *key_id*, with its public key fetched and pinned.

        It needs no ledger and no networks file.  Audit events go to the log
        (``AccountEvents``), and to *ledger* if there is one; the key must then be in
        its ring.  It raises as ``Signer.open``.
        """
        audit = AuditLog(AccountEvents(), journal=ledger)
        key = KeyId(key_id)
        signer = Signer.open(backend, key, audit, expected_address=expected_address)
        return cls(signer, actor, policy=policy, networks=networks, ledger=ledger)

    @property
    def address(self) -> ChecksumAddress:
        return cast("ChecksumAddress", self._signer.address)

    def __repr__(self) -> str:
        return f"HSMAccount({self.address!r})"

    def __eq__(self, other: object) -> bool:
        """
        Return whether *other* signs the same, with the same key.

        web3.py keeps the middleware that it has if the new one has an equal account, so
        accounts with different policies must not be equal.
        """
        return (
            type(self) is type(other)
            and isinstance(other, HSMAccount)
            and self._identity() == other._identity()
            and self._ledger is other._ledger
        )

    def __hash__(self) -> int:
        return super().__hash__()

    def _identity(self) -> tuple[object, ...]:
        return self.address, self._policy.hash, self._actor, self._networks

    def unsafe_sign_hash(self, message_hash: Hash32) -> SignedMessage:
        """
        Sign the 32 bytes of *message_hash* as they are.

        The hash may be that of any transaction, so the default policy refuses it.
        Prefer ``sign_message``, which cannot sign a transaction.
        """
        digest = bytes(HexBytes(message_hash))
        with _ring_errors():
            return _message(self._service.sign_digest(digest, self._requester))

    def sign_message(self, signable_message: SignableMessage) -> SignedMessage:
        """
        Sign an EIP-191 message; v is 27 or 28.

        Of typed data, such a message has only the hashes, and the default policy
        refuses it.  ``sign_typed_data`` shows the whole document to the policy.
        """
        with _ring_errors():
            return _message(
                self._service.sign_message(signable_message, self._requester)
            )

    def sign_typed_data(
        self,
        domain_data: dict[str, Any] | None = None,
        message_types: dict[str, Any] | None = None,
        message_data: dict[str, Any] | None = None,
        full_message: dict[str, Any] | None = None,
    ) -> SignedMessage:
        """Sign EIP-712 data, whole or in parts; see ``TypedData``."""
        parts = (domain_data, message_types, message_data)
        if full_message is None:
            document = TypedData.of(*parts)
        elif parts == (None, None, None):
            document = TypedData.parse(full_message)
        else:
            raise InvalidInputError(
                "give full_message or the three parts, not both", field="full_message"
            )
        with _ring_errors():
            return _message(self._service.sign_typed_data(document, self._requester))

    def sign_authorization(  # type: ignore[override]  # It returns the same.
        self, authorization: Mapping[str, Any]
    ) -> SignedSetCodeAuthorization:
        """
        Sign an authorisation (EIP-7702), which the default policy refuses.

        The code of its ``address`` gets everything that the account has, on the chain
        ``chainId``, or on all chains if that is 0.
        """
        with _rejecting("not an authorisation: chainId, address and nonce"):
            chain_id, nonce = int(authorization["chainId"]), int(authorization["nonce"])
            delegate = to_canonical_address(authorization["address"])
            digest = bytes(Authorization(chain_id, delegate, nonce).hash())
        address = to_checksum_address(delegate)
        with _ring_errors():
            signature = self._service.sign_authorization(
                chain_id, address, digest, self._requester
            )
        parts = (signature.y_parity, signature.r, signature.s)
        return SignedSetCodeAuthorization(
            chain_id=chain_id,
            address=delegate,
            nonce=nonce,
            y_parity=signature.y_parity,
            r=signature.r,
            s=signature.s,
            signature=EthSignature(vrs=parts),
            authorization_hash=HexBytes(digest),
        )

    def sign_transaction(
        self, transaction_dict: TransactionDictType, blobs: Blobs | None = None
    ) -> SignedTransaction:
        """
        Sign a transaction; the default policy signs types 0 to 2.

        The fields are those of eth-account, or of JSON-RPC.  A blob transaction has the
        hashes of its blobs in the field ``blobVersionedHashes``; *blobs*, which
        eth-account would add to the raw transaction, are refused.
        """
        if blobs is not None:
            raise InvalidInputError(
                "blobs cannot be given: give blobVersionedHashes, and add the sidecar"
                " (EIP-4844) to the signed transaction",
                field="blobs",
            )
        fields = _plain(transaction_dict)
        sender = parse_sender(fields)
        _check_chain(fields)
        _check_recipient(fields.get("to"))
        transaction = parse_transaction(fields)
        with _ring_errors():
            signed = self._service.sign_transaction(
                transaction, self._requester, sender
            )
        return SignedTransaction(
            raw_transaction=HexBytes(signed.raw),
            hash=HexBytes(signed.tx_hash),
            r=signed.signature.r,
            s=signed.signature.s,
            v=signed.v,
        )


def _plain(transaction: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields, with what ``sign_authorization`` returned as JSON-RPC's."""
    fields = dict(transaction)
    given = fields.get("authorizationList")
    if isinstance(given, list | tuple):
        fields["authorizationList"] = [
            each.model_dump(by_alias=True)
            if isinstance(each, SignedSetCodeAuthorization)
            else each
            for each in given
        ]
    return fields


def _message(signed: MessageSignature) -> SignedMessage:
    return SignedMessage(
        message_hash=HexBytes(signed.digest),
        r=signed.signature.r,
        s=signed.signature.s,
        v=signed.v,
        signature=HexBytes(signed.to_bytes()),
    )


def _is_service_wallet(ledger: Ledger | None, address: str, chain_id: int) -> bool:
    return ledger is not None and is_service_wallet(ledger, address, chain_id)


@contextmanager
def _ring_errors() -> Iterator[None]:
    """Raise ``KeyUnusableError`` if the ring does not let the key sign."""
    try:
        yield
    except KeyRotatedError:
        raise KeyUnusableError(_NOT_IN_RING) from None


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


class AccountEvents:
    """
    Writes to structlog's logger ``audit`` if the program configured structlog.

    Otherwise each event is a line of JSON for the logger ``hotwallet.audit`` of the
    standard library, at ``INFO``.  A library must not print to standard output, as an
    unconfigured structlog does: a program may write its result there.
    """

    def info(self, event: str, **fields: Any) -> None:
        structlog = sys.modules.get("structlog")
        if structlog is not None and structlog.is_configured():
            structlog.get_logger("audit").info(event, **fields)
        else:
            line = json.dumps({"event": event, **fields}, sort_keys=True)
            logging.getLogger("hotwallet.audit").info("%s", line)
