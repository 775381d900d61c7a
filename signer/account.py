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
and permits of tokens, orders, hashes without a meaning, contract creation, blobs
(EIP-4844), authorisations that delegate the account to a contract (EIP-7702), and gas
above 2**24.  ``policy=account_policy("...")`` permits more, or less.  No policy permits
a transaction without a chain id, which would be valid on every chain (EIP-155).

Open it with a ledger to sign with a key of a service's ring.  Then each signature needs
that the ring lets the key sign when the intent becomes durable, which one transaction
checks: after a revocation on any host, the account signs nothing.  Without a ledger the
account knows no ring, and only the device can refuse.

With a ledger it also refuses transactions from an address from which the service pays
(rule ``service-wallet``), because the service pauses a wallet when it finds a nonce
that it did not reserve.  Send through the service instead.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Self, cast

import structlog
from eth_account.datastructures import (
    SignedMessage,
    SignedSetCodeAuthorization,
    SignedTransaction,
)
from eth_account.messages import SignableMessage
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
from signer.clear_signing.typed_data_kinds import recognise
from signer.config.networks import Network
from signer.crypto.messages import message_digest
from signer.crypto.secp256k1 import Signature, checked_digest
from signer.crypto.transaction_json import parse_sender, parse_transaction
from signer.crypto.transactions import SignedBytes
from signer.crypto.typed_data import TypedData
from signer.errors import (
    InvalidInputError,
    KeyRotatedError,
    KeyUnusableError,
    PolicyViolationError,
)
from signer.keyless_account import KeylessAccount
from signer.keys.service_wallet import is_service_wallet
from signer.keys.signer import Signer
from signer.model.audit_record import Operation, Purpose
from signer.model.key import SIGNING
from signer.policy.account_policy import account_policy
from signer.policy.facts import AnyFacts, Caller, Path
from signer.policy.message_facts import (
    authorization_facts,
    digest_facts,
    message_facts,
    typed_data_facts,
)
from signer.policy.policy import Policy
from signer.policy.surroundings import KnownNetwork, Surroundings
from signer.policy.transaction_facts import transaction_facts
from signer.ports import Clock, KeyBackend, KeyId, utc_now
from signer.ports.account_ledger import AccountLedger


NO_NETWORKS: Mapping[str, Network] = MappingProxyType({})

_NOT_IN_RING = (
    "the ledger's key ring does not let this key sign: it was revoked, it failed over"
    " to a replica, or it never was in the ring; `hotwallet keys list` shows its state,"
    " and an account must be opened again after a failover"
)


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
        ledger: AccountLedger | None = None,
        clock: Clock = utc_now,
    ) -> None:
        super().__init__()
        self._signer = signer
        self._ledger = ledger
        self._actor = actor
        self._policy = policy or account_policy()
        self._clock = clock
        self._networks = {
            network.chain_id: KnownNetwork.of(name, network)
            for name, network in networks.items()
        }

    @classmethod
    def open(
        cls,
        backend: KeyBackend,
        key_id: str,
        *,
        expected_address: str | None = None,
        actor: str = "account",
        ledger: AccountLedger | None = None,
        policy: Policy | None = None,
        networks: Mapping[str, Network] = NO_NETWORKS,
    ) -> Self:
        """
        Return the account of *key_id*, with its public key fetched and pinned.

        It needs no ledger and no networks file.  Audit events go to structlog's
        logger ``audit``, and to *ledger* if there is one; the key must then be in its
        ring.  It raises as ``Signer.open``.
        """
        audit = AuditLog(structlog.get_logger("audit"), journal=ledger)
        key = KeyId(key_id)
        signer = Signer.open(backend, key, audit, expected_address=expected_address)
        return cls(signer, actor, policy=policy, networks=networks, ledger=ledger)

    @property
    def address(self) -> ChecksumAddress:
        """The EIP-55 address."""
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
        digest = checked_digest(bytes(HexBytes(message_hash)))
        return self._sign_message(digest_facts(digest, self._surroundings()))

    def _sign_message(self, facts: AnyFacts) -> SignedMessage:
        digest = facts.digest
        signature = self._sign(facts, Operation.MESSAGE_SIGNING)
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

        Of typed data, such a message has only the hashes, and the default policy
        refuses it.  ``sign_typed_data`` shows the whole document to the policy.
        """
        digest = message_digest(signable_message)
        return self._sign_message(
            message_facts(signable_message, digest, self._surroundings())
        )

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
        return self._sign_message(
            typed_data_facts(
                document,
                recognise(document),
                document.digest(),
                self._surroundings(document.chain_id),
            )
        )

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
        around = self._sending(self._surroundings(), chain_id)
        facts = authorization_facts(chain_id, address, digest, around)
        signature = self._sign(facts, Operation.TRANSACTION_SIGNING)
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
        fields: Mapping[str, Any] = dict(transaction_dict)
        self._check_sender(fields)
        _check_chain(fields)
        _check_recipient(fields.get("to"))
        transaction = parse_transaction(fields)
        facts = transaction_facts(
            transaction,
            transaction.signing_digest(),
            self._sending(
                self._surroundings(transaction.chain_id), transaction.chain_id
            ),
        )
        signature = self._sign(
            facts, Operation.TRANSACTION_SIGNING, transaction.chain_id
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

    def _surroundings(self, chain_id: int | None = None) -> Surroundings:
        return Surroundings(
            Caller(Path.ACCOUNT, subject=self._actor),
            self.address,
            self._clock(),
            None if chain_id is None else self._networks.get(chain_id),
        )

    def _sending(self, surroundings: Surroundings, chain_id: int) -> Surroundings:
        """Return *surroundings* of what uses a nonce of the account."""
        if self._ledger is None:
            return surroundings
        is_used = is_service_wallet(self._ledger, self.address, chain_id)
        return replace(surroundings, is_service_wallet=is_used)

    def _sign(
        self, facts: AnyFacts, operation: Operation, chain_id: int | None = None
    ) -> Signature:
        decision, digest = self._policy.require(facts), facts.digest
        purpose = Purpose(operation, actor=self._actor, decision=decision)
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
