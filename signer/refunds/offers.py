"""What is offered for a nonce: signed, and recorded before anybody is told."""

from typing import Any

import structlog

from signer.audit.record import Actor
from signer.errors import StoreError
from signer.ports import Clock, Store
from signer.refunds.fees import quote, raised
from signer.refunds.payment import Offer, Payer, Payment
from signer.refunds.refund import Kind, Refund, SignedTransaction, Status
from signer.refunds.watching import Chain


class Offers:
    """Signs and records the transactions of one nonce, each dearer than the last."""

    def __init__(self, store: Store, payer: Payer, clock: Clock) -> None:
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

        Raises:
            StaleStateError: Somebody else moved it meanwhile; nothing was recorded.
            SigningError, ChainError: Nothing was signed.
        """
        fees = chain.client.fees()
        price = quote(fees, chain.network)
        offer = Offer(kind, 0, *price, fees.base_fee is None)
        return self._record(refund, offer, chain, actor, **changes)

    def better(
        self,
        refund: Refund,
        chain: Chain,
        actor: Actor,
        latest: SignedTransaction,
        kind: Kind,
        **changes: Any,
    ) -> Refund | None:
        """Sign once more, with both fees raised; None when that would pass the cap."""
        fees = chain.client.fees()
        price = raised(
            latest.max_fee_per_gas,
            latest.max_priority_fee_per_gas,
            quote(fees, chain.network),
            chain.network,
        )
        if price is None:
            self._log.error(
                "refund-stuck-at-fee-cap", refund_id=refund.id, nonce=latest.nonce
            )
            return None
        offer = Offer(kind, latest.attempt + 1, *price, fees.base_fee is None)
        return self._record(refund, offer, chain, actor, **changes)

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

    def _withdraw(self, refund: Refund, payment: Payment) -> None:
        try:
            payment.withdraw()
        except StoreError as e:
            self._log.warning("outcome-not-recorded", refund_id=refund.id, code=e.code)
