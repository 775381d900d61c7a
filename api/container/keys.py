"""The keys, and what administrators do with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from api.container.policy import PolicyParts


if TYPE_CHECKING:
    from api.health.key_check import KeyCheck
    from signer.keys.failover import Failover
    from signer.keys.keyring import KeyRing
    from signer.keys.reinstatement import Reinstatement
    from signer.keys.revocation import Revocation
    from signer.keys.rotation import Rotation
    from signer.keys.signer import SignerFactory


@dataclass(kw_only=True, eq=False, repr=False)
class KeyParts(PolicyParts):
    """The ring of keys, its signers, and changes of keys."""

    @cached_property
    def ring(self) -> KeyRing:
        """The keys; an alert is raised when one of them does not sign."""
        from signer.keys.keyring import KeyRing
        from signer.keys.signer import SignerFactory
        from signer.keys.signing_alarm import SigningAlarm
        from signer.ports.meter import Meters

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
        from api.health.key_check import KeyCheck

        # Ask the ring each time: the active key changes while the process runs.
        return KeyCheck(
            self.ring.self_test,
            lambda: self.ring.active().signer.last_results,
            self.alerts,
        )

    @cached_property
    def rotation(self) -> Rotation:
        """Rotates the wallet to another key."""
        from signer.deadline import Deadlines
        from signer.keys.balances import BalanceReader
        from signer.keys.rotation import Rotation

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
        from signer.keys.revocation import Revocation

        return Revocation(
            self.store, audit=self.audit, clock=self.clock, approvals=self.approvals
        )

    @cached_property
    def reinstatement(self) -> Reinstatement:
        """Reinstates keys that were revoked by mistake; opens no device."""
        from signer.keys.reinstatement import Reinstatement

        return Reinstatement(
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
