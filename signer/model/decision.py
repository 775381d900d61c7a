"""What the policy decided about one signature."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from signer.errors import PolicyViolationError


_RULES, _COUNT, _GROUPS = "rules", "approvals", "approvers"
_BETWEEN = ", "


@dataclass(frozen=True, slots=True)
class ApprovalNeed:
    """
    How many people must approve one refund, and the rules that demand it.

    Each of *rules* is a name and the start of the SHA-256 of its text, so that a
    changed rule is another rule.  There are none if no rule demands it any more.  Each
    of the people must belong to all *groups*.
    """

    rules: frozenset[str] = frozenset()
    count: int = 1
    groups: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, facts: Mapping[str, Any]) -> Self:
        """
        Return the need that a proposal with *facts* names.

        Raises:
            ValueError: It names no number.
        """
        if _RULES not in facts:
            return cls()
        rules = str(facts[_RULES]).split(_BETWEEN)
        groups = str(facts[_GROUPS]).split(_BETWEEN) if _GROUPS in facts else ()
        return cls(frozenset(rules), int(str(facts.get(_COUNT))), frozenset(groups))

    @property
    def facts(self) -> Mapping[str, str]:
        """What a proposal has of it: nothing without rules."""
        if not self.rules:
            return {}
        facts = {_RULES: _BETWEEN.join(sorted(self.rules)), _COUNT: str(self.count)}
        if self.groups:
            facts[_GROUPS] = _BETWEEN.join(sorted(self.groups))
        return facts

    @property
    def rule(self) -> str:
        """The name of the rule that demands it, the first one if there are several."""
        return min(self.rules, default="").partition("@")[0]

    def covers(self, other: "ApprovalNeed") -> bool:
        """Return whether an approval of this need is one of *other* as well."""
        return (
            self.rules >= other.rules
            and self.count >= other.count
            and self.groups >= other.groups
        )


SHORT_DIGITS = 16
"""How many hex digits of the policy's hash the records of signatures contain."""


class Verdict(StrEnum):
    """Whether something may be signed."""

    ALLOW = "allow"
    REFUSE = "refuse"
    NEEDS_APPROVAL = "needs-approval"
    """Other people must agree first (``ApprovalNeed``)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """
    The verdict about one *digest* of 32 bytes, and no other.

    ``rules`` are the names of the rules that decided, the most important one first:
    those that permit it, or those that refuse it.  ``policy`` is the hash of the policy
    (SHA-256 in hex), and ``message`` is why it refuses.  ``need`` is what people must
    approve, if the verdict is ``NEEDS_APPROVAL`` or they have approved it.
    """

    verdict: Verdict
    rules: tuple[str, ...]
    policy: str
    digest: bytes = field(repr=False)
    message: str = ""
    need: ApprovalNeed | None = None

    def require_allowed(self) -> None:
        """Raise ``PolicyViolationError`` unless the verdict is ``ALLOW``."""
        if self.verdict is not Verdict.ALLOW:
            raise PolicyViolationError(self.message, rule=self.rule)

    @property
    def rule(self) -> str:
        """The rule that decided, and the first of them if there are several."""
        return self.rules[0]

    def allows(self, digest: bytes) -> bool:
        return self.verdict is Verdict.ALLOW and self.digest == digest

    def details(self) -> dict[str, str]:
        """Return what the audit record of the signature has."""
        return {"policy": self.policy[:SHORT_DIGITS], "rule": self.rule}
