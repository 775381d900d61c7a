"""What moves refunds and delivers events, in a worker."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from api.container.administration import AdministrationParts
from api.container.refunds import RefundParts


if TYPE_CHECKING:
    from signer.refunds.heartbeat import Heartbeat
    from signer.refunds.lifecycle import Lifecycle
    from signer.refunds.worker import Worker
    from signer.webhooks.dispatcher import WebhookDispatcher


@dataclass(kw_only=True, eq=False, repr=False)
class WorkerParts(AdministrationParts, RefundParts):
    """The worker, its heartbeat, and the dispatcher of events."""

    @cached_property
    def lifecycle(self) -> Lifecycle:
        """Takes refunds from one state to the next."""
        from signer.refunds.lifecycle import Lifecycle
        from signer.refunds.nonces import NonceManager
        from signer.refunds.transaction_signer import TransactionSigner

        return Lifecycle(
            self.store,
            self.chains,
            TransactionSigner(
                self.ring,
                self.ledger_clock,
                self.payment_policy,
                lambda: self.backend.concurrency,
            ),
            NonceManager(self.store, self.ring, self.ledger_clock, self.tenants),
            self.ledger_clock,
            audit=self.audit,
            alerts=self.alerts,
            tenants=self.tenants,
        )

    @cached_property
    def worker(self) -> Worker:
        """Sends, resends and confirms refunds."""
        from signer.keys.proof import KeyProof
        from signer.keys.retirement import KeyRetirement
        from signer.refunds.automatic_stop import AutomaticStop
        from signer.refunds.confirmations import ConfirmationTracker
        from signer.refunds.row_alarm import RowAlarm
        from signer.refunds.worker import Worker

        alarm, meter = RowAlarm(self.alerts), self._with_traces(self.meter)
        tracker = ConfirmationTracker(
            self.store, self.chains, self.ledger_clock, alarm, meter=meter
        )
        return Worker(
            self.store,
            self.lifecycle,
            confirmation_tracker=tracker,
            ring=self.ring,
            retirement=KeyRetirement(self.store, self.audit, self.clock),
            key_proof=KeyProof(
                self.store, self.ring, self.key_check, self.ledger_clock
            ),
            automatic_stop=AutomaticStop(
                self.store,
                self.kill_switch,
                self.networks,
                self.ledger_clock,
                tenant_admin=self.tenant_admin,
                alerts=self.alerts,
                alarm=alarm,
            ),
            chains=self.chains,
            clock=self.ledger_clock,
            alarm=alarm,
            heartbeat=self.heartbeat,
            meter=meter,
        )

    @cached_property
    def heartbeat(self) -> Heartbeat:
        """Records the passes of this worker, with what it measures."""
        from signer.refunds.heartbeat import Heartbeat

        return Heartbeat(self.store, self.ledger_clock, self.meter.text)

    @cached_property
    def webhook_dispatcher(self) -> WebhookDispatcher:
        """Sequences events, and sends them to webhooks."""
        from api.views.events import event_document
        from signer.webhooks.dispatcher import WebhookDispatcher
        from signer.webhooks.retention import EventRetention

        return WebhookDispatcher(
            self.store,
            self.webhook_sender,
            self.webhook_endpoints,
            document=event_document,
            alerts=self.alerts,
            clock=self.ledger_clock,
            retention=EventRetention(
                self.store, self.settings.event_retention, self.ledger_clock
            ),
        )
