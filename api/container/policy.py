"""The rules in force, and who must approve changes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from api.container.observability import ObservabilityParts


if TYPE_CHECKING:
    from signer.approvals import Approvals
    from signer.config.digest import Configuration
    from signer.policy.live_policy import LivePolicy
    from signer.policy.policy import Policy
    from signer.startup.limits_guard import LimitsGuard
    from signer.startup.policy_reload import Rules


@dataclass(kw_only=True, eq=False, repr=False)
class PolicyParts(ObservabilityParts):
    """The policy and its limits; rules are compiled here."""

    @cached_property
    def approvals(self) -> Approvals:
        """Changes that another administrator must approve."""
        from signer.approvals import Approvals

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
        from signer.startup.limits_guard import LimitsGuard

        return LimitsGuard(
            self.store,
            self.store,
            self.approvals,
            self.audit,
            configuration,
            clock=self.ledger_clock,
        )

    @cached_property
    def policy(self) -> LivePolicy:
        """What may be signed: the rules of this project and the operator's own."""
        from signer.policy.live_policy import LivePolicy

        return LivePolicy(self.compile_policy(self.policy_files))

    @property
    def configuration_in_force(self) -> Configuration:
        """The configuration with the rules that are in force now."""
        rules = {file.name: file.text for file in self.policy.own_files}
        return self.build_configuration(rules)

    def compile_policy(self, rules: Rules) -> Policy:
        """
        Return the policy with the own *rules*, texts by file.

        Raises:
            ConfigurationError: ``policy-invalid``.
        """
        from signer.policy.default_rules import service_files
        from signer.policy.policy import Policy
        from signer.policy.policy_text import PolicyFile

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
        from signer.config.policy_files import read_own_examples

        configuration = self.build_configuration(rules)
        self.build_limits_guard(configuration).require_approved()
        policy, text = self.compile_policy(rules), read_own_examples(directory)
        if text is not None:
            self._check_examples(policy, text)
        return policy

    def _check_examples(self, policy: Policy, text: str) -> None:
        # It imports eth-account, which a process that accepts refunds does not need.
        from signer.policy.examples import require_examples
        from signer.policy.surroundings import KnownNetwork

        known = {
            name: KnownNetwork.of(name, network)
            for name, network in self.networks.items()
        }
        require_examples(policy, text, known, self.tenants)
