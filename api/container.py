"""The parts of one process, each made when it is first used."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from ipaddress import ip_network
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from api.backend_plugins import check_plugin, load_plugin
from api.checkpoint_key import open_checkpoint_key
from api.health.key_check import KeyCheck
from api.health.readiness import (
    Check,
    Readiness,
    ReadinessChecker,
    policy_check,
    sealing_check,
    signing_check,
    wallet_check,
    worker_check,
)
from api.logs import audit_logger
from api.mac_key import open_row_macs
from api.metrics.names import Names
from api.views.events import event_document
from api.views.refunds import refund_answer
from api.webhook_keys import open_endpoints, open_public_keys
from signer.alerts import RUNBOOKS, Alerts
from signer.approvals import Approvals
from signer.audit.checkpointer import CheckpointSettings
from signer.audit.log import AuditLog
from signer.audit.sealer import Sealer
from signer.audit.sealing_monitor import SealingAlert, SealingMonitor
from signer.chain.chain import Chain
from signer.config.deny_list import DenyList
from signer.config.digest import Configuration, read_configuration
from signer.config.networks import Network, load_networks
from signer.config.policy_files import read_own_examples, read_policy_files
from signer.config.settings import Role, Settings
from signer.config.tenants import TenantRegistry, check_tenants, load_tenants
from signer.deadline import Deadlines
from signer.errors import ConfigurationError, Refusal
from signer.keys.admin_audit import AdminAudit
from signer.keys.balances import BalanceReader
from signer.keys.failover import Failover
from signer.keys.keyring import KeyRing
from signer.keys.proof import KeyProof
from signer.keys.reinstatement import Reinstatement
from signer.keys.retirement import KeyRetirement
from signer.keys.revocation import Revocation
from signer.keys.rotation import Rotation
from signer.keys.signer import SignerFactory
from signer.keys.signing_alarm import SigningAlarm
from signer.model.audit_record import Operation
from signer.model.key import SERVING
from signer.policy.default_rules import service_files
from signer.policy.live_policy import LivePolicy
from signer.policy.policy import Policy
from signer.policy.policy_text import PolicyFile
from signer.policy.surroundings import KnownNetwork
from signer.ports import (
    BackendConfig,
    BackendPlugin,
    Clock,
    KeyDirectory,
    Ledger,
    Meter,
    Meters,
    NodeProxy,
    Notifier,
    ScreeningService,
    WebhookSender,
    utc_now,
)
from signer.refunds.automatic_stop import AutomaticStop
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.explain import Explainer
from signer.refunds.fee_monitor import FeeMonitor
from signer.refunds.heartbeat import Heartbeat
from signer.refunds.kill_switch import KillSwitch
from signer.refunds.ledger_clock import LedgerClock
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonce_admin import NonceAdmin
from signer.refunds.nonces import NonceManager
from signer.refunds.payment_policy import PaymentPolicy, own_keys
from signer.refunds.preview import Previewer
from signer.refunds.row_alarm import RowAlarm
from signer.refunds.service import RefundService
from signer.refunds.sweep import Sweeper
from signer.refunds.tenant_admin import TenantAdmin
from signer.refunds.transaction_sender import TransactionSender
from signer.refunds.transaction_signer import TransactionSigner
from signer.refunds.wallet_monitor import WalletMonitor
from signer.refunds.worker import Worker
from signer.refunds.worker_monitor import WorkerMonitor
from signer.restore.plan import RestorePlanner
from signer.restore.restorer import Restorer
from signer.row_macs import RowMACs
from signer.startup.dependency_checks import check_chain
from signer.startup.limits_guard import LimitsGuard
from signer.startup.policy_reload import PolicyReload, Rules
from signer.webhooks.delivery_admin import DeliveryAdmin
from signer.webhooks.dispatcher import WebhookDispatcher
from signer.webhooks.endpoint import Endpoints
from signer.webhooks.event_feed import EventFeed
from signer.webhooks.retention import EventRetention
from signer.webhooks.signatures import PublicKey


if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from api.auth.authorization import AccessPolicy
    from api.auth.jwt_verifier import JWTVerifier
    from api.auth.verification_keys import KeySource
    from api.metrics.shared_meter import SharedMeter
    from api.metrics.worker_meter import WorkerMeter
    from api.peer_addresses import Network as IPNetwork
    from signer.signing.service import SigningService


@dataclass(kw_only=True, eq=False, repr=False)
class Container:
    """
    Opens and joins the parts of one process; make it after the fork.

    A part is made when it is first used and then kept, so a command opens only what it
    needs: ``store`` and ``chains`` need no key, ``rotation`` does not need the old key,
    and only a process that checks tokens reads ``jwt_keys``, and imports PyJWT and
    Falcon.

    ``api/bootstrap.py`` makes containers and passes the ``open_...`` functions.  A part
    raises ``ConfigurationError`` if it cannot be opened.
    """

    environ: Mapping[str, str]
    open_store: Callable[[Settings], Ledger]
    open_backend: Callable[[Settings], KeyDirectory]
    open_chains: Callable[[Mapping[str, Network]], Mapping[str, Chain]]
    open_notifier: Callable[[Settings], Notifier | None]
    open_jwt_keys: "Callable[[Settings], KeySource]"
    open_webhook_sender: Callable[[Settings], WebhookSender]
    open_tracer: Callable[[Settings, Clock], Meter | None] = lambda *_: None
    open_screening: Callable[[Settings], ScreeningService | None] = lambda _: None
    open_node_proxies: Callable[[Mapping[str, Network]], Mapping[str, NodeProxy]] = (
        lambda _: {}
    )
    clock: Clock = utc_now
    warnings: Sequence[str] = ()  # Of the guard.

    @cached_property
    def settings(self) -> Settings:
        """The settings of the environment."""
        return Settings.from_env(self.environ)

    @cached_property
    def networks(self) -> Mapping[str, Network]:
        """The networks of ``NETWORKS_FILE``, by name."""
        return load_networks(self.settings.networks_file)

    @cached_property
    def tenants(self) -> TenantRegistry:
        """The tenants of ``TENANTS_FILE``, whose limits fit the networks."""
        registry = load_tenants(self.settings.tenants_file)
        check_tenants(registry, self.networks)
        return registry

    @property
    def key_name(self) -> str:
        """The key that the configuration names: KMS_KEY_ID or PKCS11_KEY_ID."""
        return self.backend_plugin.key_name(self.backend_config)

    @cached_property
    def backend_plugin(self) -> BackendPlugin:
        """The plugin of the key backend that the configuration names."""
        return load_plugin(self.settings.backend_name)

    @property
    def backend_config(self) -> BackendConfig:
        """What the plugin may read."""
        return BackendConfig(self.settings, self.environ)

    def check_backend(self, settings: Settings, *, serving: bool = True) -> list[str]:
        """
        Let the plugin check its settings, as in the environment of *settings*.

        It returns warnings.  A process that has no key loads no plugin.

        Raises:
            ConfigurationError: The plugin, or production, refuses.
        """
        if serving and not settings.serve_role.has_key:
            return []
        config = BackendConfig(settings, self.environ)
        forbidden = check_plugin(self.backend_plugin, config)
        if forbidden is None:
            return []
        return [f"NOT SAFE FOR PRODUCTION: {forbidden.message}"]

    @cached_property
    def store(self) -> Ledger:
        """The ledger."""
        return self.open_store(self.settings)

    @cached_property
    def ledger_clock(self) -> Clock:
        """The clock by which all hosts date refunds: the ledger's."""
        return LedgerClock(self.store.now)

    @cached_property
    def backend(self) -> KeyDirectory:
        """The device that holds the keys; opening it sends no request."""
        return self.open_backend(self.settings)

    @cached_property
    def chains(self) -> Mapping[str, Chain]:
        """A client of each network, by name; opening them sends no request."""
        return self.open_chains(self.networks)

    @cached_property
    def notifier(self) -> Notifier | None:
        """The webhook that alerts are sent to, if one is configured."""
        return self.open_notifier(self.settings)

    @cached_property
    def jwt_keys(self) -> "KeySource":
        """The keys that tokens are verified with."""
        return self.open_jwt_keys(self.settings)

    @cached_property
    def authenticator(self) -> "JWTVerifier":
        """Verifies bearer tokens."""
        from api.auth.jwt_verifier import JWTVerifier  # noqa: PLC0415

        return JWTVerifier(
            self.jwt_keys,
            issuer=self.settings.jwt_issuer,
            audience=self.settings.jwt_audience,
            clock=self.clock,
        )

    @cached_property
    def row_macs(self) -> RowMACs:
        """The MAC keys that all processes of the service have."""
        macs = open_row_macs(self.settings)
        if macs is None:
            raise ConfigurationError(Refusal("mac-key-missing", "set MAC_KEY_FILE"))
        return macs

    @cached_property
    def checkpoint_settings(self) -> CheckpointSettings | None:
        """How audit checkpoints are signed; None in production without a key."""
        return open_checkpoint_key(self.settings)

    @cached_property
    def configuration(self) -> Configuration:
        """The rules in force: networks, tokens, tenants and limits."""
        return self.build_configuration(self.policy_files)

    @property
    def configuration_in_force(self) -> Configuration:
        """The configuration with the rules that are in force now."""
        rules = {file.name: file.text for file in self.policy.own_files}
        return self.build_configuration(rules)

    def build_configuration(self, rules: Rules) -> Configuration:
        """Return the configuration with the own *rules*, texts by file."""
        tenants = self.tenants.tenants or {}
        return read_configuration(self.settings, self.networks, tenants, rules)

    @cached_property
    def policy_files(self) -> Mapping[str, str]:
        """The operator's own rules of ``POLICY_DIR``: texts by file."""
        return read_policy_files(self.settings.policy_dir)

    @cached_property
    def policy(self) -> LivePolicy:
        """What may be signed: the rules of this project and the operator's own."""
        return LivePolicy(self.compile_policy(self.policy_files))

    def compile_policy(self, rules: Rules) -> Policy:
        """
        Return the policy with the own *rules*, texts by file.

        Raises:
            ConfigurationError: ``policy-invalid``.
        """
        own = [PolicyFile(name, text) for name, text in rules.items()]
        defaults = service_files(self.networks, self.tenants)
        return Policy.compile(defaults, own, self.shared_meter)

    def prepare_policy(self, directory: Path, rules: Rules) -> Policy:
        """
        Return the policy with the *rules* of *directory*, as its examples expect it.

        Raises:
            ConfigurationError: ``limits-raised`` or ``policy-invalid``.
            StoreError: The ledger does not answer.
        """
        configuration = self.build_configuration(rules)
        self.build_limits_guard(configuration).require_approved()
        policy, text = self.compile_policy(rules), read_own_examples(directory)
        if text is not None:
            self._check_examples(policy, text)
        return policy

    def _check_examples(self, policy: Policy, text: str) -> None:
        # It imports eth-account, which a process that accepts refunds does not need.
        from signer.policy.examples import require_examples  # noqa: PLC0415

        known = {
            name: KnownNetwork.of(name, network)
            for name, network in self.networks.items()
        }
        require_examples(policy, text, known, self.tenants)

    @cached_property
    def audit(self) -> AuditLog:
        """The audit log, stored in the ledger."""
        configuration = None
        with suppress(ConfigurationError):  # Operators act without a networks file too.
            configuration = self.configuration.short
        return AuditLog(
            audit_logger(),
            self.clock,
            journal=self.store,
            configuration=configuration,
        )

    @cached_property
    def alerts(self) -> Alerts:
        """Counts alerts and sends them to the webhook."""
        return Alerts(
            self.store,
            self.notifier,
            self.clock,
            runbooks=self.settings.runbook_url or RUNBOOKS,
        )

    @cached_property
    def sealing_alert(self) -> SealingAlert:
        """The alert of late sealing, which the sealer and ``/readyz`` share."""
        return SealingAlert(self.alerts)

    @cached_property
    def ring(self) -> KeyRing:
        """The keys; an alert is raised when one of them does not sign."""
        alarm = SigningAlarm(self.alerts)
        return KeyRing(
            self.store,
            lambda key: SignerFactory(self.backend, self.audit, alarm, self.meter).open(
                key
            ),
        )

    @cached_property
    def signers(self) -> SignerFactory:
        """Opens signers for administrators; they raise alerts of their own."""
        return SignerFactory(self.backend, self.audit)

    @cached_property
    def lifecycle(self) -> Lifecycle:
        """Takes refunds from one state to the next."""
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
            answer=refund_answer,
        )

    @cached_property
    def deny_list(self) -> DenyList | None:
        """The addresses that are never paid, if a file is configured."""
        path = self.settings.deny_list_file
        return None if path is None else DenyList(path)

    @cached_property
    def screening(self) -> ScreeningService | None:
        """The service that screens recipients, if one is configured."""
        return self.open_screening(self.settings)

    @cached_property
    def payment_policy(self) -> PaymentPolicy:
        """The policy, asked about the transactions of refunds; it needs no key."""
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
    def signing(self) -> "SigningService":
        """Signs with the active key what callers ask for; reserves no nonce."""
        # It imports eth-account, which a process that accepts refunds does not need.
        from signer.signing.known_addresses import KnownAddresses  # noqa: PLC0415
        from signer.signing.service import SigningService  # noqa: PLC0415

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
    def transaction_sender(self) -> TransactionSender:
        """Accepts what JSON-RPC's clients send, as refunds."""
        return TransactionSender(
            self.refunds, self.store, self.ledger_clock, refund_answer
        )

    @cached_property
    def node_proxies(self) -> Mapping[str, NodeProxy]:
        """Forwards clients' reads to the nodes, by network."""
        return self.open_node_proxies(self.networks)

    @cached_property
    def explainer(self) -> Explainer:
        """Explains the state of a refund."""
        store, clock = self.store, self.ledger_clock
        return Explainer(store, store, self.chains, clock, self.tenants)

    @cached_property
    def previewer(self) -> Previewer:
        """Answers what would happen with a refund; opens no device."""
        store, clock = self.store, self.ledger_clock
        return Previewer(
            store,
            store,
            self.chains,
            wallets=lambda: [key.address for key in self.ring.cached_keys()],
            clock=clock,
            tenants=self.tenants,
            fee_monitor=FeeMonitor(store, self.alerts, clock),
            policy=self.payment_policy,
        )

    @cached_property
    def approvals(self) -> Approvals:
        """Changes that another administrator must approve."""
        return Approvals(
            self.store,
            self.audit,
            self.alerts,
            self.ledger_clock,
            required=self.settings.needs_approvals,
        )

    @cached_property
    def limits_guard(self) -> LimitsGuard:
        """Compares the limits of the configuration files with the accepted ones."""
        return self.build_limits_guard(self.configuration)

    def build_limits_guard(self, configuration: Configuration) -> LimitsGuard:
        """Return what compares the limits of *configuration* with the accepted ones."""
        return LimitsGuard(
            self.store,
            self.store,
            self.approvals,
            self.audit,
            configuration,
            clock=self.ledger_clock,
        )

    @cached_property
    def rotation(self) -> Rotation:
        """Rotates the wallet to another key."""
        return Rotation(
            self.store,
            self.signers,
            read_balances=BalanceReader(self.chains, Deadlines()),
            alerts=self.alerts,
            clock=self.clock,
            needs_funds=self.settings.rotation_needs_funds,
            approvals=self.approvals,
        )

    @cached_property
    def revocation(self) -> Revocation:
        """Revokes former keys as compromised; opens no device."""
        return Revocation(
            self.store, audit=self.audit, clock=self.clock, approvals=self.approvals
        )

    @cached_property
    def reinstatement(self) -> Reinstatement:
        """Reinstates keys that were revoked by mistake; opens no device."""
        return Reinstatement(
            self.store,
            audit=self.audit,
            clock=self.ledger_clock,
            approvals=self.approvals,
        )

    @cached_property
    def failover(self) -> Failover:
        """Pins keys to their replicas in another region; does not need the old one."""
        return Failover(self.store, self.signers, alerts=self.alerts, clock=self.clock)

    @cached_property
    def sweeper(self) -> Sweeper:
        """Moves the balances of former keys to the active key."""
        return Sweeper(
            self.store,
            self.store,
            self.ring,
            self.chains,
            audit=self.audit,
            clock=self.ledger_clock,
        )

    @cached_property
    def _administration(self) -> AdminAudit:
        return AdminAudit(
            self.audit, Operation.ADMINISTRATION, approvals=self.approvals
        )

    @cached_property
    def nonce_admin(self) -> NonceAdmin:
        """Changes wallets, and records which operator did."""
        return NonceAdmin(self.store, self.chains, self._administration, self.clock)

    @cached_property
    def restore_planner(self) -> RestorePlanner:
        """Finds what a restored ledger has lost."""
        return RestorePlanner(self.store, self.chains, self.tenants, self.ledger_clock)

    @cached_property
    def restorer(self) -> Restorer:
        """Repeats what a restored ledger has lost; one approval is for all of it."""
        store, audit, clock = self.store, self.audit, self.clock
        return Restorer(
            store,
            self.networks,
            rotation=Rotation(
                store,
                self.signers,
                read_balances=BalanceReader(self.chains, Deadlines()),
                alerts=self.alerts,
                clock=clock,
            ),
            revocation=Revocation(store, audit=audit, clock=clock),
            failover=self.failover,
            kill_switch=self.kill_switch,
            tenant_admin=self.tenant_admin,
            admin_audit=self._administration,
            clock=self.ledger_clock,
        )

    @cached_property
    def tenant_admin(self) -> TenantAdmin:
        """Blocks tenants, and records which operator did."""
        return TenantAdmin(self.store, self.tenants, self._administration, self.clock)

    @cached_property
    def kill_switch(self) -> KillSwitch:
        """Stops and resumes signatures; needs no device, node or networks file."""
        return KillSwitch(
            self.store,
            lambda: self.networks,
            self._administration,
            self.alerts,
            self.ledger_clock,
        )

    @cached_property
    def worker(self) -> Worker:
        """Sends, resends and confirms refunds."""
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
                alarm=alarm,
            ),
            chains=self.chains,
            clock=self.ledger_clock,
            alarm=alarm,
            heartbeat=self.heartbeat,
            meter=meter,
        )

    @cached_property
    def webhook_endpoints(self) -> Endpoints:
        """The webhooks of tenants, and the keys that sign for them."""
        return open_endpoints(self.settings, self.tenants)

    @cached_property
    def delivery_admin(self) -> DeliveryAdmin:
        """Lists and repeats deliveries, and records which operator did."""
        return DeliveryAdmin(
            self.store, self.tenants, self._administration, self.ledger_clock
        )

    @cached_property
    def webhook_public_keys(self) -> Sequence[PublicKey]:
        """The keys with which receivers verify events."""
        return open_public_keys(self.settings)

    @cached_property
    def webhook_sender(self) -> WebhookSender:
        """Sends events to webhooks."""
        return self.open_webhook_sender(self.settings)

    @cached_property
    def webhook_dispatcher(self) -> WebhookDispatcher:
        """Sequences events, and sends them to webhooks."""
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

    @cached_property
    def event_feed(self) -> EventFeed:
        """The events of tenants, for as long as they are kept."""
        return EventFeed(self.store, self.settings.event_retention, self.ledger_clock)

    @cached_property
    def heartbeat(self) -> Heartbeat:
        """Records the passes of this worker, with what it measures."""
        return Heartbeat(self.store, self.ledger_clock, self.meter.text)

    @cached_property
    def meter(self) -> "WorkerMeter":
        """Measures what this process does; only a worker stores it."""
        from api.metrics.worker_meter import WorkerMeter  # noqa: PLC0415

        networks, tenants = frozenset[str](), frozenset[str]()
        with suppress(ConfigurationError):  # Operators act without the files too.
            networks = frozenset(self.networks)
            tenants = frozenset(self.tenants.tenants or ())
        return WorkerMeter(Names(networks, tenants))

    @cached_property
    def shared_meter(self) -> "SharedMeter":
        """Counts what this process decides and refuses, for all processes together."""
        from api.metrics.shared_meter import SharedMeter  # noqa: PLC0415

        return SharedMeter()

    def _with_traces(self, meter: Meter) -> Meter:
        tracer = self.open_tracer(self.settings, self.ledger_clock)
        return meter if tracer is None else Meters(meter, tracer)

    @cached_property
    def collectors(self) -> "Sequence[Collector]":
        """Read what ``/metrics`` reports."""
        from api.metrics.ledger import LedgerCollector  # noqa: PLC0415
        from api.metrics.workers import WorkersCollector  # noqa: PLC0415

        signing = self.checkpoint_settings
        ledger = LedgerCollector(
            self.store,
            self.ledger_clock,
            None if signing is None else signing.verify,
            networks=self.networks,
            tenants=self.tenants.tenants or (),
            rules=lambda: [rule.name for rule in self.policy.rules],
        )
        return ledger, WorkersCollector(self.store, self.ledger_clock)

    @cached_property
    def access(self) -> "AccessPolicy":
        """Limits, audits and refuses requests."""
        from api.auth.authorization import AccessPolicy  # noqa: PLC0415
        from api.auth.rate_limits import RateLimits  # noqa: PLC0415

        limits = RateLimits.shared(
            self.store,
            refused=self.settings.rate_limit_refused,
            administration=self.settings.rate_limit_admin,
            client=self.settings.rate_limit_client,
            tenants=self.tenants.requests_per_minute(),
            clock=self.clock,
        )
        clock, tenants = self.ledger_clock, self.tenants
        return AccessPolicy(self.store, limits, self.audit, clock, tenants)

    @cached_property
    def proxies(self) -> "Sequence[IPNetwork]":
        """The networks of ``TRUSTED_PROXIES``."""
        return [ip_network(each) for each in self.settings.trusted_proxies]

    @cached_property
    def key_check(self) -> KeyCheck:
        """Tests the active key, unless it signed a moment ago."""
        # Ask the ring each time: the active key changes while the process runs.
        return KeyCheck(
            self.ring.self_test,
            lambda: self.ring.active().signer.last_signature_at,
            self.alerts,
        )

    @cached_property
    def readiness(self) -> Callable[[], Readiness]:
        """
        Checks the dependencies of the process, for ``/readyz``.

        A process that accepts refunds needs workers that prove the active key.  One
        that has the key tests it itself, and asks the nodes.
        """
        role = self.settings.serve_role
        checks: dict[str, Check] = {
            "database": self.store.check,
            "signing": signing_check(self.kill_switch.stops),
            "audit": sealing_check(
                self.store.oldest_unsealed,
                SealingMonitor(self.sealing_alert),
                max_seconds=self.settings.audit_unsealed_seconds,
                clock=self.clock,
            ),
        }
        # The administrators' process tests the key itself.
        proof = None if role is Role.ADMIN else self.store.active_key
        checks["worker"] = worker_check(self.store.workers, proof, self.ledger_clock)
        if self.settings.policy_dir is not None:
            checks["policy"] = policy_check(lambda: self.policy.problem)
        if role.has_key:
            for name, chain in self.chains.items():
                check = partial(check_chain, name, chain.network, chain.client)
                checks[f"network-{name}"] = check
                wallet = wallet_check(chain.client, self.store.active_key)
                checks[f"wallet-{name}"] = wallet
        key = self.key_check if role.has_key else None
        return ReadinessChecker(checks, key, self.store.active_key)

    def start_sealer(self) -> None:
        """Seal audit records in a background thread until the process ends."""
        sealer = Sealer(
            self.store,
            self.checkpoint_settings,
            self.alerts,
            self.clock,
            audit=self.audit,
            sealing_alert=self.sealing_alert,
        )
        _start_thread(partial(sealer.run, Event().wait), "sealer")

    def start_webhooks(self) -> None:
        """Sequence and send events in a background thread until the process ends."""
        _start_thread(partial(self.webhook_dispatcher.run, lambda: False), "webhooks")

    def start_worker_monitor(self) -> None:
        """Watch the workers in a background thread until the process ends."""
        monitor = WorkerMonitor(self.store, self.alerts, self.ledger_clock)
        _start_thread(partial(monitor.run, Event().wait), "worker-monitor")

    def start_shared_meter(self) -> None:
        """Store the counts of the meter in a background thread until this ends."""
        run, clock = self.shared_meter.run, self.ledger_clock
        _start_thread(partial(run, self.store, clock, Event().wait), "shared-meter")

    def start_policy_reload(self, accept: Callable[[Rules], Configuration]) -> None:
        """
        Apply changed rules in a background thread until the process ends.

        *accept* records that rules are in force, as ``PolicyReload`` does it.
        """
        directory = self.settings.policy_dir
        if directory is None:
            return
        reload = PolicyReload(
            self.policy,
            self.policy_files,
            read=partial(read_policy_files, directory),
            prepare=partial(self.prepare_policy, directory),
            accept=accept,
            audit=self.audit,
            alerts=self.alerts,
        )
        _start_thread(partial(reload.run, Event().wait), "policy-reload")

    def start_wallet_monitor(self) -> None:
        """Watch funds and nodes in a background thread until this worker ends."""
        monitor = WalletMonitor(
            self.store,
            self.chains,
            self.alerts,
            name=self.heartbeat.name,
            clock=self.ledger_clock,
            meter=self.meter,
        )
        _start_thread(partial(monitor.run, Event().wait), "wallet-monitor")


def _start_thread(run: Callable[[], None], name: str) -> None:
    """Start *run* in a daemon: it may end at any line, the store stays consistent."""
    Thread(target=run, name=name, daemon=True).start()
