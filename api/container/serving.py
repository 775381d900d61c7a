"""What every request passes, and what probes and metrics read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from api.container.administration import AdministrationParts


if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from api.auth.authorization import AccessPolicy
    from api.auth.jwt_verifier import JWTVerifier
    from api.health.readiness import Check, Readiness


@dataclass(kw_only=True, eq=False, repr=False)
class ServingParts(AdministrationParts):
    """Authentication, access, readiness and metrics."""

    @cached_property
    def authenticator(self) -> JWTVerifier:
        """Verifies bearer tokens."""
        from api.auth.jwt_verifier import JWTVerifier

        return JWTVerifier(
            self.jwt_keys,
            issuer=self.settings.jwt_issuer,
            audience=self.settings.jwt_audience,
            clock=self.clock,
        )

    @cached_property
    def access(self) -> AccessPolicy:
        """Limits, audits and refuses requests."""
        from api.auth.authorization import AccessPolicy
        from api.auth.rate_limits import RateLimits

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
    def readiness(self) -> Callable[[], Readiness]:
        """
        Checks the dependencies of the process, for ``/readyz``.

        A process that accepts refunds needs workers that prove the active key.  One
        that has the key tests it itself.  No process asks a node: workers record what
        they see.
        """
        from api.health.readiness import (
            ReadinessChecker,
            network_check,
            policy_check,
            sealing_check,
            signing_check,
            wallet_check,
            worker_check,
        )
        from api.metrics.workers import read_network_looks
        from signer.audit.sealing_monitor import SealingMonitor
        from signer.config.settings import Role
        from signer.model.worker_row import find_running

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
        workers, clock, read = self.store.workers, self.ledger_clock, read_network_looks

        def is_delegated(name: str) -> bool:
            look = read(find_running(workers(), clock())).get(name)
            return role.has_key and look is not None and look.is_delegated

        for name, chain in self.chains.items():
            checks[f"wallet-{name}"] = wallet_check(
                chain.network.chain_id,
                self.store.wallets,
                self.store.keys,
                partial(is_delegated, name),
            )
            if role.has_key:
                checks[f"network-{name}"] = network_check(name, workers, read, clock)
        key = self.key_check if role.has_key else None
        return ReadinessChecker(
            checks, key, self.store.active_key, needs_key=role is not Role.ADMIN
        )

    @cached_property
    def collectors(self) -> Sequence[Collector]:
        """Read what ``/metrics`` reports."""
        from api.metrics.ledger import LedgerCollector
        from api.metrics.workers import WorkersCollector

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
    def figures(self) -> Collector:
        """CPU, memory and connections of this server, for ``/metrics``."""
        from api.metrics.process import server_figures

        return server_figures(self.store.connections)
