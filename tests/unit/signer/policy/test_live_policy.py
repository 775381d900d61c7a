"""A policy that is replaced while the process runs."""

import pytest

from signer.errors import PolicyViolationError
from signer.model.decision import Verdict
from signer.policy.facts import Path
from signer.policy.policy import LivePolicy
from tests.support.approvals import rule
from tests.support.policy import CASES, decide, service_policy


ALLOWED = next(
    case for case in CASES if case.rules.get(Path.REFUND, "").startswith("+")
)

STRICT = '@id("none") forbid (principal, action, resource);\n' + rule("two", 2)


def test_it_is_the_policy_that_it_has() -> None:
    live = LivePolicy(service_policy())
    for policy in (service_policy(), service_policy(STRICT)):
        live.replace(policy)

        assert live.files == policy.files
        assert live.rules == policy.rules
        assert (live.hash, live.short_hash) == (policy.hash, policy.short_hash)
        assert live.own_files == policy.own_files
        assert live.reads_totals is policy.reads_totals
        assert live.has_approvals is policy.has_approvals


def test_decisions_are_those_of_the_rules_in_force() -> None:
    """Each names the hash of the policy that made it."""
    facts = decide(ALLOWED, Path.REFUND).facts
    live = LivePolicy(service_policy())
    before = live.require(facts)
    live.replace(service_policy(STRICT))

    assert (before.verdict, before.policy) == (Verdict.ALLOW, service_policy().hash)
    assert live.evaluate(facts).policy == service_policy(STRICT).hash
    with pytest.raises(PolicyViolationError, match="rule none"):
        live.require(facts)
