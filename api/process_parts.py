"""How a worker and the checks of ``/readyz`` are put together."""

from datetime import timedelta
from functools import partial

from api.container import Container
from api.health import readiness
from api.health.readiness import Check, ReadinessChecker
from api.metrics.workers import read_network_looks
from api.views.refunds import event_document
from signer.audit.sealer import SealingMonitor
from signer.config.settings import Role
from signer.keys.key_proofs import KeyProof
from signer.keys.rotation import KeyRetirement
from signer.model.worker_row import find_running
from signer.refunds.automatic_stop import AutomaticStop
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonce_checks import NonceManager
from signer.refunds.payment_parts import PaymentParts
from signer.refunds.transaction_signer import TransactionSigner
from signer.refunds.worker import Worker
from signer.webhooks.dispatcher import WebhookDispatcher
from signer.webhooks.event_feed import EventRetention


def open_worker(container: Container) -> Worker:
    store, ring, clock = container.store, container.ring, container.ledger_clock
    chains, alarm, tenants = container.chains, container.alerts, container.tenants
    meter = container.with_traces(container.meter)
    parts = PaymentParts(
        store,
        TransactionSigner(
            ring, clock, container.payment_policy, lambda: container.backend.concurrency
        ),
        NonceManager(store, ring, clock, tenants),
        clock,
        audit=container.audit,
        tenants=tenants,
        alerts=alarm,
    )
    return Worker(
        Lifecycle(parts, chains),
        ConfirmationTracker(store, chains, clock, alarm, meter=meter),
        ring=ring,
        retirement=KeyRetirement(store, container.audit, container.clock),
        key_proof=KeyProof(store, ring, container.key_check, clock),
        automatic_stop=AutomaticStop(
            store,
            container.holds,
            container.networks,
            clock,
            alarm=alarm,
        ),
        heartbeat=container.heartbeat,
        patience=container.standby if store.has_one_writer else timedelta,
        is_alone=container.standby.is_alone,
    )


def open_dispatcher(container: Container) -> WebhookDispatcher:
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


def open_readiness(container: Container) -> ReadinessChecker:
    """
    Return the checks of a process's dependencies.

    A process that accepts refunds needs workers that prove the active key.  One that
    has the key tests it itself.  No process asks a node: workers record what they see.
    """
    role, store = container.settings.serve_role, container.store
    clock, workers, read = container.ledger_clock, store.workers, read_network_looks
    checks: dict[str, Check] = {
        "database": store.check,
        "signing": readiness.signing_check(container.holds.stops),
        "audit": readiness.sealing_check(
            store.oldest_unsealed,
            SealingMonitor(container.sealing_alert),
            max_seconds=container.settings.audit_unsealed_seconds,
            clock=container.clock,
        ),
    }
    # The administrators' process tests the key itself.
    proof = None if role is Role.ADMIN else store.active_key
    checks["worker"] = readiness.worker_check(workers, proof, clock)
    if container.settings.policy_dir is not None:
        checks["policy"] = readiness.policy_check(lambda: container.policy.problem)

    def is_delegated(name: str) -> bool:
        look = read(find_running(workers(), clock())).get(name)
        return role.has_key and look is not None and look.is_delegated

    for name, chain in container.chains.items():
        checks[f"wallet-{name}"] = readiness.wallet_check(
            chain.network.chain_id,
            store.wallets,
            store.keys,
            partial(is_delegated, name),
        )
        if role.has_key:
            check = readiness.network_check(name, workers, read, clock)
            checks[f"network-{name}"] = check
    key = container.key_check if role.has_key else None
    return ReadinessChecker(
        checks, key, store.active_key, needs_key=role is not Role.ADMIN
    )
