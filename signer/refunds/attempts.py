"""What is offered for a nonce: signed, and recorded before anybody is told."""

from dataclasses import replace
from typing import Any

import structlog

from signer.chain.chain import Chain
from signer.chain.fees import quote, raised
from signer.errors import InsufficientFundsError, StoreError
from signer.model.audit_record import Actor
from signer.model.refund import Kind, Refund, SignedTransaction, Status
from signer.ports import Clock, Fees, Store
from signer.refunds.policy import NOOP_GAS
from signer.refunds.sweep_policy import Objection, unaffordable
from signer.refunds.transaction_signer import Offer, SignedPayment, TransactionSigner


class Attempts:
    """Signs and records the transactions of one nonce, each dearer than the last."""

    def __init__(self, store: Store, payer: TransactionSigner, clock: Clock) -> None:
        self._store = store
        self._payer = payer
        self._clock = clock
        self._log = structlog.get_logger("refunds")

    def first(
        self,
        refund: Refund,
        chain: Chain,
        actor: Actor,
        kind: Kind = Kind.TRANSFER,
        **changes: Any,
    ) -> Refund:
        """
        Return *refund* signed for the first time, at what the chain asks now.

        A sweep that must not be made any more is a no-op.

        Raises:
            StaleStateError: Somebody else moved it meanwhile; nothing was recorded.
            InsufficientFundsError: Not even a no-op can be paid at the moment.
            SigningError, ChainError: Nothing was signed.
        """
        fees = chain.client.fees()
        price = quote(fees, chain.network)
        offer = Offer(kind, 0, *price, fees.base_fee is None)
        why = self._objection(refund, offer, chain)
        if why is not None:
            offer, changes = replace(offer, kind=Kind.NOOP), why
        return self._record(refund, offer, chain, actor, **changes)

    def better(
        self,
        refund: Refund,
        chain: Chain,
        actor: Actor,
        latest: SignedTransaction,
    ) -> Refund | None:
        """
        Sign the same with both fees raised; None where they would pass the cap.

        Nor does a sweep of coin offer more than its address holds.
        """
        fees = chain.client.fees()
        price = _raised(latest, fees, chain)
        if price is None or _exceeds(refund, latest.kind, chain, price[0]):
            self._log.error(
                "refund-stuck-at-fee-cap", refund_id=refund.id, nonce=latest.nonce
            )
            return None
        offer = Offer(latest.kind, latest.attempt + 1, *price, fees.base_fee is None)
        return self._record(refund, offer, chain, actor)

    def instead(
        self,
        refund: Refund,
        chain: Chain,
        actor: Actor,
        latest: SignedTransaction,
        **why: Any,
    ) -> Refund:
        """
        Sign a no-op in the place of a transfer that was sent, and must not be any more.

        It offers more than that; at the cap, as much, for the time when nodes have
        forgotten the transfer.
        """
        fees = chain.client.fees()
        same = latest.max_fee_per_gas, latest.max_priority_fee_per_gas
        price = _raised(latest, fees, chain) or same
        offer = Offer(Kind.NOOP, latest.attempt + 1, *price, fees.base_fee is None)
        return self._record(refund, offer, chain, actor, **why)

    def outdated(self, refund: Refund) -> Objection | None:
        """Return why a sweep must not be signed as the ring stands now."""
        return self._payer.outdated(refund)

    def unaffordable(self, refund: Refund, chain: Chain, gas: int) -> Objection | None:
        """Return why a queued sweep cannot be paid at what the chain asks now."""
        if refund.swept_from is None:
            return None
        max_fee, _ = quote(chain.client.fees(), chain.network)
        return unaffordable(
            refund, chain.client.balance(refund.swept_from), gas=gas, max_fee=max_fee
        )

    def _objection(
        self, refund: Refund, offer: Offer, chain: Chain
    ) -> Objection | None:
        if offer.kind is Kind.NOOP:
            return None
        why = self.outdated(refund)
        if why is not None or not refund.is_coin:
            return why
        balance = chain.client.balance(str(refund.sender))
        why = unaffordable(refund, balance, gas=NOOP_GAS, max_fee=offer.max_fee)
        if why is not None and balance < NOOP_GAS * offer.max_fee:
            raise InsufficientFundsError("the address cannot pay for gas at the moment")
        return why

    def _record(
        self,
        refund: Refund,
        offer: Offer,
        chain: Chain,
        actor: Actor,
        **changes: Any,
    ) -> Refund:
        payment = self._payer.sign(refund, offer, chain.network, actor)
        signed = payment.transaction
        after = refund.moved(
            Status.SIGNED, self._clock(), tx_hash=signed.tx_hash, **changes
        )
        try:
            self._store.save(refund, after, signed, payment.outcome)
        except StoreError:
            self._withdraw(refund, payment)
            raise
        payment.tell()
        return after

    def _withdraw(self, refund: Refund, payment: SignedPayment) -> None:
        try:
            payment.withdraw()
        except StoreError as e:
            self._log.warning("outcome-not-recorded", refund_id=refund.id, code=e.code)


def _raised(
    latest: SignedTransaction, fees: Fees, chain: Chain
) -> tuple[int, int] | None:
    return raised(
        latest.max_fee_per_gas,
        latest.max_priority_fee_per_gas,
        quote(fees, chain.network),
        chain.network,
    )


def _exceeds(refund: Refund, kind: Kind, chain: Chain, max_fee: int) -> bool:
    if kind is Kind.NOOP or not refund.is_coin:
        return False
    balance = chain.client.balance(str(refund.sender))
    return unaffordable(refund, balance, gas=NOOP_GAS, max_fee=max_fee) is not None
