"""
Prices, signs and records each transaction of a refund's nonce before it is broadcast.

The transactions of one nonce are its attempts: the first one, replacements with higher
fees, and a no-op in place of a transfer that must not be made.
"""

from dataclasses import replace
from typing import Any

import structlog

from signer.chain.chain import Chain
from signer.chain.fees import bump_fees, quote_fees
from signer.errors import InsufficientFundsError, StoreError
from signer.model.audit_record import Actor
from signer.model.refund import Kind, Refund, SignedTransaction, Status
from signer.ports import Clock, Fees, Store
from signer.refunds.policy import NOOP_GAS
from signer.refunds.sweep_policy import Objection, find_fee_objection
from signer.refunds.transaction_signer import Attempt, SignedPayment, TransactionSigner


class Attempts:
    """Signs and records the transactions of one nonce."""

    def __init__(
        self, store: Store, transaction_signer: TransactionSigner, clock: Clock
    ) -> None:
        self._store = store
        self._transaction_signer = transaction_signer
        self._clock = clock
        self._log = structlog.get_logger("refunds")

    def start(
        self,
        refund: Refund,
        chain: Chain,
        actor: Actor,
        kind: Kind = Kind.TRANSFER,
        **changes: Any,
    ) -> Refund:
        """
        Sign the first transaction of *refund*, at the current fees.

        A sweep that must not be made any more becomes a no-op.

        Raises:
            StaleStateError: Another process changed the refund; nothing was recorded.
            InsufficientFundsError: The address cannot pay for a no-op either.
            SigningError, ChainError: Nothing was signed.
        """
        fees = chain.client.fees()
        attempt = Attempt(kind, 0, *quote_fees(fees, chain.network), _is_legacy(fees))
        objection = self._find_objection(refund, attempt, chain)
        if objection is not None:
            attempt, changes = replace(attempt, kind=Kind.NOOP), objection
        return self._sign_and_save(refund, attempt, chain, actor, **changes)

    def raise_fees(
        self, refund: Refund, chain: Chain, actor: Actor, latest: SignedTransaction
    ) -> Refund | None:
        """
        Sign *latest* again with both fees raised.

        Return None if the fees would exceed the network's cap, or what the address of a
        coin sweep holds.
        """
        fees = chain.client.fees()
        raised = _raise_fees(latest, fees, chain)
        if raised is None or _is_too_expensive(refund, latest.kind, chain, raised[0]):
            self._log.error(
                "refund-stuck-at-fee-cap", refund_id=refund.id, nonce=latest.nonce
            )
            return None
        attempt = Attempt(latest.kind, latest.attempt + 1, *raised, _is_legacy(fees))
        return self._sign_and_save(refund, attempt, chain, actor)

    def replace_with_noop(
        self,
        refund: Refund,
        chain: Chain,
        actor: Actor,
        latest: SignedTransaction,
        **objection: Any,
    ) -> Refund:
        """
        Sign a no-op in place of a broadcast transfer that must not be made any more.

        Its fees are higher than the transfer's.  At the network's cap they are equal:
        nodes accept the no-op once they have dropped the transfer.
        """
        fees = chain.client.fees()
        unchanged = latest.max_fee_per_gas, latest.max_priority_fee_per_gas
        raised = _raise_fees(latest, fees, chain) or unchanged
        attempt = Attempt(Kind.NOOP, latest.attempt + 1, *raised, _is_legacy(fees))
        return self._sign_and_save(refund, attempt, chain, actor, **objection)

    def _find_objection(
        self, refund: Refund, attempt: Attempt, chain: Chain
    ) -> Objection | None:
        if attempt.kind is Kind.NOOP:
            return None
        objection = self._transaction_signer.find_sweep_objection(refund)
        if objection is not None or not refund.is_coin:
            return objection
        balance, max_fee = chain.client.balance(str(refund.sender)), attempt.max_fee
        objection = find_fee_objection(refund, balance, gas=NOOP_GAS, max_fee=max_fee)
        if objection is not None and balance < NOOP_GAS * max_fee:
            raise InsufficientFundsError(
                f"{refund.sender} cannot pay for gas at the current fees: top it up"
            )
        return objection

    def _sign_and_save(
        self,
        refund: Refund,
        attempt: Attempt,
        chain: Chain,
        actor: Actor,
        **changes: Any,
    ) -> Refund:
        payment = self._transaction_signer.build_and_sign(
            refund, attempt, chain.network, actor
        )
        signed = payment.transaction
        after = refund.with_status(
            Status.SIGNED, self._clock(), tx_hash=signed.tx_hash, **changes
        )
        try:
            self._store.save(refund, after, signed, payment.outcome)
        except StoreError:
            self._record_unused(refund, payment)
            raise
        payment.audit.log(payment.outcome)
        return after

    def _record_unused(self, refund: Refund, payment: SignedPayment) -> None:
        try:
            payment.audit.write(payment.outcome)
        except StoreError as e:
            self._log.warning("outcome-not-recorded", refund_id=refund.id, code=e.code)


def _is_legacy(fees: Fees) -> bool:
    return fees.base_fee is None


def _raise_fees(
    latest: SignedTransaction, fees: Fees, chain: Chain
) -> tuple[int, int] | None:
    return bump_fees(
        latest.max_fee_per_gas,
        latest.max_priority_fee_per_gas,
        quote_fees(fees, chain.network),
        chain.network,
    )


def _is_too_expensive(refund: Refund, kind: Kind, chain: Chain, max_fee: int) -> bool:
    if kind is Kind.NOOP or not refund.is_coin:
        return False
    balance = chain.client.balance(str(refund.sender))
    objection = find_fee_objection(refund, balance, gas=NOOP_GAS, max_fee=max_fee)
    return objection is not None
