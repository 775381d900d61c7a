"""Joins the parts that the guard has found sound into what processes work with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_network
from threading import Event, Thread

from api.auth.authorization import AccessControl
from api.auth.jwt_verifier import JWTVerifier
from api.auth.rate_limits import RateLimits
from api.health.key_check import KeyCheck
from api.health.readiness import ReadinessChecker, sealing
from api.logs import audit_logger
from api.services import Services
from signer.alerts import Alerts
from signer.audit.checkpointer import CheckpointSettings
from signer.audit.log import AuditLog
from signer.audit.sealer import Sealer
from signer.audit.sealing_monitor import SealingAlert, SealingMonitor
from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.config.settings import Settings
from signer.deadline import Deadlines
from signer.keys.balances import BalanceReader
from signer.keys.failover import Failover
from signer.keys.keyring import KeyRing
from signer.keys.retirement import KeyRetirement
from signer.keys.revocation import Revocation
from signer.keys.rotation import Rotation
from signer.keys.signer import SignerFactory
from signer.keys.signing_alarm import SigningAlarm
from signer.ports import KeyDirectory, Ledger, Notifier, utc_now
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.explain import Explainer
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonces import NonceManager
from signer.refunds.service import RefundService
from signer.refunds.sweep import Sweeper
from signer.refunds.transaction_signer import TransactionSigner
from signer.refunds.wallet_reconciliation import WalletReconciler
from signer.refunds.worker import Worker
from signer.startup.guard import check_chain


@dataclass(frozen=True, slots=True)
class Foundation:
    """What the guard has found sound: everything that refunds stand on."""

    settings: Settings
    networks: Mapping[str, Network]
    store: Ledger
    backend: KeyDirectory
    chains: Mapping[str, Chain]
    warnings: tuple[str, ...]
    notifier: Notifier | None = None
    signing: CheckpointSettings | None = None
    authenticator: JWTVerifier | None = None


class Parts:
    """The parts of one process; what several others need is made once."""

    def __init__(self, found: Foundation) -> None:
        """Make what several others need."""
        self.found = found
        self.audit = AuditLog(audit_logger(), journal=found.store)
        self.alerts = Alerts(found.store, found.notifier)
        self.lateness = SealingAlert(self.alerts)
        self.signers = SignerFactory(found.backend, self.audit)
        alarm = SigningAlarm(self.alerts)
        # Rotation and failover report by themselves when a new key does not sign.
        self.ring = KeyRing(found.store, replace(self.signers, alarm=alarm).open)

    def seal(self) -> None:
        """Seal the audit's records behind the writers, for as long as we live."""
        found = self.found
        sealer = Sealer(
            found.store, found.signing, self.alerts, sealing_alert=self.lateness
        )
        Thread(
            target=sealer.run,
            args=(Event().wait,),
            name="sealer",
            daemon=True,  # It may end at any line: the store stays as it was.
        ).start()

    @property
    def lifecycle(self) -> Lifecycle:
        """What takes refunds from one state to the next."""
        store, chains = self.found.store, self.found.chains
        nonces = NonceManager(store, self.ring, utc_now)
        return Lifecycle(
            store, chains, TransactionSigner(self.ring, utc_now), nonces, utc_now
        )

    @property
    def refunds(self) -> RefundService:
        """What the gateway can ask for."""
        return RefundService(
            self.found.store,
            self.found.networks,
            self.lifecycle,
            wallets=lambda: [key.address for key in self.ring.cached_keys()],
            clock=utc_now,
        )

    @property
    def services(self) -> Services:
        """What the routes work with."""
        found = self.found
        return Services(
            refunds=self.refunds,
            explainer=Explainer(found.store, found.store, found.chains, utc_now),
            rotation=self.rotation,
            failover=self.failover,
            ledger=found.store,
            authenticator=found.authenticator
            or JWTVerifier.from_settings(found.settings),
            access=self.access,
            readiness=self.prober,
            clock=utc_now,
            networks=found.networks,
            metrics_open=found.settings.metrics_open,
            proxies=[ip_network(each) for each in found.settings.trusted_proxies],
        )

    @property
    def access(self) -> AccessControl:
        """Who counts, audits and refuses callers."""
        settings = self.found.settings
        limits = RateLimits.shared(
            self.found.store,
            refused=settings.rate_limit_refused,
            administration=settings.rate_limit_admin,
            client=settings.rate_limit_client,
        )
        return AccessControl(self.found.store, limits, self.audit)

    @property
    def prober(self) -> ReadinessChecker:
        """What is asked whether requests may be sent here."""
        found = self.found
        checks: dict[str, Callable[[], object]] = {
            "database": found.store.check,
            "audit": sealing(
                found.store.oldest_unsealed,
                SealingMonitor(self.lateness),
                most=found.settings.audit_unsealed_seconds,
            ),
        }
        for name, chain in found.chains.items():
            checks[f"network-{name}"] = partial(
                check_chain, name, chain.network, chain.client
            )
        watch = KeyCheck(
            # The key of the moment, whatever it was when the process began.
            self.ring.self_test,
            self._last_signature_at,
            self.alerts,
        )
        return ReadinessChecker(checks, watch, found.store.active_key)

    @property
    def rotation(self) -> Rotation:
        """What administrators can ask for."""
        return Rotation(
            self.found.store,
            self.signers,
            read_balances=BalanceReader(self.found.chains, Deadlines()),
            alerts=self.alerts,
            clock=utc_now,
            needs_funds=self.found.settings.rotation_needs_funds,
        )

    @property
    def revocation(self) -> Revocation:
        """What revokes former keys."""
        return Revocation(self.found.store, audit=self.audit, clock=utc_now)

    @property
    def failover(self) -> Failover:
        """What fails keys over to a replica when their region fails."""
        return Failover(
            self.found.store, self.signers, alerts=self.alerts, clock=utc_now
        )

    @property
    def sweeper(self) -> Sweeper:
        """What empties the addresses of former keys."""
        return Sweeper(
            self.found.store,
            self.found.store,
            self.ring,
            self.found.chains,
            audit=self.audit,
            clock=utc_now,
        )

    @property
    def worker(self) -> Worker:
        """What brings refunds to their end."""
        store, chains = self.found.store, self.found.chains
        return Worker(
            store,
            self.lifecycle,
            confirmation_tracker=ConfirmationTracker(store, chains, utc_now),
            wallets=WalletReconciler(store, utc_now),
            ring=self.ring,
            retirement=KeyRetirement(store, self.audit, utc_now),
            chains=chains,
            clock=utc_now,
        )

    def _last_signature_at(self) -> float | None:
        return self.ring.active().signer.last_signature_at
