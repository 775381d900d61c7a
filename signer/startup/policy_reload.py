"""
Applies changed rules of ``POLICY_DIR`` in a running process, as a restart would.

Rules are applied if two looks in a row find the same files, which are valid and, in
production, approved by a second administrator.  Until then the rules in force stay in
force, and an alert is raised.
"""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass

import structlog

from signer.alerts import Alert, Alerts
from signer.audit.log import AuditLog
from signer.config.digest import Configuration
from signer.errors import ConfigurationError
from signer.loops import Wait, repeat
from signer.policy.policy import LivePolicy, Policy


LOOK_SECONDS = 5.0
"""How often the files are read."""

Rules = Mapping[str, str]
"""The texts of an operator's own rules, by file."""

_Problem = tuple[str, Rules]
"""A refusal's code, and the rules that the files had last."""


@dataclass(eq=False, repr=False)
class PolicyReload:
    """
    Replaces the rules of *policy*; one thread calls ``look``.

    *in_force* has the own rules that *policy* was made from, and *read* returns those
    in the files now.  *prepare* compiles rules, if they are approved: a party that can
    only write files must not choose what is compiled.  *accept* records in the audit
    log that they are in force, and returns the new configuration.  All three raise
    ``ConfigurationError`` if the rules cannot be used.
    """

    policy: LivePolicy
    in_force: Rules
    _: KW_ONLY
    read: Callable[[], Rules]
    prepare: Callable[[Rules], Policy]
    accept: Callable[[Rules], Configuration]
    audit: AuditLog
    alerts: Alerts

    def __post_init__(self) -> None:
        self._seen = self.in_force
        self._found: _Problem | None = None
        self._log = structlog.get_logger("policy")

    def run(self, wait: Wait) -> None:
        """Look until *wait* returns true; it gets the seconds until the next look."""
        # Delayed: the ledger does not answer, or other processes keep changing it.
        event = "policy-reload-delayed"
        repeat(self.look, wait, LOOK_SECONDS, log=self._log, event=event)

    def look(self) -> None:
        """
        Read the files once, and apply their rules if they are due.

        Raises:
            StoreError: The ledger does not answer; nothing was replaced.
        """
        try:
            rules = self.read()
            # A program may have written only some of the files yet.
            is_settled, self._seen = rules == self._seen, rules
            if rules == self.in_force:
                self._end_problem()
            elif is_settled:
                self._apply(rules)
        except ConfigurationError as e:
            self._report(str(e), e.refusals[0].code)

    def _apply(self, rules: Rules) -> None:
        policy = self.prepare(rules)
        # A process that dies after this has recorded rules under which it signed
        # nothing.  In the other order, a signature could lack the record of its rules.
        configuration = self.accept(rules)
        self.policy.replace(policy)
        self.audit.use_configuration(configuration.short)
        self.in_force = rules
        self._log.info(
            "policy-reloaded",
            policy=policy.hash,
            configuration=configuration.hash,
            files=", ".join(rules),
        )
        self._end_problem()

    def _report(self, problem: str, code: str) -> None:
        """Raise the alert about a *problem* that two looks in a row have found."""
        # Not the text: Cedar lists the mistakes of a rule in any order.
        found = code, self._seen
        is_lasting, self._found = found == self._found, found
        if not is_lasting:
            return
        self.policy.problem = problem
        alert = Alert.POLICY_NOT_RELOADED
        about = code, *sorted((self._seen or {}).items())
        self.alerts.remind(alert, about, code=code, problem=problem)

    def _end_problem(self) -> None:
        self._found = None
        if self.policy.problem is not None:
            self.policy.problem = None
            self.alerts.resolve(Alert.POLICY_NOT_RELOADED)
            self._log.info("policy-in-force")
