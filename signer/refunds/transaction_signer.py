"""
Builds, checks and signs the transactions of one refund.

A refund may have several, all with its one nonce: the transfer, replacements of it with
higher fees, and a no-op in its place if it can never be paid.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from signer.amounts import format_units
from signer.audit.log import AuditLog
from signer.config.networks import Network
from signer.crypto.transactions import (
    AnyTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SignedBytes,
)
from signer.errors import RecoveryError
from signer.keys.keyring import KeyRing
from signer.keys.signer import Signed, Signer
from signer.model.audit_record import (
    WORKER,
    Operation,
    Purpose,
    Record,
)
from signer.model.decision import Decision
from signer.model.refund import RECORDED, PaymentPurpose, Refund
from signer.model.transaction import Kind, SignedTransaction, TransactionKind
from signer.policy.policy import Approve
from signer.ports.clock import Clock
from signer.ports.refund_store import Permit, Reservation
from signer.refunds.payload import Payload, payload_of
from signer.refunds.payment_checks import (
    check_call,
    check_coin,
    check_noop,
    check_transfer,
)
from signer.refunds.payment_policy import PaymentPolicy
from signer.refunds.saved_steps import is_just_committed
from signer.refunds.sweep_policy import Objection, find_ring_objection


@dataclass(frozen=True, slots=True)
class SignedPayment:
    """
    A signed transaction, and the audit record of its signature.

    The caller commits both together.  If that fails, it writes the record alone: every
    signature is accounted for, also one that is not used.
    """

    transaction: SignedTransaction
    outcome: Record
    audit: AuditLog = field(repr=False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    Kind, gas limit and fees of one transaction; fees are in wei per gas.

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
    """
    Return the audit's purpose of a signature, which the policy decided about.

    A reservation has no *decision* yet: there is no transaction.
    """
    operation = Operation.TRANSACTION_SIGNING
    if refund.bound_sender is not None:
        is_filler = refund.purpose is PaymentPurpose.FILLER
        operation = Operation.NONCE_FILL if is_filler else Operation.KEY_SWEEP
    return Purpose(
        operation,
        network=refund.network,
        actor=WORKER.name,
        refund_id=refund.id,
        details={**describe_payment(refund), **details},
        decision=decision,
    )


class TransactionSigner:
    """Signs transactions with the key that the refund's nonce belongs to."""

    def __init__(
        self,
        ring: KeyRing,
        clock: Clock,
        policy: PaymentPolicy,
        concurrency: Callable[[], int] = lambda: 1,
    ) -> None:
        """
        Sign what *policy* permits.

        *concurrency* returns how many threads should sign at once.
        """
        self._ring = ring
        self._clock = clock
        self.policy = policy
        self.concurrency = concurrency

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
        ones would wait.  The rules of this project allow what the configuration does,
        which was checked: only those of an operator, and a deny list, refuse more.  Of
        calls they allow none.

        Return what decides again in the transaction that reserves the nonce; None if
        no rule reads what was paid before.

        Raises:
            PolicyViolationError: Its transfer would be refused now.
            ApprovalRequiredError: *approve* raised it.
        """
        is_call = reservation.refund.purpose is PaymentPurpose.CALL
        if not (self.policy.is_extended or is_call):
            return None
        gas = reservation.gas_limit
        attempt = Attempt(Kind.TRANSFER, 0, gas, max_fee, 0, is_legacy=False)
        expected = expect(reservation.refund, sender, gas)
        transaction = build_transaction(expected, attempt)
        digest = transaction.signing_digest()
        permit = self.policy.require_within_totals(
            transaction, digest, expected, network, approve
        )
        # As at the signature, which is decided about without the totals.
        self.policy.require(
            transaction, digest, expected, Kind.TRANSFER, network, approve=approve
        )
        return permit

    def find_sweep_objection(self, refund: Refund) -> Objection | None:
        """Return why the current key ring forbids a sweep; None for other refunds."""
        if refund.purpose is not PaymentPurpose.SWEEP:
            return None  # Its recipient is not one of our keys: do not read the ring.
        return find_ring_objection(refund, self._ring.refresh())

    def build_and_sign(
        self,
        refund: Refund,
        attempt: Attempt,
        network: Network,
        *,
        approve: Approve | None = None,
    ) -> SignedPayment:
        """
        Return the signed transaction of *attempt*, with the nonce of *refund*.

        *approve* raises an error unless people approved what the policy demands.

        Raises:
            ApprovalRequiredError: *approve* raised it.
            KeyUnusableError, KeyRotatedError, SigningStoppedError: As
                ``KeyRing.announce``.
            PolicyViolationError: The transaction is not what the refund requests, or
                the policy refuses it.
            SigningError: The device did not sign, or signed something else; or the
                signed bytes are not the transaction that was checked.
        """
        reserved = refund.reserved()
        transaction = build_transaction(refund, attempt)
        _check(transaction, refund, attempt, network)
        digest = transaction.signing_digest()
        decision = self.policy.require(
            transaction, digest, refund, attempt.kind, network, approve=approve
        )
        purpose = build_purpose(
            refund,
            decision,
            nonce=reserved.nonce,
            attempt=attempt.number,
            kind=str(attempt.kind),
        )
        signer = self._open_signer(refund, attempt.kind, digest, purpose)
        made = signer.sign(digest, purpose)
        try:
            signed = _combine(transaction, digest, made)
        except Exception:
            made.audit.write(made.outcome())
            raise
        row = self._build_row(refund, attempt, signed)
        return SignedPayment(row, made.outcome(tx_hash=row.tx_hash), made.audit)

    def _open_signer(
        self, refund: Refund, kind: Kind, digest: bytes, purpose: Purpose
    ) -> Signer:
        """Return the signer; its audit record of the intent to sign is durable."""
        reserved = refund.reserved()
        is_valid = is_just_committed(refund, self._clock())
        if refund.intent is None or not is_valid:
            return self._ring.announce(
                reserved.sender,
                digest,
                purpose,
                chain_id=refund.chain_id,
                named="" if kind is Kind.NOOP else refund.named,
                pays=self._find_paid_key(refund, kind),
            )
        # The reservation recorded the intent of this key, which was active then.
        known = self._ring.cached_signer(reserved.sender, reserved.key_id)
        return known or self._ring.signer(reserved.sender)

    def _find_paid_key(self, refund: Refund, kind: Kind) -> str | None:
        """Return the address that must be the active key's, for a sweep."""
        pays_own_key = refund.purpose is PaymentPurpose.SWEEP and kind is Kind.TRANSFER
        return refund.recipient if pays_own_key else None

    def _build_row(
        self, refund: Refund, attempt: Attempt, signed: SignedBytes
    ) -> SignedTransaction:
        transaction = signed.transaction
        return SignedTransaction(
            tx_hash=signed.tx_hash,
            attempt=attempt.number,
            kind=attempt.kind,
            chain_id=transaction.chain_id,
            sender=refund.reserved().sender,
            nonce=transaction.nonce,
            max_fee_per_gas=transaction.max_fee_per_gas,
            max_priority_fee_per_gas=transaction.max_priority_fee_per_gas,
            gas_limit=transaction.gas,
            raw=signed.raw,
            signed_at=self._clock(),
        )


def expect(refund: Refund, sender: str, gas: int) -> Refund:
    """Return *refund* as it would be with a nonce of *sender*, before it has one."""
    at = refund.created_at
    expected = refund.draft_transaction(
        at, sender=sender, nonce=refund.nonce or 0, key_id="", gas_limit=gas
    )
    return refund.inside(expected)


def build_transaction(refund: Refund, attempt: Attempt) -> AnyTransaction:
    """Return the unsigned transaction of *attempt*, with the nonce of *refund*."""
    reserved = refund.reserved()
    sender, nonce = reserved.sender, reserved.nonce
    is_noop = attempt.kind is Kind.NOOP
    payload = Payload(sender, 0, b"") if is_noop else payload_of(refund)
    if attempt.is_legacy:
        return LegacyTransaction(
            chain_id=refund.chain_id,
            nonce=nonce,
            gas_price=attempt.max_fee,
            gas=attempt.gas,
            to=payload.to,
            value=payload.value,
            data=payload.data,
        )
    return DynamicFeeTransaction(
        chain_id=refund.chain_id,
        nonce=nonce,
        max_priority_fee_per_gas=attempt.priority_fee,
        max_fee_per_gas=attempt.max_fee,
        gas=attempt.gas,
        to=payload.to,
        value=payload.value,
        data=payload.data,
    )


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
    transaction: AnyTransaction, refund: Refund, attempt: Attempt, network: Network
) -> None:
    if attempt.kind is Kind.NOOP:
        check_noop(transaction, refund, network)
    elif refund.kind is TransactionKind.CALL:
        check_call(transaction, refund, network, gas=attempt.gas)
    elif refund.kind is TransactionKind.COIN:
        check_coin(transaction, refund, network)
    else:
        check_transfer(transaction, refund, network, gas=attempt.gas)
