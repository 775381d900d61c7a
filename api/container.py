"""
The parts of one process, each made when it is first used.

This module imports what a command loads anyway.  A part whose modules load a slow
library imports them when it is made, such as one for calldata, curves, rules or tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from ipaddress import ip_network
from typing import TYPE_CHECKING

from api import backend_factories as backends
from api.extension import find_service
from api.logs import audit_logger
from api.plugins import check_plugin, load_plugin
from signer.alerts import RUNBOOKS, Alerts
from signer.approvals import Approvals
from signer.audit.checkpointer import Checkpointer
from signer.audit.log import AuditLog
from signer.audit.sealer import Sealer, SealingAlert
from signer.audit.shipping import ShippingCondition
from signer.config.deny_list import DenyList
from signer.config.digest import Configuration, read_configuration
from signer.config.networks import Network, load_networks
from signer.config.policy_files import read_policy_files
from signer.config.settings import Settings
from signer.config.tenants import TenantRegistry, check_tenants, load_tenants
from signer.errors import ConfigurationError, Refusal
from signer.keys.admin_audit import AdminAudit
from signer.keys.revocation import Revocation
from signer.model.approvers import Approvers, load_approvers
from signer.model.audit_record import Operation
from signer.ports.backend_plugin import BackendConfig, BackendPlugin
from signer.ports.clock import Clock, LedgerClock, utc_now
from signer.ports.key_backend import KeyDirectory
from signer.ports.ledger import Ledger
from signer.ports.meter import Meter, Meters
from signer.ports.outside_services import (
    NodeProxy,
    Notifier,
    ScreeningService,
    WebhookSender,
)
from signer.refunds.hold_admin import Holds
from signer.refunds.standby import Standby
from signer.refunds.worker_monitor import Heartbeat
from signer.startup.policy_approval import LimitsGuard
from signer.webhooks.delivery_admin import DeliveryAdmin
from signer.webhooks.endpoint import Endpoints
from signer.webhooks.signatures import WebhookPublicKey


if TYPE_CHECKING:
    from api.auth.authorization import AccessPolicy
    from api.auth.jwt_verifier import JWTVerifier
    from api.auth.verification_keys import KeySource
    from api.health.readiness import KeyCheck, Readiness
    from api.metrics.shared_meter import SharedMeter
    from api.metrics.worker_meter import WorkerMeter
    from api.principal import Network as IPNetwork
    from signer.audit.checkpointer import CheckpointSettings
    from signer.chain.chain import Chain
    from signer.keys.failover import Failover
    from signer.keys.keyring import KeyRing
    from signer.keys.rotation import Rotation
    from signer.keys.signer import SignerFactory
    from signer.keys.vault_operators import VaultOperators
    from signer.policy.policy import LivePolicy, Policy
    from signer.refunds.explanation import Explainer
    from signer.refunds.nonce_admin import NonceAdmin
    from signer.refunds.payment_policy import PaymentPolicy
    from signer.refunds.service import RefundService
    from signer.refunds.sweep import Sweeper
    from signer.refunds.worker import Worker
    from signer.row_macs import RowMACs
    from signer.startup.policy_reload import Rules


@dataclass(kw_only=True, eq=False, repr=False)
class Container:
    """
    Opens and joins the parts of one process; make it after the fork.

    A part is made when it is first used and then kept, so a command opens only what it
    needs: ``store`` and ``chains`` need no key, ``rotation`` does not need the old key,
    and only a process that checks tokens reads ``jwt_keys``.  A part raises
    ``ConfigurationError`` if it cannot be opened.
    """

    environ: Mapping[str, str]
    clock: Clock = utc_now
    is_worker: bool = False
    warnings: Sequence[str] = ()  # Of the guard.

    # What is read from the environment and from files.

    @cached_property
    def settings(self) -> Settings:
        return Settings.from_env(self.environ)

    @cached_property
    def networks(self) -> Mapping[str, Network]:
        return load_networks(self.settings.networks_file)

    @cached_property
    def tenants(self) -> TenantRegistry:
        """The tenants of ``TENANTS_FILE``; their limits fit the networks."""
        registry = load_tenants(self.settings.tenants_file, self.settings.jwt_audience)
        check_tenants(registry, self.networks)
        return registry

    @cached_property
    def backend_plugin(self) -> BackendPlugin:
        return load_plugin(self.settings.backend_name)

    @property
    def key_name(self) -> str:
        """The key that the configuration names: KMS_KEY_ID or PKCS11_KEY_ID."""
        config = BackendConfig(self.settings, self.environ)
        return self.backend_plugin.key_name(config)

    def check_backend(self, settings: Settings, *, serving: bool = True) -> list[str]:
        """
        Let the plugin check its settings, as in the environment of *settings*.

        It returns warnings.  A process that has no key loads no plugin.
        """
        if serving and not settings.serve_role.has_key:
            return []
        config = BackendConfig(settings, self.environ)
        forbidden = check_plugin(self.backend_plugin, config)
        if forbidden is None:
            return []
        return [f"NOT SAFE FOR PRODUCTION: {forbidden.message}"]

    @cached_property
    def row_macs(self) -> RowMACs:
        macs = backends.open_row_macs(self.settings)
        if macs is None:
            raise ConfigurationError(Refusal("mac-key-missing", "set MAC_KEY_FILE"))
        return macs

    @cached_property
    def checkpoint_settings(self) -> CheckpointSettings | None:
        """How audit checkpoints are signed; None in production without a key."""
        return backends.open_checkpoint_key(self.settings)

    @cached_property
    def deny_list(self) -> DenyList | None:
        path = self.settings.deny_list_file
        return None if path is None else DenyList(path)

    @cached_property
    def proxies(self) -> Sequence[IPNetwork]:
        return [ip_network(each) for each in self.settings.trusted_proxies]

    @cached_property
    def policy_files(self) -> Mapping[str, str]:
        """The operator's own rules of ``POLICY_DIR``: texts by file."""
        return read_policy_files(self.settings.policy_dir)

    @cached_property
    def approvers(self) -> Approvers | None:
        """The people who approve with keys of their own, if APPROVERS_FILE has any."""
        return load_approvers(self.settings.approvers_file)

    @property
    def required_approvers(self) -> Approvers:
        """The same; raises ``ConfigurationError`` without the file."""
        if self.approvers is None:
            raise ConfigurationError(
                Refusal("approvers-missing", "set APPROVERS_FILE: no person has a key")
            )
        return self.approvers

    @cached_property
    def configuration(self) -> Configuration:
        return self.build_configuration(self.policy_files)

    def build_configuration(self, rules: Rules) -> Configuration:
        tenants = self.tenants.tenants or {}
        approvers = {} if self.approvers is None else self.approvers.document
        return read_configuration(
            self.settings, self.networks, tenants, rules, approvers
        )

    @cached_property
    def webhook_endpoints(self) -> Endpoints:
        from api.key_files import open_endpoints

        return open_endpoints(self.settings, self.tenants)

    @cached_property
    def webhook_public_keys(self) -> Sequence[WebhookPublicKey]:
        from api.key_files import open_public_keys

        return open_public_keys(self.settings)

    # The database, device, nodes and services that the process talks to.

    @cached_property
    def store(self) -> Ledger:
        return backends.open_store(self.settings)

    @cached_property
    def ledger_clock(self) -> Clock:
        """The clock by which all hosts date refunds: the ledger's."""
        return LedgerClock(self.store.now)

    @cached_property
    def backend(self) -> KeyDirectory:
        """The device that holds the keys; opening it sends no request."""
        return backends.open_backend(
            self.settings, self.environ, is_worker=self.is_worker
        )

    @cached_property
    def chains(self) -> Mapping[str, Chain]:
        """A client of each network, by name; opening them sends no request."""
        return backends.open_chains(self.networks, self._observe_node)

    @cached_property
    def tenants_chains(self) -> Mapping[str, Chain]:
        """
        A client of each network for what tenants ask.

        It has connections and reputations of its own: what a tenant asks can exhaust
        neither those of ``/readyz`` nor make the process distrust a node.
        """
        return backends.open_chains(self.networks, self._observe_node)

    def _observe_node(
        self, network: str, node: str, calls: Sequence[tuple[str, str]], seconds: float
    ) -> None:
        if "meter" in self.__dict__:  # A command measures nothing.
            self.meter.called(network, node, calls, seconds)

    @cached_property
    def node_proxies(self) -> Mapping[str, NodeProxy]:
        return backends.open_node_proxies(self.networks)

    @cached_property
    def notifier(self) -> Notifier | None:
        return backends.open_notifier(self.settings)

    @cached_property
    def jwt_keys(self) -> KeySource:
        return backends.open_token_keys(self.settings)

    @cached_property
    def webhook_sender(self) -> WebhookSender:
        return backends.open_webhook_sender(self.settings)

    @cached_property
    def screening(self) -> ScreeningService | None:
        """The service that screens recipients, if one is configured."""
        open_service = find_service("screening", self.environ)
        return None if open_service is None else open_service(self)

    # What records, measures and alerts.

    @cached_property
    def audit(self) -> AuditLog:
        configuration = None
        with suppress(ConfigurationError):  # Operators act without a networks file too.
            configuration = self.configuration.short
        longest = self.settings.audit_ship_max_lag
        return AuditLog(
            audit_logger(),
            self.clock,
            journal=self.store,
            configuration=configuration,
            require_shipped=None
            if longest is None
            else ShippingCondition(
                self.store, timedelta(seconds=longest), self.ledger_clock
            ),
        )

    @cached_property
    def alerts(self) -> Alerts:
        return Alerts(
            self.store,
            self.notifier,
            self.clock,
            record=lambda alert, facts: self.audit.write(
                self.audit.alert(alert, facts)
            ),
            runbooks=self.settings.runbook_url or RUNBOOKS,
            environment=str(self.settings.app_env),
            source=f"hotwallet/{self.settings.audit_origin}",
        )

    @cached_property
    def sealing_alert(self) -> SealingAlert:
        """The alert of late sealing, which the sealer and ``/readyz`` share."""
        return SealingAlert(self.alerts)

    @cached_property
    def sealer(self) -> Sealer:
        """Seals audit records, in the process that leads."""
        settings = self.checkpoint_settings
        return Sealer(
            Checkpointer(self.store, settings, self.alerts, self.clock),
            audit=self.audit,
            sealing_alert=self.sealing_alert,
            patience=self.standby,
        )

    @cached_property
    def meter(self) -> WorkerMeter:
        """Measures what this process does; only a worker stores it."""
        from api.metrics.process import worker_figures
        from api.metrics.readings import Names
        from api.metrics.worker_meter import WorkerMeter

        networks, tenants = frozenset[str](), frozenset[str]()
        with suppress(ConfigurationError):  # Operators act without the files too.
            networks = frozenset(self.networks)
            tenants = frozenset(self.tenants.tenants or ())
        figures = worker_figures(self.store.connections)
        return WorkerMeter(Names(networks, tenants), figures=figures)

    @cached_property
    def shared_meter(self) -> SharedMeter:
        from api.metrics.shared_meter import SharedMeter

        return SharedMeter()

    def with_traces(self, meter: Meter) -> Meter:
        """Return *meter*, and what traces refunds if that is configured."""
        open_service = find_service("tracer", self.environ)
        return meter if open_service is None else Meters(meter, open_service(self))

    # The rules in force, and who must approve changes of them.

    @cached_property
    def approvals(self) -> Approvals:
        return Approvals(
            self.store,
            self.audit,
            self.alerts,
            self.ledger_clock,
            required=self.settings.needs_approvals,
            approvers=self.approvers,
        )

    @cached_property
    def limits_guard(self) -> LimitsGuard:
        return self.build_limits_guard(self.configuration)

    def build_limits_guard(self, configuration: Configuration) -> LimitsGuard:
        return LimitsGuard(
            self.store,
            self.approvals,
            self.audit,
            configuration,
            clock=self.ledger_clock,
        )

    @cached_property
    def policy(self) -> LivePolicy:
        """What may be signed: the rules of this project and the operator's own."""
        from signer.policy.policy import LivePolicy

        return LivePolicy(self.compile_policy(self.policy_files))

    @property
    def configuration_in_force(self) -> Configuration:
        return self.build_configuration(
            {file.name: file.text for file in self.policy.own_files}
        )

    def compile_policy(self, rules: Rules) -> Policy:
        """Return the policy with the own *rules*, texts by file."""
        from signer.policy.default_rules import service_files
        from signer.policy.policy import Policy
        from signer.policy.rules import PolicyFile

        own = [PolicyFile(name, text) for name, text in rules.items()]
        defaults = service_files(self.networks, self.tenants)
        return Policy.compile(defaults, own, self.shared_meter)

    @cached_property
    def payment_policy(self) -> PaymentPolicy:
        """The policy, asked about the transactions of refunds; it needs no key."""
        from signer.refunds.payment_policy import PaymentPolicy

        return PaymentPolicy(
            self.policy,
            self.ring,
            self.ledger_clock,
            self.tenants,
            deny_list=self.deny_list,
            totals=self.store.payment_totals,
            screening=self.screening,
            approvers=self.approvers,
        )

    # The keys, and what administrators change.

    @cached_property
    def ring(self) -> KeyRing:
        """The keys; an alert is raised when one of them does not sign."""
        from signer.keys.keyring import KeyRing
        from signer.keys.signer import SignerFactory
        from signer.keys.signing_alarm import SigningAlarm

        alarm = SigningAlarm(self.alerts)
        meter = Meters(self.meter, self.shared_meter)
        return KeyRing(
            self.store,
            lambda key: SignerFactory(self.backend, self.audit, alarm, meter).open(key),
        )

    @cached_property
    def signers(self) -> SignerFactory:
        """Opens signers for administrators; they raise alerts of their own."""
        from signer.keys.signer import SignerFactory

        return SignerFactory(self.backend, self.audit)

    @cached_property
    def key_check(self) -> KeyCheck:
        """Tests the active key, unless it signed a moment ago."""
        from api.health.readiness import KeyCheck

        # Ask the ring each time: the active key changes while the process runs.
        return KeyCheck(
            self.ring.self_test,
            lambda: self.ring.active().signer.last_results,
            self.alerts,
        )

    @cached_property
    def rotation(self) -> Rotation:
        from signer.deadline import Deadlines
        from signer.keys.balances import BalanceReader
        from signer.keys.rotation import Rotation

        return Rotation(
            self.store,
            self.signers,
            read_balances=BalanceReader(self.chains, Deadlines()),
            require_operator=self.vault_operators.require,
            alerts=self.alerts,
            clock=self.clock,
            needs_funds=self.settings.rotation_needs_funds,
            approvals=self.approvals,
        )

    @cached_property
    def vault_operators(self) -> VaultOperators:
        """Asks the vaults which keys may pay; create it after a fork."""
        from signer.deadline import Deadlines
        from signer.keys.vault_operators import VaultOperators

        return VaultOperators(self.chains, Deadlines())

    @cached_property
    def revocation(self) -> Revocation:
        """Revokes former keys, and reinstates them; opens no device."""
        return Revocation(
            self.store,
            audit=self.audit,
            clock=self.ledger_clock,
            approvals=self.approvals,
        )

    @cached_property
    def failover(self) -> Failover:
        """Pins keys to their replicas in another region; does not need the old one."""
        from signer.keys.failover import Failover

        return Failover(self.store, self.signers, alerts=self.alerts, clock=self.clock)

    @cached_property
    def administration(self) -> AdminAudit:
        return AdminAudit(
            self.audit, Operation.ADMINISTRATION, approvals=self.approvals
        )

    @cached_property
    def holds(self) -> Holds:
        """Stops signatures and blocks tenants; needs no device, node or file for it."""
        return Holds(
            self.store,
            lambda: self.networks,
            lambda: self.tenants,
            self.administration,
            alerts=self.alerts,
            clock=self.ledger_clock,
        )

    @cached_property
    def nonce_admin(self) -> NonceAdmin:
        from signer.refunds.nonce_admin import NonceAdmin

        return NonceAdmin(self.store, self.chains, self.administration, self.clock)

    @cached_property
    def delivery_admin(self) -> DeliveryAdmin:
        return DeliveryAdmin(
            self.store, self.tenants, self.administration, self.ledger_clock
        )

    @cached_property
    def sweeper(self) -> Sweeper:
        from signer.refunds.sweep import Sweeper

        return Sweeper(
            self.store,
            self.ring,
            self.chains,
            audit=self.audit,
            clock=self.ledger_clock,
        )

    # What answers callers about refunds and signatures.

    @cached_property
    def authenticator(self) -> JWTVerifier:
        from api.auth.jwt_verifier import JWTVerifier

        return JWTVerifier(
            self.jwt_keys,
            issuer=self.settings.jwt_issuer,
            audience=self.settings.jwt_audience,
            clock=self.clock,
        )

    @cached_property
    def access(self) -> AccessPolicy:
        from api.auth.authorization import AccessPolicy, RateLimits

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

    def wallets(self) -> list[str]:
        """Return the addresses of the keys that were read last."""
        return [key.address for key in self.ring.cached_keys()]

    @cached_property
    def refunds(self) -> RefundService:
        from signer.refunds.acceptance import RefundAcceptor
        from signer.refunds.service import RefundService

        acceptor = RefundAcceptor(
            self.store,
            self.networks,
            audit=self.audit,
            wallets=self.wallets,
            clock=self.ledger_clock,
            tenants=self.tenants,
            alerts=self.alerts,
            policy=self.payment_policy,
            meter=self.with_traces(self.shared_meter),
        )
        return RefundService(acceptor)

    @cached_property
    def explainer(self) -> Explainer:
        from signer.refunds.explanation import Explainer

        chains, clock = self.tenants_chains, self.ledger_clock
        return Explainer(self.store, chains, clock, self.tenants)

    @cached_property
    def readiness(self) -> Callable[[], Readiness]:
        from api.process_parts import open_readiness

        return open_readiness(self)

    @cached_property
    def worker(self) -> Worker:
        from api.process_parts import open_worker

        return open_worker(self)

    @cached_property
    def standby(self) -> Standby:
        """Returns for how long to leave work to the worker that leads."""
        name = self.heartbeat.name if self.is_worker else ""
        return Standby(self.store, name, self.ledger_clock)

    @cached_property
    def heartbeat(self) -> Heartbeat:
        return Heartbeat(self.store, self.ledger_clock, self.meter.text)
