"""The policy of a running process, whose rules can be replaced."""

from collections.abc import Sequence

from signer.model.decision import Decision
from signer.policy.facts import AnyFacts
from signer.policy.policy import Approve, Policy, Rule
from signer.policy.rules import PolicyFile


class LivePolicy:
    """
    A policy that ``replace`` exchanges for another one; safe to use from many threads.

    One policy makes a whole decision, also if it is replaced meanwhile.  ``problem`` is
    why the rules in the files are not in force; None if they are.
    """

    def __init__(self, policy: Policy) -> None:
        self._current = policy
        self.problem: str | None = None

    def replace(self, policy: Policy) -> None:
        """Decide with *policy* from now on."""
        self._current = policy

    @property
    def files(self) -> Sequence[PolicyFile]:
        """The files with all rules."""
        return self._current.files

    @property
    def rules(self) -> Sequence[Rule]:
        """The rules of all files."""
        return self._current.rules

    @property
    def own_files(self) -> Sequence[PolicyFile]:
        """The files of the operator."""
        return self._current.own_files

    @property
    def reads_totals(self) -> bool:
        """Whether a rule may read what was paid before."""
        return self._current.reads_totals

    @property
    def is_extended(self) -> bool:
        """Whether an operator has rules beside the default."""
        return self._current.is_extended

    @property
    def has_approvals(self) -> bool:
        """Whether a rule can demand approvals."""
        return self._current.has_approvals

    @property
    def hash(self) -> str:
        """The SHA-256 of the schema and all files, in hex."""
        return self._current.hash

    @property
    def short_hash(self) -> str:
        """The start of ``hash``, as signing records contain it."""
        return self._current.short_hash

    def evaluate(self, facts: AnyFacts) -> Decision:
        """Return whether *facts* may be signed; as ``Policy.evaluate``."""
        return self._current.evaluate(facts)

    def require(self, facts: AnyFacts, approve: Approve | None = None) -> Decision:
        """Return the decision that *facts* may be signed; as ``Policy.require``."""
        return self._current.require(facts, approve)

    def count(self, facts: AnyFacts, decision: Decision) -> None:
        """Count *decision* about *facts*; as ``Policy.count``."""
        self._current.count(facts, decision)


AnyPolicy = Policy | LivePolicy
