"""
Builds, checks and signs the attempts of transactions.

A transaction may have several, all with its one nonce: the transfer, replacements of it
with higher fees, and a no-op in its place if it must never be made.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from signer.amounts import format_units
from signer.audit.log import AuditLog
from signer.config.networks import TOKEN_FEES, Network
from signer.crypto.transactions import (
    TOKEN_FEE_CLASSES,
    AnyTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SignedBytes,
)
from signer.errors import RecoveryError
from signer.keys.keyring import KeyRing
from signer.keys.signer import Signed, Signer
from signer.model.audit_record import WORKER, Operation, Purpose, Record
from signer.model.decision import Decision
from signer.model.payment import PaymentPurpose
from signer.model.refund import RECORDED, Refund
from signer.model.sealed_fields import changed
from signer.model.transaction import (
    Kind,
    SignedTransaction,
    Transaction,
    TransactionKind,
)
from signer.policy.policy import Approve
from signer.ports.clock import Clock
from signer.ports.refund_store import Permit, Reservation
from signer.refunds.payload import Payload, payload_of
from signer.refunds.payment_checks import (
    check_batch,
    check_call,
    check_coin,
    check_noop,
    check_transfer,
)
from signer.refunds.payment_policy import ApprovePayment, PaymentPolicy
from signer.refunds.sweep_policy import Objection, find_ring_objection


@dataclass(frozen=True, slots=True)
class SignedAttempt:
    """
    A signed attempt, and the audit record of its signature.

    The caller commits both together.  If that fails, it writes the record alone: every
    signature is accounted for, also one that is not used.
    """

    attempt: SignedTransaction
    outcome: Record
    audit: AuditLog = field(repr=False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    Kind, gas limit and fees of what is signed; fees are in wei per gas.

    ``number`` counts the attempts of one nonce from 0.  A legacy transaction has one
    gas price, which is both of its fees.
    """

    kind: Kind
    number: int
    gas: int
    max_fee: int
    priority_fee: int
    is_legacy: bool


def describe_payment(refund: Refund) -> dict[str, Any]:
    """Return what *refund* pays, for audit records; the amount is in whole tokens."""
    described = {
        **({} if refund.bound_sender else {"tenant": refund.tenant}),
        "chain_id": refund.chain_id,
        "token_symbol": refund.token,
        "token_address": refund.token_address,
        "recipient": refund.recipient,
        "amount": format_units(refund.amount, refund.decimals),
    }
    if refund.calldata is not None:
        described["calldata"] = f"0x{refund.calldata.hex()}"
    return described


def describe_refund(refund: Refund) -> dict[str, Any]:
    """Return what an audit record of *refund* itself has."""
    paid = describe_payment(refund)
    return {"refund_id": refund.id, "network": refund.network, **paid}


def describe_acceptance(refund: Refund) -> dict[str, Any]:
    """
    Return what the audit record of a new *refund* has.

    It is enough to create the row again, except for the ``reason``: free text does not
    belong in a log.
    """
    return {
        **describe_refund(refund),
        "decimals": refund.decimals,
        "idempotency_key": refund.idempotency_key,
        "fingerprint": refund.fingerprint,
        **{own: getattr(refund, name) for name, own in RECORDED.items()},
        "created_at": refund.created_at.isoformat(timespec="microseconds"),
        **({"bound_sender": refund.bound_sender} if refund.bound_sender else {}),
    }


def build_purpose(
    refund: Refund, decision: Decision | None = None, **details: str | int
) -> Purpose:
    """Return the audit's purpose of a signature that pays *refund* alone."""
    is_sweep = refund.purpose is PaymentPurpose.SWEEP
    operation = Operation.KEY_SWEEP if is_sweep else Operation.TRANSACTION_SIGNING
    return Purpose(
        operation,
        network=refund.network,
        actor=WORKER.name,
        refund_id=refund.id,
        details={**describe_payment(refund), **details},
        decision=decision,
    )


def describe_batch(batch: Transaction) -> dict[str, Any]:
    """
    Return what an audit record of *batch* has: its payments, and their digest.

    ``composition`` is ``compose`` of ``payments``, so one record of a payment and this
    list prove that the signature was for it.
    """
    return {
        "vault": batch.vault,
        "composition": batch.composition,
        "payments": list(batch.payment_ids),
    }


def purpose_of(
    transaction: Transaction, decision: Decision | None = None, **details: str | int
) -> Purpose:
    """
    Return the audit's purpose of a signature for *transaction*.

    At the reservation there is no *decision* yet.
    """
    details["nonce"] = transaction.nonce
    if transaction.kind is TransactionKind.FILLER:
        operation, paid = Operation.NONCE_FILL, {}
    elif transaction.kind is TransactionKind.BATCH:
        operation, paid = Operation.TRANSACTION_SIGNING, describe_batch(transaction)
    else:
        return build_purpose(transaction.payment, decision, **details)
    return Purpose(
        operation,
        network=transaction.network,
        actor=WORKER.name,
        details={"chain_id": transaction.chain_id, **paid, **details},
        decision=decision,
    )


@dataclass(eq=False, repr=False)
class TransactionSigner:
    """
    Signs transactions that *policy* permits, with the key that their nonce belongs to.

    *concurrency* returns how many threads should sign at once.
    """

    ring: KeyRing
    clock: Clock
    policy: PaymentPolicy
    concurrency: Callable[[], int] = lambda: 1

    @property
    def policy_hash(self) -> str:
        """The start of the policy's hash."""
        return self.policy.policy.short_hash

    def require_permitted(
        self,
        reservation: Reservation,
        sender: str,
        max_fee: int,
        network: Network,
        approve: Approve,
    ) -> Permit | None:
        """
        Ask the policy about a refund before it gets a nonce.

        A refund that only the signature refused would keep its nonce, and all later
        ones would wait.  What was accepted may be refused now: a rotation can make its
        recipient one of the service's keys.

        Return what decides again in the transaction that reserves the nonce; None if
        no rule reads what was paid before.

        Raises:
            PolicyViolationError: Its transfer would be refused now.
            ApprovalRequiredError: *approve* raised it.
        """
        gas = reservation.gas_limit
        attempt = Attempt(Kind.TRANSFER, 0, gas, max_fee, 0, is_legacy=False)
        expected = expect(reservation.refund, sender, gas)
        built = build_transaction(expected, attempt, network)
        # Without a nonce it has no digest yet, and no rule reads one.
        permit = self.policy.require_within_totals(
            built, b"", expected, network, approve
        )
        # As at the signature, which is decided about without the totals.
        self.policy.require(
            built,
            b"",
            expected,
            Kind.TRANSFER,
            network,
            approve=lambda _, need: approve(need),
        )
        return permit

    def find_sweep_objection(self, refund: Refund) -> Objection | None:
        """Return why the current key ring forbids a sweep; None for other refunds."""
        if refund.purpose is not PaymentPurpose.SWEEP:
            return None  # Its recipient is not one of our keys: do not read the ring.
        return find_ring_objection(refund, self.ring.refresh())

    def find_ring_objection(self, transaction: Transaction) -> Objection | None:
        """Return why the current key ring forbids a sweep in *transaction*, or None."""
        found = (self.find_sweep_objection(each) for each in transaction.payments)
        return next(filter(None, found), None)

    def build_and_sign(
        self,
        transaction: Transaction,
        attempt: Attempt,
        network: Network,
        *,
        approve: ApprovePayment | None = None,
        has_intent: Callable[[Transaction], bool] = lambda _: False,
    ) -> SignedAttempt:
        """
        Return the signed bytes of *attempt*, with the nonce of *transaction*.

        *approve* raises an error unless people approved what the policy demands.
        *has_intent* returns whether the intent of the reservation is still valid.

        Raises:
            ApprovalRequiredError: *approve* raised it.
            KeyUnusableError, KeyRotatedError, SigningStoppedError: As
                ``KeyRing.announce``.
            PolicyViolationError: It is not what the refund requests, or the policy
                refuses it.
            SigningError: The device did not sign, or signed something else; or the
                signed bytes are not the transaction that was checked.
        """
        built = build_transaction(transaction, attempt, network)
        _check(built, transaction, attempt, network)
        digest = built.signing_digest()
        decision = self.policy.require(
            built, digest, transaction, attempt.kind, network, approve=approve
        )
        purpose = purpose_of(
            transaction, decision, attempt=attempt.number, kind=str(attempt.kind)
        )
        if not has_intent(transaction):
            transaction = changed(transaction, intent=None)
        signer = self._open_signer(transaction, attempt.kind, digest, purpose)
        made = signer.sign(digest, purpose)
        try:
            signed = _combine(built, digest, made)
        except Exception:
            made.audit.write(made.outcome())
            raise
        row = self._build_row(transaction, attempt, signed)
        return SignedAttempt(row, made.outcome(tx_hash=row.tx_hash), made.audit)

    def _open_signer(
        self, transaction: Transaction, kind: Kind, digest: bytes, purpose: Purpose
    ) -> Signer:
        """Return the signer; its audit record of the intent to sign is durable."""
        sender = transaction.sender
        if transaction.intent is None:
            paid = () if kind is Kind.NOOP else transaction.payments
            return self.ring.announce(
                sender,
                digest,
                purpose,
                chain_id=transaction.chain_id,
                named="" if kind is Kind.NOOP else transaction.named,
                pays=self._find_paid_key(paid),
            )
        # The reservation recorded the intent of this key, which was active then.
        known = self.ring.cached_signer(sender, transaction.key_id)
        return known or self.ring.signer(sender)

    def _find_paid_key(self, paid: Iterable[Refund]) -> str | None:
        """Return the address that must be the active key's, for a sweep."""
        swept = (p.recipient for p in paid if p.purpose is PaymentPurpose.SWEEP)
        return next(swept, None)

    def _build_row(
        self, transaction: Transaction, attempt: Attempt, signed: SignedBytes
    ) -> SignedTransaction:
        built = signed.transaction
        return SignedTransaction(
            tx_hash=signed.tx_hash,
            attempt=attempt.number,
            kind=attempt.kind,
            chain_id=built.chain_id,
            sender=transaction.sender,
            nonce=built.nonce,
            max_fee_per_gas=built.max_fee_per_gas,
            max_priority_fee_per_gas=built.max_priority_fee_per_gas,
            gas_limit=built.gas,
            raw=signed.raw,
            signed_at=self.clock(),
        )


def expect(refund: Refund, sender: str, gas: int) -> Transaction:
    """Return what would pay *refund* with a nonce of *sender*, before it has one."""
    at = refund.created_at
    expected = Transaction.draft(
        [refund], at, sender=sender, nonce=refund.nonce or 0, key_id="", gas_limit=gas
    )
    return refund.inside(expected).reserved()


def build_transaction(
    transaction: Transaction, attempt: Attempt, network: Network
) -> AnyTransaction:
    """Return what *attempt* of *transaction* signs."""
    sender, nonce = transaction.sender, transaction.nonce
    is_noop = attempt.kind is Kind.NOOP
    payload = Payload(sender, 0, b"") if is_noop else payload_of(transaction)
    if attempt.is_legacy:
        return LegacyTransaction(
            chain_id=transaction.chain_id,
            nonce=nonce,
            gas_price=attempt.max_fee,
            gas=attempt.gas,
            to=payload.to,
            value=payload.value,
            data=payload.data,
        )
    fields: dict[str, Any] = {
        "chain_id": transaction.chain_id,
        "nonce": nonce,
        "max_priority_fee_per_gas": attempt.priority_fee,
        "max_fee_per_gas": attempt.max_fee,
        "gas": attempt.gas,
        "to": payload.to,
        "value": payload.value,
        "data": payload.data,
    }
    if network.fee_token is not None:
        form = TOKEN_FEE_CLASSES[TOKEN_FEES[network.fees]]
        return form(**fields, fee_token=network.fee_token.address)
    return DynamicFeeTransaction(**fields)


def _combine(transaction: AnyTransaction, digest: bytes, made: Signed) -> SignedBytes:
    """
    Return the signed bytes of *transaction*, whose digest is *digest*.

    They contain the transaction that was checked and the signature that was verified
    over its digest.  So neither is checked a second time.
    """
    if made.digest != digest:
        raise RecoveryError("the signature is not over the transaction")
    return SignedBytes.of(transaction, made.signature)


def _check(
    built: AnyTransaction, transaction: Transaction, attempt: Attempt, network: Network
) -> None:
    if attempt.kind is Kind.NOOP:
        check_noop(built, transaction, network)
        return
    if transaction.kind is TransactionKind.BATCH:
        check_batch(built, transaction, network, gas=attempt.gas)
        return
    payment = transaction.payment
    if transaction.kind is TransactionKind.CALL:
        check_call(built, payment, network, gas=attempt.gas)
    elif transaction.kind is TransactionKind.COIN:
        check_coin(built, payment, network)
    else:
        check_transfer(built, payment, network, gas=attempt.gas)
