"""
Builds, judges and signs the transactions of one refund.

A refund may have several, all with its one nonce: the transfer, replacements of it
at a higher price, and a no-op in its place when it can never be paid.
"""

from dataclasses import dataclass, field

from signer.amounts import format_units
from signer.audit.log import AuditLog
from signer.chain.erc20 import transfer_calldata
from signer.config.networks import Network
from signer.crypto.transactions import (
    AnyTransaction,
    LegacyTransaction,
    SignedBytes,
    Transaction,
)
from signer.errors import HotWalletError, RecoveryError
from signer.keys.keyring import KeyRing
from signer.keys.signer import Signer
from signer.model.audit_record import Actor, Operation, Purpose, Record
from signer.model.refund import Kind, Refund, SignedTransaction
from signer.ports import Clock
from signer.refunds.policy import NOOP_GAS, check_coin, check_noop, check_transfer
from signer.refunds.sweep_policy import Objection, outdated


@dataclass(frozen=True, slots=True)
class SignedPayment:
    """
    A signed transaction, and the audit's record of its signature.

    Both are committed together; whoever cannot do that calls ``withdraw``.
    """

    transaction: SignedTransaction
    outcome: Record
    _audit: AuditLog = field(repr=False)

    def tell(self) -> None:
        """Tell the log, when both are committed."""
        self._audit.log(self.outcome)

    def withdraw(self) -> None:
        """
        Account for a signature that leads nowhere.

        Raises:
            StoreError: The intent alone says of it then.
        """
        self._audit.write(self.outcome)


@dataclass(frozen=True, slots=True)
class Offer:
    """
    What a transaction does, and the most it pays for that, in wei per gas.

    ``attempt`` counts the offers for one nonce from 0.  A legacy one has a gas price,
    which is both of its fees.
    """

    kind: Kind
    attempt: int
    max_fee: int
    priority_fee: int
    is_legacy: bool


def calldata(refund: Refund) -> bytes:
    """Return the transfer, and behind it the mark by which it can be told later."""
    return transfer_calldata(refund.recipient, refund.amount, refund.mark)


def purpose_of(refund: Refund, actor: Actor, **details: str | int) -> Purpose:
    """Return why a signature is wanted for *refund*; amounts are in whole tokens."""
    is_sweep = refund.swept_from is not None
    return Purpose(
        Operation.KEY_SWEEP if is_sweep else Operation.TRANSACTION_SIGNING,
        network=refund.network,
        actor=actor.name,
        request_id=actor.request_id,
        token_id=actor.token_id,
        refund_id=refund.id,
        details={
            "chain_id": refund.chain_id,
            "token_symbol": refund.token,
            "token_address": refund.token_address,
            "recipient": refund.recipient,
            "amount": format_units(refund.amount, refund.decimals),
            **details,
        },
    )


class TransactionSigner:
    """Signs for refunds with the keys that their nonces belong to."""

    def __init__(self, ring: KeyRing, clock: Clock) -> None:
        self._ring = ring
        self._clock = clock

    def outdated(self, refund: Refund) -> Objection | None:
        """Return why a sweep must not be signed as the ring stands now."""
        if refund.swept_from is None:
            return None  # It pays nobody of ours, and its ring is not looked at.
        return outdated(refund, self._ring.look())

    def sign(
        self, refund: Refund, offer: Offer, network: Network, actor: Actor
    ) -> SignedPayment:
        """
        Return a signed transaction that makes *offer* for the nonce of *refund*.

        Raises:
            KeyUnusableError: The key of the refund's nonce may not sign any more.
            KeyRotatedError: What a sweep pays is not the active key's address any more.
            PolicyViolationError: The transaction is not what the refund asks for.
            SigningError: The device did not sign, or signed something else.
        """
        sender, nonce, _ = refund.reservation()
        transaction = _transaction(refund, offer)
        _judge(transaction, refund, offer.kind, network)
        digest = transaction.signing_digest()
        purpose = purpose_of(
            refund, actor, nonce=nonce, attempt=offer.attempt, kind=str(offer.kind)
        )
        pays = refund.recipient if _is_sweep(refund, offer) else None
        signer = self._signer(refund, sender, digest, purpose, pays)
        made = signer.sign(digest, purpose)
        signed = SignedBytes.decode(transaction.serialise(made.signature))
        payment = SignedPayment(
            self._record(refund, offer, signed),
            made.outcome(tx_hash=signed.tx_hash),
            made.audit,
        )
        try:
            # What leaves is judged by its bytes, not by what we think we built.
            _judge(signed.transaction, refund, offer.kind, network)
            if signed.sender() != signer.public_key:
                raise RecoveryError("the signed bytes are not the wallet's")
        except HotWalletError:
            payment.withdraw()
            raise
        return payment

    def _signer(
        self,
        refund: Refund,
        sender: str,
        digest: bytes,
        purpose: Purpose,
        pays: str | None,
    ) -> Signer:
        """Return the signer, whose intent is durable."""
        if not refund.intended:
            return self._ring.announced(sender, digest, purpose, pays=pays)
        # A moment ago it was the active key, there, which its intent has on record.
        known = self._ring.opened(sender, str(refund.key_id))
        return known or self._ring.signer(sender)

    def _record(
        self, refund: Refund, offer: Offer, signed: SignedBytes
    ) -> SignedTransaction:
        transaction = signed.transaction
        return SignedTransaction(
            tx_hash=signed.tx_hash,
            refund_id=refund.id,
            attempt=offer.attempt,
            kind=offer.kind,
            chain_id=transaction.chain_id,
            sender=str(refund.sender),
            nonce=transaction.nonce,
            max_fee_per_gas=transaction.max_fee_per_gas,
            max_priority_fee_per_gas=transaction.max_priority_fee_per_gas,
            gas_limit=transaction.gas,
            raw=signed.raw,
            signed_at=self._clock(),
        )


def _is_sweep(refund: Refund, offer: Offer) -> bool:
    return refund.swept_from is not None and offer.kind is Kind.TRANSFER


def _transaction(refund: Refund, offer: Offer) -> AnyTransaction:
    sender, nonce, gas_limit = refund.reservation()
    is_transfer = offer.kind is Kind.TRANSFER
    is_coin = is_transfer and refund.is_coin
    chain_id, value = refund.chain_id, refund.amount if is_coin else 0
    gas = gas_limit if is_transfer else NOOP_GAS
    to = refund.token_address if is_transfer else sender
    to = refund.recipient if is_coin else to
    data = calldata(refund) if is_transfer and not is_coin else b""
    if offer.is_legacy:
        return LegacyTransaction(
            chain_id=chain_id,
            nonce=nonce,
            gas_price=offer.max_fee,
            gas=gas,
            to=to,
            value=value,
            data=data,
        )
    return Transaction(
        chain_id=chain_id,
        nonce=nonce,
        max_priority_fee_per_gas=offer.priority_fee,
        max_fee_per_gas=offer.max_fee,
        gas=gas,
        to=to,
        value=value,
        data=data,
    )


def _judge(
    transaction: AnyTransaction, refund: Refund, kind: Kind, network: Network
) -> None:
    judge = check_transfer if kind is Kind.TRANSFER else check_noop
    if kind is Kind.TRANSFER and refund.is_coin:
        judge = check_coin
    judge(transaction, refund, network)
