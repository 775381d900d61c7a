"""Who must approve a refund, and which rules of the policy demand it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


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
