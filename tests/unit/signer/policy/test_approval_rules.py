"""Rules that ask for approvals: ``@approvals("2")``."""

import json
from collections.abc import Sequence
from itertools import combinations

import cedarpy
import pytest

from signer.errors import (
    ApprovalRequiredError,
    ConfigurationError,
    PolicyViolationError,
)
from signer.model.decision import ApprovalNeed, Verdict
from signer.policy.attributes import ACTIONS, principal, resource
from signer.policy.default_rules import account_policy, service_files
from signer.policy.facts import Caller, Path, Surroundings, TransactionFacts
from signer.policy.message_facts import digest_facts
from signer.policy.policy import Policy, Rule
from signer.policy.rules import PolicyFile, lower_addresses
from signer.ports.meter import Meter, Meters
from tests.support.policy import NETWORKS, TENANTS
from tests.unit.signer.policy.test_policy import AROUND, NOON, SENDER, _facts


ALWAYS = '(principal, action == Action::"sign-transaction", resource);'
LARGE = f'@id("large") @approvals("2") forbid {ALWAYS}'
SMALL = f'@id("small") @approvals("1") forbid {ALWAYS}'
NEVER = f'@id("never") forbid {ALWAYS}'


def _policy(text: str) -> Policy:
    files = service_files(NETWORKS, TENANTS)
    return Policy.compile(files, [PolicyFile("own.cedar", text)])


def _names(need: ApprovalNeed | None) -> list[str]:
    assert need is not None
    return sorted(each.partition("@")[0] for each in need.rules)


def test_a_rule_asks_for_approvals() -> None:
    """What others permit, and only such rules forbid, needs the most approvals."""
    decision = _policy(SMALL + LARGE).evaluate(_facts())

    assert decision.verdict is Verdict.NEEDS_APPROVAL
    assert decision.rules == ("small", "large")
    assert (_names(decision.need), decision.need and decision.need.count) == (
        ["large", "small"],
        2,
    )
    assert "approvals needed: 2" in decision.message
    assert not decision.allows(decision.digest)
    other = _policy(SMALL + f"{LARGE[:-1]} when {{ true }};").evaluate(_facts()).need
    assert decision.need is not None
    assert other is not None
    assert _names(other) == ["large", "small"]
    assert not decision.need.covers(other)  # A changed text is another rule.


def test_a_rule_asks_people_of_a_group() -> None:
    """If several rules ask, each person must belong to all of their groups."""
    of_finance, of_legal = (
        f'@id("{each}") @approvals("1") @approvers("{each}") forbid {ALWAYS}'
        for each in ("finance", "legal")
    )
    decision = _policy(of_finance + of_legal + LARGE).evaluate(_facts())

    assert decision.need is not None
    assert decision.need.count == 2
    assert decision.need.groups == {"finance", "legal"}
    assert "approvals needed: 2 of finance, legal" in decision.message


BROKEN = (
    '@id("broken") forbid (principal, action == Action::"sign-transaction",'
    " resource) when { context.gas * 9223372036854775807 > 0 };"
)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (LARGE + NEVER, "never"),
        (NEVER + LARGE, "never"),
        (LARGE + BROKEN, "policy-error"),
    ],
)
def test_a_final_rule_wins(text: str, rule: str) -> None:
    """No approval is asked for, and none would permit it."""
    policy, asked = _policy(text), list[ApprovalNeed]()
    decision = policy.evaluate(_facts())

    assert (decision.verdict, decision.rule) == (Verdict.REFUSE, rule)
    assert decision.need is None
    with pytest.raises(PolicyViolationError):
        policy.require(_facts(), asked.append)
    assert _policy("").require(_facts(), asked.append)
    assert asked == []


def test_approvals_permit_nothing() -> None:
    """What no rule permits is refused, however many people agree."""
    policy = _policy('@id("all") @approvals("1") forbid (principal, action, resource);')
    for changed, rule in ((_facts(value=1), "value"), (_facts(gas=2**24), "gas")):
        decision = policy.evaluate(changed)
        assert (decision.verdict, decision.rule) == (Verdict.REFUSE, rule)
    assert policy.evaluate(digest_facts(bytes(32), AROUND)).rule == "digest"


def test_a_path_without_approvals_is_refused() -> None:
    """By the name of the rule; also the account of a program."""
    own = account_policy(LARGE)
    account = Surroundings(Caller(Path.ACCOUNT), SENDER, NOON)

    for policy, facts in ((_policy(LARGE), _facts()), (own, _facts(account))):
        with pytest.raises(PolicyViolationError) as refused:
            policy.require(facts)
        assert refused.value.rule == "large"


def test_the_path_asks_people() -> None:
    """It gets exactly the rules that fire; and its error is not swallowed."""
    asked: list[ApprovalNeed] = []
    decision = _policy(LARGE).require(_facts(), asked.append)

    assert (decision.verdict, decision.rule) == (Verdict.ALLOW, "large")
    assert decision.allows(decision.digest)
    assert list(map(_names, asked)) == [["large"]]

    def refuse(need: ApprovalNeed) -> None:
        raise ApprovalRequiredError("no", digest="", expires_at=NOON)

    with pytest.raises(ApprovalRequiredError):
        _policy(LARGE).require(_facts(), refuse)


class _Decisions(Meter):
    """Keeps which decisions are counted."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, str, str]] = []

    def decided(self, path: str, verdict: Verdict, rule: str) -> None:
        self.counted.append((path, verdict, rule))


def test_each_decision_is_counted() -> None:
    """Once, by its path and first rule; what people approved is allowed."""
    seen = _Decisions()
    files = service_files(NETWORKS, TENANTS)
    own = [PolicyFile("own.cedar", LARGE)]
    policy = Policy.compile(files, own, Meters(seen))

    def refuse(need: ApprovalNeed) -> None:
        raise ApprovalRequiredError("no", digest="", expires_at=NOON)

    policy.evaluate(_facts())  # A preview signs nothing.
    for approve in (None, refuse):
        with pytest.raises((PolicyViolationError, ApprovalRequiredError)):
            policy.require(_facts(), approve)
    policy.require(_facts(), lambda _: None)
    with pytest.raises(PolicyViolationError):
        policy.require(_facts(gas=2**24))
    Policy.compile(files, meter=seen).require(_facts())

    assert seen.counted == [
        ("refund", "needs-approval", "large"),
        ("refund", "needs-approval", "large"),
        ("refund", "allow", "large"),
        ("refund", "refuse", "gas"),
        ("refund", "allow", "refund"),
    ]


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        (f'@id("a") @approvals("0") forbid {ALWAYS}', 'from "1" to "5"'),
        (f'@id("a") @approvals("6") forbid {ALWAYS}', 'from "1" to "5"'),
        (f'@id("a") @approvals("01") forbid {ALWAYS}', 'from "1" to "5"'),
        (f'@id("a") @approvals("two") forbid {ALWAYS}', 'from "1" to "5"'),
        (f'@id("a") @approvals forbid {ALWAYS}', 'from "1" to "5"'),
        (f'@id("a") @approvals("1") permit {ALWAYS}', "only a forbid can ask"),
        (f'@id("a") @approvers("b") forbid {ALWAYS}', "the number of people"),
        (f'@id("a") @approvals("1") @approvers forbid {ALWAYS}', "one group"),
        (f'@id("a") @approvals("1") @approvers("B") forbid {ALWAYS}', "one group"),
        (f'@id("a") @approvals("1") @approvers("b, c") forbid {ALWAYS}', "one group"),
    ],
)
def test_the_annotation_is_strict(rule: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        _policy(rule)


def test_a_need_is_read_from_a_proposal() -> None:
    need = ApprovalNeed(frozenset({"a@1", "b@2"}), 2)

    assert ApprovalNeed.parse(need.facts) == need
    assert "approvers" not in need.facts
    of_groups = ApprovalNeed(need.rules, 2, frozenset({"finance", "legal"}))
    assert ApprovalNeed.parse(of_groups.facts) == of_groups
    assert of_groups.covers(need)
    assert not need.covers(of_groups)
    assert ApprovalNeed.parse({"amount": "1"}) == ApprovalNeed()
    assert dict(ApprovalNeed().facts) == {}
    with pytest.raises(ValueError, match="invalid literal"):
        ApprovalNeed.parse({"rules": "a@1"})


@pytest.mark.parametrize(
    "condition",
    [
        "true",
        'context.path == "forbid (\\"x\\");" || context.gas > 1',
        'context has function && context.function like "tr\\*nsfer*"',
        'context has amount && context.amount.greaterThan(decimal("0.0001"))',
        'context has to && context.to == "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"',
        '["local", "0xAB"].contains(context.path) && !(context has role)',
    ],
)
def test_the_rule_that_cedar_evaluates_has_another_effect_only(condition: str) -> None:
    """It is a permit, so that one evaluation answers both questions."""
    text = (
        '@id("ask") @message("forbid (x)") @approvals("1")\n'
        'forbid (principal == Tenant::"forbid", action == Action::"sign-transaction",'
        f" resource) when {{ {condition} }} unless {{ context.nonce == 7 }};"
    )
    (rule,) = (each for each in _policy(text).rules if each.name == "ask")
    written, evaluated = (
        json.loads(cedarpy.policies_to_json_str(each))["staticPolicies"]["policy0"]
        for each in (text, rule.evaluated)
    )

    assert (written.pop("effect"), evaluated.pop("effect")) == ("forbid", "permit")
    assert evaluated == written


def test_one_answer_is_that_of_two_questions() -> None:
    """Compared with Cedar about the rules as written, and then without approvals."""
    conditions = ["true", "context.has_value", "context.nonce > 5"]
    own = [
        f'@id("{name}-{n}") {approvals} {effect} (principal,'
        f' action == Action::"sign-transaction", resource) when {{ {condition} }};'
        for n, condition in enumerate(conditions)
        for name, approvals, effect in (
            ("ask", '@approvals("1")', "forbid"),
            ("never", "", "forbid"),
            ("allow", "", "permit"),
        )
    ]
    for chosen in combinations(own, 2):
        policy = _policy("".join(chosen))
        final = [each for each in policy.rules if not each.approvals]
        for facts in (_facts(), _facts(value=1), _facts(nonce=9)):
            if _allows(policy.rules, facts):
                expected = Verdict.ALLOW
            elif _allows(final, facts):
                expected = Verdict.NEEDS_APPROVAL
            else:
                expected = Verdict.REFUSE
            assert policy.evaluate(facts).verdict is expected, (chosen, facts)


def _allows(rules: Sequence[Rule], facts: TransactionFacts) -> bool:
    (action,) = (each for each in ACTIONS if each.facts is TransactionFacts)
    values = {each.name: each.read(facts) for each in action.attributes}
    request = {
        "principal": principal(facts)._asdict(),
        "action": {"type": "Action", "id": action.name},
        "resource": resource(facts)._asdict(),
        "context": {k: v for k, v in values.items() if v is not None},
    }
    text = "\n".join(lower_addresses(each.statement.text) for each in rules)
    decision = cedarpy.is_authorized(request, text, []).decision
    return decision is cedarpy.Decision.Allow
