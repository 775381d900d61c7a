"""What is signed: a digest, and a whole transaction of a refund, with one signer."""

import dataclasses
import os
from io import StringIO
from typing import Any, cast

from eth_account import Account

from api.logs import audit_logger
from bench.timing import Action
from signer.audit.log import AuditLog
from signer.chain.erc20 import encode_transfer
from signer.config.networks import Network
from signer.config.tenants import TenantRegistry
from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions import AnyTransaction
from signer.keys.keyring import KeyRing
from signer.keys.signer import Signer
from signer.model.audit_record import Operation, Purpose, Record
from signer.model.decision import Decision, Verdict
from signer.model.key import Key
from signer.model.refund import RefundRequest
from signer.model.transaction import Kind, Transaction
from signer.policy.default_rules import service_files
from signer.policy.policy import Policy
from signer.ports.clock import utc_now
from signer.ports.key_backend import KeyBackend, KeyId
from signer.refunds.payment_checks import admit
from signer.refunds.payment_policy import PaymentPolicy
from signer.refunds.transaction_signer import Attempt, TransactionSigner


CHAIN_ID = 31337
TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
RECIPIENT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
GAS = 80_000
MAX_FEE = 10**11
PRIORITY_FEE = 10**9
AMOUNT = 10_000

PURPOSE = Purpose(Operation.TRANSACTION_SIGNING, network="bench", actor="bench")
NETWORK = Network.model_validate(
    {
        "chain_id": CHAIN_ID,
        "rpc_urls": ["http://127.0.0.1:9"],
        "confirmations": 2,
        "tokens": {"TUSD": {"address": TOKEN, "decimals": 6, "max_amount": "1000"}},
    }
)
_REQUEST = RefundRequest(
    payment_session_id="bench",
    reference="bench",
    network="bench",
    token="TUSD",
    recipient=RECIPIENT,
    amount="0.01",
)
_QUEUED = admit(
    _REQUEST,
    refund_id="rf_" + "0" * 32,
    tenant="bench",
    idempotency_key="bench",
    networks={"bench": NETWORK},
    wallets=[],
    now=utc_now(),
)
_ATTEMPT = Attempt(Kind.TRANSFER, 0, GAS, MAX_FEE, PRIORITY_FEE, is_legacy=False)


class OpenKey:
    """
    One key of *backend*, as the worker uses it.

    ``sign_transaction`` runs ``TransactionSigner.build_and_sign``.  Audit records are
    written as in production, but to memory.
    """

    def __init__(self, backend: KeyBackend, key_id: KeyId) -> None:
        self.backend = backend
        self.signer = Signer.open(backend, key_id, audit_log())
        ring = cast("KeyRing", _PinnedRing(self.signer))
        tenants = TenantRegistry()
        policy = Policy.compile(service_files({"bench": NETWORK}, tenants))
        self._policy = PaymentPolicy(policy, ring, utc_now, tenants)
        self._transactions = TransactionSigner(ring, utc_now, self._policy)
        self.paid = _reserved(self.signer)

    def sign_digest(self) -> Signature:
        """Sign a random digest."""
        digest = os.urandom(32)
        decision = Decision(Verdict.ALLOW, ("bench",), "", digest)
        purpose = dataclasses.replace(PURPOSE, decision=decision)
        return self.signer.sign_digest(digest, purpose)

    def decide(self, transaction: AnyTransaction, digest: bytes) -> Decision:
        """Return the policy's decision about *transaction* of the refund."""
        paid = self.paid
        return self._policy.require(transaction, digest, paid, Kind.TRANSFER, NETWORK)

    def sign_transaction(self) -> bytes:
        """Build and sign the transfer of a refund; return its bytes."""
        signed = self._transactions.build_and_sign(
            self.paid, _ATTEMPT, NETWORK, has_intent=lambda _: True
        )
        return signed.attempt.raw


def eth_account_signer() -> Action:
    """Return what signs the same transfer with eth-account and a key in memory."""
    account = Account.create()
    transaction: dict[str, Any] = {
        "type": 2,
        "chainId": CHAIN_ID,
        "nonce": 7,
        "maxPriorityFeePerGas": PRIORITY_FEE,
        "maxFeePerGas": MAX_FEE,
        "gas": GAS,
        "to": TOKEN,
        "value": 0,
        "data": encode_transfer(RECIPIENT, AMOUNT),
    }
    return lambda: account.sign_transaction(transaction).raw_transaction


def mark_of(tenant: str, reference: str) -> bytes:
    """Return the memo by which the transaction of a refund is known on the chain."""
    return dataclasses.replace(_QUEUED, tenant=tenant, reference=reference).memo


class _PinnedRing:
    """A key ring that has one key, which is active."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def cached_signer(self, address: str, key_id: str) -> Signer:
        return self._signer

    def signer(self, address: str) -> Signer:
        return self._signer

    def cached_keys(self) -> tuple[Key, ...]:
        return ()


def _reserved(signer: Signer) -> Transaction:
    transaction = Transaction.draft(
        [_QUEUED],
        _QUEUED.created_at,
        sender=signer.address,
        nonce=7,
        key_id=str(signer.key_id),
        gas_limit=GAS,
    )
    reserved = _QUEUED.assigned(transaction).reserved()
    return dataclasses.replace(reserved, intent=Record("", ""))


def audit_log() -> AuditLog:
    """Return the audit log of production, which writes its lines to memory."""
    return AuditLog(audit_logger(StringIO()))
