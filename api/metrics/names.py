"""
Bounds what labels can be.

Only networks, tenants and rules of the configuration have their names.
"""

from collections.abc import Callable, Collection

from signer.model.refund import FILLER, SWEEPER
from signer.policy.rules import RULES


OTHER = "other"
"""Stands for every name that is not configured."""

_FIXED_RULES = frozenset(RULES)

_MOST_CODES = 100
_CODES = frozenset({"backend", "blocker", "code", "outcome"})


class Names:
    """What may be labels: networks, tenants and rules, and the codes seen so far."""

    def __init__(
        self,
        networks: Collection[str],
        tenants: Collection[str],
        rules: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """
        Know *networks*, *tenants*, and *rules* besides those of this project.

        *rules* returns the names that are in force now.
        """
        self._networks = frozenset(networks)
        self._tenants = frozenset({*tenants, SWEEPER, FILLER})
        self._rules = rules
        self._codes: set[str] = set()

    def network(self, name: str) -> str:
        """Return *name*, or ``OTHER`` if the networks file does not have it."""
        return name if name in self._networks else OTHER

    def tenant(self, name: str) -> str:
        """Return *name*, or ``OTHER`` if the tenants file does not have it."""
        return name if name in self._tenants else OTHER

    def rule(self, name: str) -> str:
        """Return *name*, or ``OTHER`` if the policy has no such rule now."""
        is_known = name in _FIXED_RULES or name in self._rules()
        return name if is_known else OTHER

    def code(self, name: str | None) -> str:
        """Return *name*, "" for None, or ``OTHER`` after a hundred codes."""
        if not name or name in self._codes:
            return name or ""
        if len(self._codes) >= _MOST_CODES:
            return OTHER
        self._codes.add(name)
        return name

    def bound(self, label: str, value: str) -> str:
        """Return *value* of *label*, or ``OTHER`` if it could be anything."""
        if label == "network":
            return self.network(value)
        if label == "tenant":
            return self.tenant(value)
        if label == "rule":
            return self.rule(value)
        return self.code(value) if label in _CODES else value
