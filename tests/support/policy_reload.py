"""A running process that applies the rules of a folder, without its thread."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.config.digest import Configuration
from signer.config.policy_files import read_policy_files
from signer.policy.policy import LivePolicy, Policy
from signer.policy.rules import PolicyFile
from signer.startup.policy_reload import PolicyReload
from tests.support.limits import Hosts
from tests.support.policy import NETWORKS, TENANTS
from tests.support.refunds import FakeClock


@cache  # Compiling takes a while.
def _compile(rules: tuple[tuple[str, str], ...]) -> Policy:
    from signer.policy.default_rules import service_files  # noqa: PLC0415  Only here.

    own = [PolicyFile(name, text) for name, text in rules]
    return Policy.compile(service_files(NETWORKS, TENANTS), own)


def compiled(rules: Mapping[str, str]) -> Policy:
    """Return the policy of a service with the own *rules*, by file."""
    return _compile(tuple(rules.items()))


def write(folder: Path, **texts: str) -> None:
    """Make the files of rules in *folder* those of *texts*, by name."""
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.cedar"):
        path.unlink()
    for name, text in texts.items():
        (folder / f"{name}.cedar").write_text(text, encoding="utf-8")


@dataclass
class Process:
    """A process that has started with the rules of *folder*."""

    hosts: Hosts
    folder: Path
    kind: str = "worker"
    amount: str = "1000"
    clock: FakeClock = field(default_factory=FakeClock)
    compile: Callable[[Mapping[str, str]], Policy] = compiled

    def __post_init__(self) -> None:
        self.rules = read_policy_files(self.folder)
        self.policy = LivePolicy(compiled(self.rules))
        loaded = self.hosts.start(self.amount, self.kind, self.rules)
        self.audit.use_configuration(loaded.short)

    @cached_property
    def audit(self) -> AuditLog:
        return self.hosts.audit

    @cached_property
    def reload(self) -> PolicyReload:
        """What applies changed rules."""

        def accept(rules: Mapping[str, str]) -> Configuration:
            return self.hosts.start(self.amount, self.kind, rules, is_reload=True)

        def prepare(rules: Mapping[str, str]) -> Policy:
            self.hosts.guard(self.amount, rules=rules).require_approved()
            return self.compile(rules)

        return PolicyReload(
            self.policy,
            self.rules,
            read=lambda: read_policy_files(self.folder),
            prepare=prepare,
            accept=accept,
            audit=self.audit,
            alerts=Alerts(self.hosts.store, clock=self.clock),
        )

    def look(self, times: int = 2) -> str:
        """Let the process look at the files; return the hash of its policy."""
        for _ in range(times):
            self.reload.look()
        return str(self.policy.hash)
