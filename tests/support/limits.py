"""Processes that start with different networks files, where two people must agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from signer.alerts import Alerts
from signer.approvals import Approvals
from signer.audit.configurations import Start, record_start
from signer.audit.log import AuditLog
from signer.config.digest import NO_FILES, Configuration
from signer.config.networks import Network
from signer.errors import ApprovalRequiredError
from signer.model.approvers import Approvers
from signer.model.audit_record import WORKER, Actor
from signer.ports.clock import Clock, utc_now
from signer.ports.ledger import Ledger
from signer.startup.policy_approval import LimitsGuard
from tests.support.ledgers import seal
from tests.support.ring import SILENCE


ALICE, BOB = Actor("token:alice"), Actor("token:bob")

WHY = "the season begins"


def configuration(
    amount: str,
    rules: Mapping[str, str] = NO_FILES,
    approvers: Mapping[str, Any] = NO_FILES,
    **changes: Any,
) -> Configuration:
    network = {
        "chain_id": 31337,
        "rpc_urls": ["http://127.0.0.1:9"],
        "tokens": {
            "TUSD": {
                "address": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
                "decimals": 6,
                "max_amount": amount,
            }
        },
        **changes,
    }
    networks = {"local": Network.model_validate(network)}
    others = {"policy": rules, "approvers": approvers}
    given = {name: each for name, each in others.items() if each}
    return Configuration.of(limits={}, networks=networks, tenants={}, **given)


@dataclass
class Hosts:
    """Hosts of one *store*: each has a file of its own, and processes that start."""

    store: Ledger
    clock: Clock = utc_now
    required: bool = True
    approvers: Mapping[str, Any] = field(default_factory=dict)  # Their file now.

    @property
    def audit(self) -> AuditLog:
        """The audit log of a process that starts now."""
        return AuditLog(SILENCE, self.clock, journal=self.store)

    def approvals(self) -> Approvals:
        """Return the approvals of a process that starts now."""
        alerts = Alerts(self.store)
        return Approvals(
            self.store,
            self.audit,
            alerts,
            self.clock,
            required=self.required,
            approvers=Approvers.parse(self.approvers) if self.approvers else None,
        )

    def guard(
        self,
        amount: str = "1000",
        store: Any = None,
        rules: Mapping[str, str] = NO_FILES,
    ) -> LimitsGuard:
        """Return the guard of a process with a file that allows *amount*."""
        store = store or self.store
        return LimitsGuard(
            store,
            self.approvals(),
            self.audit,
            configuration(amount, rules, self.approvers),
            clock=self.clock,
        )

    def start(
        self,
        amount: str,
        process: str = "worker",
        rules: Mapping[str, str] = NO_FILES,
        *,
        is_reload: bool = False,
    ) -> Configuration:
        """
        Start a process with a file that allows *amount*, and return its configuration.

        With *is_reload* the process runs, and applies other *rules*.
        """
        guard = self.guard(amount, rules=rules)
        loaded = configuration(amount, rules, self.approvers)
        guard.require_approved()
        if process == "worker":
            guard.accept(WORKER, rules_only=is_reload)
        record_start(self.audit, self.store, Start(process, "1", "test"), loaded)
        return loaded

    def ask(self, amount: str, rules: Mapping[str, str] = NO_FILES) -> str:
        """Ask for a raise to *amount*; return the digest of the proposal."""
        with pytest.raises(ApprovalRequiredError) as refused:
            self.guard(amount, rules=rules).request(ALICE.because(WHY))
        return refused.value.digest

    def approve(self, amount: str, rules: Mapping[str, str] = NO_FILES) -> str:
        """Have a raise to *amount* approved; return the digest."""
        digest = self.ask(amount, rules)
        self.approvals().approve(digest, BOB.because(WHY))
        return digest

    def details(self, event: str) -> Sequence[dict[str, Any]]:
        """Return the details of all audit records of *event*."""
        while seal(self.store):
            pass
        records = [each.record.fields for each in self.store.sealed(0, 1000)]
        return [each["details"] for each in records if each["event"] == event]
