"""What accepts, explains and signs for callers; it moves no refund."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from api.container.keys import KeyParts


if TYPE_CHECKING:
    from signer.refunds.explain import Explainer
    from signer.refunds.payment_policy import PaymentPolicy
    from signer.refunds.preview import Previewer
    from signer.refunds.service import RefundService
    from signer.refunds.transaction_sender import TransactionSender
    from signer.signing.service import SigningService
    from signer.webhooks.event_feed import EventFeed


@dataclass(kw_only=True, eq=False, repr=False)
class RefundParts(KeyParts):
    """Services that answer callers about refunds and signatures."""

    @cached_property
    def payment_policy(self) -> PaymentPolicy:
        """The policy, asked about the transactions of refunds; it needs no key."""
        from signer.refunds.payment_policy import PaymentPolicy

        return PaymentPolicy(
            self.policy,
            self.ring,
            self.ledger_clock,
            self.deny_list,
            self.store.payment_totals,
            screening=self.screening,
        )

    @cached_property
    def refunds(self) -> RefundService:
        """Accepts, lists and cancels refunds."""
        from signer.refunds.service import RefundService

        return RefundService(
            self.store,
            self.networks,
            audit=self.audit,
            wallets=lambda: [key.address for key in self.ring.cached_keys()],
            clock=self.ledger_clock,
            tenants=self.tenants,
            alerts=self.alerts,
            policy=self.payment_policy,
            meter=self._with_traces(self.shared_meter),
        )

    @cached_property
    def explainer(self) -> Explainer:
        """Explains the state of a refund."""
        from signer.refunds.explain import Explainer

        store, chains, clock = self.store, self.tenants_chains, self.ledger_clock
        return Explainer(store, store, chains, clock, self.tenants)

    @cached_property
    def previewer(self) -> Previewer:
        """Answers what would happen with a refund; opens no device."""
        from signer.refunds.fee_monitor import FeeMonitor
        from signer.refunds.preview import Previewer

        store, clock = self.store, self.ledger_clock
        return Previewer(
            store,
            store,
            self.tenants_chains,
            wallets=lambda: [key.address for key in self.ring.cached_keys()],
            clock=clock,
            tenants=self.tenants,
            fee_monitor=FeeMonitor(store, self.alerts, clock),
            policy=self.payment_policy,
        )

    @cached_property
    def transaction_sender(self) -> TransactionSender:
        """Accepts what JSON-RPC's clients send, as refunds."""
        from signer.refunds.transaction_sender import TransactionSender

        clock, nodes = self.ledger_clock, self.node_proxies
        return TransactionSender(self.refunds, self.store, clock, nodes)

    @cached_property
    def signing(self) -> SigningService:
        """Signs with the active key what callers ask for; reserves no nonce."""
        from signer.model.key import SERVING
        from signer.refunds.payment_policy import own_keys

        # It imports eth-account, which a process that accepts refunds does not need.
        from signer.signing.known_addresses import KnownAddresses
        from signer.signing.service import SigningService

        return SigningService(
            lambda: self.ring.active().signer,
            self.policy,
            self.networks,
            self.ledger_clock,
            states=SERVING,
            known=KnownAddresses(
                own_keys=lambda: own_keys(self.ring.cached_keys()),
                denied=self.payment_policy.denied,
                # The active key signs, from which the service pays.
                is_service_wallet=lambda *_: True,
            ),
            blocks=self.store,
        )

    @cached_property
    def event_feed(self) -> EventFeed:
        """The events of tenants, for as long as they are kept."""
        from signer.webhooks.event_feed import EventFeed

        return EventFeed(self.store, self.settings.event_retention, self.ledger_clock)
