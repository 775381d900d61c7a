"""The same request is decided by the same answer, for which Cedar is asked once."""

from dataclasses import replace
from typing import cast

import pytest

from signer.model.decision import Decision, Verdict
from signer.policy.default_rules import service_files
from signer.policy.facts import Path, TransactionFacts
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from tests.support.approvals import rule
from tests.support.policy import (
    CASES,
    NETWORKS,
    TENANTS,
    count_questions,
    decide,
    service_policy,
)


PAID = next(case for case in CASES if case.rules.get(Path.REFUND, "").startswith("+"))
FACTS = cast("TransactionFacts", decide(PAID, Path.REFUND).facts)


def _policy(own: str = "") -> Policy:
    """Return a policy that remembers nothing yet."""
    files = [PolicyFile("own.cedar", own)] if own else []
    return Policy.compile(service_files(NETWORKS, TENANTS), files)


def test_refunds_that_rules_see_alike_are_one_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each decision allows the digest of its own refund, and no other."""
    policy = _policy()
    asked = count_questions(monkeypatch)
    digests = [bytes([number]) * 32 for number in range(1, 9)]
    decisions = [
        policy.require(replace(FACTS, digest=digest, nonce=number, amount=number))
        for number, digest in enumerate(digests)
    ]

    assert len(asked) == 1
    for decision in decisions:
        allowed = [digest for digest in digests if decision.allows(digest)]
        assert allowed == [decision.digest]


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "other"},
        {"is_denied": True},
        {"exceeded": frozenset({"gas"})},
        {"caller": replace(FACTS.caller, tenant="other")},
        {"caller": replace(FACTS.caller, tenant=None)},
    ],
    ids=["resource", "denied", "exceeded", "tenant", "service"],
)
def test_what_rules_see_is_another_question(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = _policy()
    policy.require(FACTS)
    asked = count_questions(monkeypatch)
    changed = replace(FACTS, **changes)  # type: ignore[arg-type]
    decision = policy.evaluate(changed)

    assert asked
    assert decision == _policy().evaluate(changed)


def test_an_attribute_that_an_own_rule_reads_is_part_of_the_question() -> None:
    """An amount, for which the rules of this project do not ask."""
    policy = _policy(
        '@id("small") forbid (principal, action, resource) when'
        ' { context has amount && context.amount.greaterThan(decimal("1.0")) };'
    )
    verdicts = [
        policy.evaluate(replace(FACTS, amount=amount)).verdict
        for amount in (10**6, 10**6 + 1, 10**6)
    ]

    assert verdicts == [Verdict.ALLOW, Verdict.REFUSE, Verdict.ALLOW]


def test_a_rule_that_uses_the_whole_context_sees_every_attribute() -> None:
    """Also a nonce, for which no rule asks by its name."""
    policy = _policy(
        '@id("late") forbid (principal, action == Action::"sign-transaction",'
        " resource) when { (if true then context else context).nonce > 7 };"
    )
    verdicts = [
        policy.evaluate(replace(FACTS, nonce=nonce)).verdict for nonce in (7, 8, 7)
    ]

    assert verdicts == [Verdict.ALLOW, Verdict.REFUSE, Verdict.ALLOW]


def test_long_requests_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller could fill the memory with arguments that an own rule reads."""
    policy = _policy(
        '@id("none") forbid (principal, action == Action::"sign-transaction",'
        ' resource) when { context.arguments.contains("none=1") };'
    )
    asked = count_questions(monkeypatch)
    for size in (100, 100, 3000, 3000):
        arguments = (("data", bytes(size // 2)),)
        assert policy.evaluate(replace(FACTS, arguments=arguments)).rule == "refund"

    assert len(asked) == 3


def test_an_error_and_a_need_are_remembered_as_such() -> None:
    """They never become a permission."""
    broken = (
        '@id("broken") forbid (principal, action == Action::"sign-transaction",'
        " resource) when { context.nonce + 9223372036854775807 > 0 };"
    )
    for own, expected in (
        (broken, Verdict.REFUSE),
        (rule("two", 2), Verdict.NEEDS_APPROVAL),
    ):
        policy = _policy(own)
        first, second = (policy.evaluate(replace(FACTS, nonce=1)) for _ in range(2))

        assert first == second
        assert first.verdict is expected


def test_remembered_answers_are_those_of_cedar() -> None:
    """Of each third case on a path: once, repeated, and in the opposite order."""
    chosen = [(case, path) for case in CASES for path in Path][::3]

    def ask(policy: Policy) -> list[Decision]:
        return [decide(case, path, policy).decision for case, path in chosen]

    policy = _policy()
    first, repeated = ask(policy), ask(policy)
    chosen.reverse()

    assert first == repeated == ask(_policy())[::-1]
    assert service_policy().hash == policy.hash
