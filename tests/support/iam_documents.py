"""
Parsed IAM policies in a normal form.

Action and condition names are in lower case, since IAM ignores their case; operators,
resources and principals are unchanged (IAM User Guide, "IAM JSON policy elements
reference").
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


Policy = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Statement:
    """
    One statement.

    ``conditions`` has the values by operator and key in lower case.  ``principals`` is
    empty in the policies of a role.
    """

    sid: str
    effect: str
    actions: frozenset[str]
    resources: tuple[str, ...]
    principals: frozenset[str]
    conditions: Mapping[tuple[str, str], list[str]]
    elements: frozenset[str]

    def values(self, operator: str, key: str) -> list[str]:
        """Return the values that *operator* compares with *key*."""
        return self.conditions.get((operator, key.lower()), [])


def parsed(text: str) -> Any:
    """
    Return the JSON value in *text*.

    Raises:
        ValueError: *text* is not JSON, or an object has a key twice.
    """
    return json.loads(text, object_pairs_hook=_unique)


def statements(policy: Policy, effect: str | None = None) -> list[Statement]:
    """Return the statements of *policy*, or those with one *effect*."""
    read = map(_statement, policy["Statement"])
    return [each for each in read if effect in (None, each.effect)]


def granted(policy: Policy) -> frozenset[str]:
    """Return the actions that *policy* allows, in lower case."""
    allowing = statements(policy, "Allow")
    return frozenset(action for each in allowing for action in each.actions)


def _statement(written: Mapping[str, Any]) -> Statement:
    return Statement(
        sid=str(written.get("Sid", "")),
        effect=str(written.get("Effect", "")),
        actions=frozenset(each.lower() for each in _listed(written.get("Action"))),
        resources=tuple(_listed(written.get("Resource"))),
        principals=_principals(written.get("Principal", {})),
        conditions=_conditions(written.get("Condition", {})),
        elements=frozenset(written),
    )


def _principals(written: Any) -> frozenset[str]:
    if isinstance(written, str):
        return frozenset({written})
    return frozenset(each for kind in written.values() for each in _listed(kind))


def _conditions(
    written: Mapping[str, Mapping[str, Any]],
) -> dict[tuple[str, str], list[str]]:
    read: dict[tuple[str, str], list[str]] = {}
    for operator, keys in written.items():
        for key, value in keys.items():
            # A key in two spellings has two values, which no rule expects.
            read.setdefault((operator, key.lower()), []).extend(_listed(value))
    return read


def _listed(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("an object has a key twice")
    return dict(pairs)
