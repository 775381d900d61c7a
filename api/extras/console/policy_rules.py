"""Which rules are in force, what they decided, and the state of the deny list."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.metrics.metric_names import DECISIONS
from api.metrics.shared_meter import read_shared
from signer.config.deny_list import DenyList
from signer.errors import ScreeningUnavailableError
from signer.policy.live_policy import AnyPolicy
from signer.ports.shared_state import SharedState


@dataclass(frozen=True, slots=True)
class RuleFile:
    """The rules of one file; ``is_own`` if the operator wrote them."""

    name: str
    text: str
    rules: Sequence[str]
    is_own: bool


@dataclass(frozen=True, slots=True)
class Decided:
    """How often a rule decided in one way about one path, since the database exists."""

    rule: str
    verdict: str
    path: str
    number: int


@dataclass(frozen=True, slots=True)
class DenyListState:
    """How many addresses the deny list has, or why it cannot be used."""

    addresses: int = 0
    problem: str | None = None


def read_rule_files(policy: AnyPolicy) -> Sequence[RuleFile]:
    """Return the files of *policy*, as they are in force now."""
    return [
        RuleFile(
            file.name,
            file.text.strip(),
            list(
                dict.fromkeys(
                    rule.name
                    for rule in policy.rules
                    if rule.statement.file == file.name
                )
            ),
            file in policy.own_files,
        )
        for file in policy.files
    ]


def count_decisions(counters: SharedState) -> Sequence[Decided]:
    """Return what was decided in all processes, the most frequent first."""
    decisions = read_shared(counters.shared_counts()).of(DECISIONS)
    found = [
        Decided(rule, verdict, path, int(number))
        for (path, verdict, rule), number in decisions.items()
    ]
    return sorted(found, key=lambda each: (-each.number, each.rule, each.path))


def read_deny_list(deny_list: DenyList | None) -> DenyListState | None:
    """Return the state of *deny_list*; None without one."""
    if deny_list is None:
        return None
    try:
        return DenyListState(len(deny_list.addresses()))
    except ScreeningUnavailableError as e:
        return DenyListState(problem=str(e))
