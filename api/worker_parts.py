"""How a worker is put together: what moves refunds, and what delivers events."""

from api.container import Container
from api.views.refunds import event_document
from signer.keys.proof import KeyProof
from signer.keys.retirement import KeyRetirement
from signer.refunds.automatic_stop import AutomaticStop
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonces import NonceManager
from signer.refunds.transaction_signer import TransactionSigner
from signer.refunds.worker import Worker
from signer.webhooks.dispatcher import WebhookDispatcher
from signer.webhooks.event_feed import EventRetention


def open_worker(container: Container) -> Worker:
    """Return what sends, resends and confirms refunds."""
    store, ring, clock = container.store, container.ring, container.ledger_clock
    chains, alerts, tenants = container.chains, container.alerts, container.tenants
    alarm, meter = alerts, container.with_traces(container.meter)
    policy = container.payment_policy
    signer = TransactionSigner(
        ring, clock, policy, lambda: container.backend.concurrency
    )
    return Worker(
        store,
        Lifecycle(
            store,
            chains,
            signer,
            NonceManager(store, ring, clock, tenants),
            clock,
            audit=container.audit,
            alerts=alerts,
            tenants=tenants,
        ),
        confirmation_tracker=ConfirmationTracker(
            store, chains, clock, alarm, meter=meter
        ),
        ring=ring,
        retirement=KeyRetirement(store, container.audit, container.clock),
        key_proof=KeyProof(store, ring, container.key_check, clock),
        automatic_stop=AutomaticStop(
            store,
            container.holds,
            container.networks,
            clock,
            alerts=alerts,
            alarm=alarm,
        ),
        chains=chains,
        clock=clock,
        alarm=alarm,
        heartbeat=container.heartbeat,
        meter=meter,
    )


def open_dispatcher(container: Container) -> WebhookDispatcher:
    """Return what sequences events, and sends them to webhooks."""
    store, clock = container.store, container.ledger_clock
    return WebhookDispatcher(
        store,
        container.webhook_sender,
        container.webhook_endpoints,
        document=event_document,
        alerts=container.alerts,
        clock=clock,
        retention=EventRetention(store, container.settings.event_retention, clock),
    )
