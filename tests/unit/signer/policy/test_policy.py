"""How rules are read, checked and evaluated."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import cedarpy
import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from signer.config.tenants import NetworkLimits, Tenant, TenantRegistry, TokenLimits
from signer.crypto.transactions import DynamicFeeTransaction
from signer.errors import ConfigurationError, PolicyViolationError
from signer.model.decision import Verdict
from signer.model.spending_limits import PaymentTotals, Spent
from signer.policy.attributes import ACTIONS, MAX_LONG, build_schema, decimal, resource
from signer.policy.default_rules import ACCOUNT, FLOOR, account_policy, service_files
from signer.policy.facts import (
    Caller,
    KnownNetwork,
    Path,
    Surroundings,
    TransactionFacts,
)
from signer.policy.policy import LivePolicy, Policy
from signer.policy.rules import RESERVED, RULES, PolicyFile, split_statements
from signer.policy.transaction_facts import transaction_facts
from tests.support.approvals import rule
from tests.support.policy import (
    CASES,
    KNOWN,
    NETWORKS,
    TENANTS,
    VECTORS,
    decide,
    service_policy,
)


NOON = datetime(2026, 11, 27, 12, 30, tzinfo=UTC)  # A Friday.
SENDER = VECTORS["keys"]["sender"]
AROUND = Surroundings(Caller(Path.REFUND, tenant="shop"), SENDER, NOON, KNOWN["local"])
TRANSFER = next(case for case in CASES if case.name.endswith("with the memo"))
MEMO = bytes.fromhex(TRANSFER.given["memo"][2:])

ALL = "(principal, action, resource)"
RECIPIENT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
TRANSACTIONS = '(principal, action == Action::"sign-transaction", resource)'


def _facts(around: Surroundings = AROUND, **changes: Any) -> TransactionFacts:
    fields = TRANSFER.fields()
    transaction = DynamicFeeTransaction(
        chain_id=fields["chainId"],
        nonce=fields["nonce"],
        max_priority_fee_per_gas=fields["maxPriorityFeePerGas"],
        max_fee_per_gas=fields["maxFeePerGas"],
        gas=fields["gas"],
        to=fields["to"],
        value=0,
        data=bytes.fromhex(fields["data"][2:]),
        access_list=(),
    )
    transaction = replace(transaction, **changes)
    return transaction_facts(transaction, transaction.signing_digest(), around, MEMO)


def _problems(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        Policy.compile([FLOOR], [PolicyFile("own.cedar", text)])
    assert {each.code for each in refused.value.refusals} == {"policy-invalid"}
    return [each.message for each in refused.value.refusals]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"\n\nforbid {ALL};", 'line 3: the forbid has no name: write @id("...")'),
        (f'@id("") permit {ALL};', "line 1: the permit has no name"),
        (f"@id permit {ALL};", "line 1: the permit has no name"),
        (f'@id("Not This") forbid {ALL};', "line 1: the name 'Not This' must be"),
        (f'@id("policy-error") forbid {ALL};', "has another meaning"),
        (f'@id("a") @id("b") permit {ALL};', "line 1: duplicate annotation"),
        ('@id("a") permit (principal == ?principal, action, resource);', "templates"),
        (f'@id("a") forbid {ALL} when {{ context.gas > }};', "line 1: unexpected"),
        (f'@id("a") forbid {ALL}', "line 1: unexpected end of input"),
        (f'@id("a") forbid {ALL} when {{ context.gas > 1 }};', "`gas`"),
        (f'@id("a") forbid {TRANSACTIONS} when {{ context.gass > 1 }};', "`gass`"),
        (
            f'@id("a") forbid {TRANSACTIONS} when {{ context.amount == 1 }};',
            "optional attribute `amount`",
        ),
        (
            f'@id("a") forbid {TRANSACTIONS} when {{ context.value > 1 }};',
            "expected Long but saw decimal",
        ),
        (
            f'@id("a") forbid {TRANSACTIONS}\nwhen {{ context.sender =='
            ' "0x5FbDB2315678afecb367f032d93F642f64180aA3" }};'.replace("}}", "}"),
            "the address 0x5FbDB2315678afecb367f032d93F642f64180aA3 has a wrong",
        ),
        ('@id("a") forbid (principal, action == Action::"send", resource);', "send"),
        ('@id("a") forbid (principal == User::"x", action, resource);', "User"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused(text: str, problem: str) -> None:
    """The message has its file and its line, and what is wrong."""
    (message,) = _problems(text)

    assert message.startswith("own.cedar, line ")
    assert problem in message


def test_all_wrong_rules_are_reported_together() -> None:
    """Each with its own line, also after strings and comments with semicolons."""
    found = _problems(
        '// one; two\n@id("fine") forbid (principal, action, resource)\n'
        'when { context.path == "a;b\\"c" };\nforbid (principal, action, resource);'
        "  // three;\n\npermit (principal, action, resource);\n// the end\n"
    )

    lines = [each.partition(":")[0] for each in found]
    assert lines == ["own.cedar, line 4", "own.cedar, line 6"]
    assert list(split_statements(PolicyFile("own.cedar", "// nothing\n\n"))) == []


def test_a_rule_that_fails_is_a_refusal() -> None:
    """Cedar skips such a rule, and it may be the forbid that matters."""
    policy = service_policy(
        f'@id("overflow") forbid {TRANSACTIONS}'
        " when { context.gas * 9223372036854775807 > 1 };"
    )

    decision = policy.evaluate(_facts())

    assert decision.verdict is Verdict.REFUSE
    assert decision.rule == "policy-error"
    with pytest.raises(PolicyViolationError, match="could not be evaluated"):
        policy.require(_facts())


def test_a_forbid_wins_over_a_permit() -> None:
    """All rules that decided are named, in their order; without one: not-permitted."""
    no_rule = PolicyFile("a", f'@id("a") forbid {ALL} when {{ 1 > 2 }};')
    decision = Policy.compile([no_rule]).evaluate(_facts())
    assert (decision.verdict, decision.rules) == (Verdict.REFUSE, ("not-permitted",))

    policy = service_policy(
        f'@id("first") forbid {TRANSACTIONS} when {{ context.gas > 1 }};'
        f'@id("second") forbid {ALL};'
    )

    assert policy.evaluate(_facts()).rules == ("first", "second")
    assert policy.evaluate(_facts(chain_id=1)).rules == ("chain-id", "first", "second")


def test_a_decision_is_about_one_digest() -> None:
    """Another digest is not allowed by it, and neither is a refused one."""
    facts = _facts()
    decision = service_policy().require(facts)

    assert decision.allows(facts.digest)
    assert not decision.allows(bytes(32))
    assert not replace(decision, verdict=Verdict.REFUSE).allows(facts.digest)
    assert not replace(decision, verdict=Verdict.NEEDS_APPROVAL).allows(facts.digest)
    assert decision.details() == {
        "policy": service_policy().short_hash,
        "rule": "refund",
    }


def test_tenants_that_are_not_listed_have_nothing_signed() -> None:
    """With a tenants file; accepted refunds are paid all the same."""
    stranger = replace(AROUND, caller=Caller(Path.REST, tenant="stranger"))
    listed = Policy.compile(service_files(NETWORKS, TENANTS))
    unlisted = Policy.compile(service_files(NETWORKS, TenantRegistry()))
    evil = '"\n@id("all") permit (principal, action, resource);//'
    named = Policy.compile(service_files({evil: NETWORKS["local"]}, TENANTS))
    files = [*ACCOUNT, PolicyFile("own.cedar", "// note")]
    others = [Policy.compile(each).hash for each in (ACCOUNT, files, files[:-1])]

    # A name stays in its comment; each text and each name changes the hash.
    assert "all" not in {rule.name for rule in named.rules}
    assert len({listed.hash, unlisted.hash, named.hash, *others}) == 5

    assert listed.evaluate(_facts(stranger)).rules == ("tenant",)
    assert unlisted.evaluate(_facts(stranger)).rules == ("not-permitted",)
    assert listed.evaluate(_facts()).rules == ("refund",)


def test_limits_of_a_tenant_are_compared_where_it_chooses_the_amount() -> None:
    """An accepted refund is a promise: only the token's own limit counts then."""
    limits = {"local": {"tokens": {"TUSD": {"max_amount": "10", "min_amount": "5"}}}}

    tenant = Tenant.model_validate({"subjects": ["shop-1"], "networks": limits})
    of_refund = replace(AROUND, limits=tenant)
    of_client = replace(of_refund, caller=Caller(Path.REST, tenant="shop"))

    assert _facts(of_client).exceeded == {"max-amount"}
    assert _facts(of_refund).exceeded == set()


@pytest.mark.parametrize("written", ["is_on=true", "name=Ann", "data=0x01"])
def test_arguments_are_written_as_in_json(written: str) -> None:
    """A boolean is in lower case, bytes are hexadecimal, and text stays as it is."""
    facts = replace(
        _facts(), arguments=(("is_on", True), ("name", "Ann"), ("data", b"\x01"))
    )
    policy = service_policy(
        f'@id("blocked") forbid {TRANSACTIONS}'
        f' when {{ context.arguments.contains("{written}") }};'
    )

    assert policy.evaluate(facts).rules == ("blocked",)


@pytest.mark.parametrize(
    ("condition", "is_true"),
    [
        ('context.path == "refund"', True),
        ('context.weekday == "friday" && context.hour == 12', True),
        ('context.date == "2026-11-27"', True),
        ("context has subject", False),
        ('context has token && context.token == "TUSD"', True),
        ('context has amount && context.amount == decimal("12.5")', True),
        ('context.arguments.contains("amount=12500000")', True),
        ("context.max_fee_gwei == 3 && context.priority_fee_gwei == 1", True),
        ('context.max_cost == decimal("0.0002")', True),  # 0.00018, rounded up.
        ('context.value == decimal("0.0") && !context.has_value', True),
        ('context has selector && context.selector == "0xa9059cbb"', True),
        # Each with the payment itself, of 12.5.
        ('context has spent_hour && context.spent_hour == decimal("13.5")', True),
        ('context has spent_day && context.spent_day == decimal("15.0")', True),
        (
            'context has spent_recipient && context.spent_recipient == decimal("12.5")',
            True,
        ),
        (
            (
                "context has spent_tenant_hour"
                ' && context.spent_tenant_hour == decimal("13.0")'
            ),
            True,
        ),
        (
            (
                "context has spent_tenant_day"
                ' && context.spent_tenant_day == decimal("14.0")'
            ),
            True,
        ),
        ("context has first_payment && context.first_payment", True),
        ("context has first_paid_hours && context.first_paid_hours == 30", True),
        (
            (
                "context has first_paid_amount"
                ' && context.first_paid_amount == decimal("2.5")'
            ),
            True,
        ),
        ("context.nonce == 0 && context.access_list == 0", True),
        ("context.blobs == 0 && context.authorizations == 0", True),
        ("context.data_bytes == 84 && context.extra_bytes == 16", True),
        ("context has to && context has network && !(context has role)", True),
        ("context == context", True),
        *(  # Addresses are compared in lower case.
            (f'context has recipient && context.recipient == "{each}"', True)
            for each in (RECIPIENT, RECIPIENT.lower())
        ),
        ('principal == Tenant::"shop" && resource == Network::"local"', True),
    ],
)
def test_rules_see_the_facts(condition: str, is_true: bool) -> None:
    """Each attribute has the value of the transaction, in its Cedar type."""
    spent = Spent(hour=1_000_000, day=2_500_000, recipient=0, gas=0)
    of_tenant = Spent(hour=500_000, day=1_500_000, recipient=0, gas=0)
    totals = PaymentTotals(
        spent,
        of_tenant,
        is_first_payment=True,
        first_paid_hours=30,
        first_paid_amount=2_500_000,
    )
    facts = _facts(replace(AROUND, totals=totals))

    decision = service_policy(
        f'@id("seen") forbid {TRANSACTIONS} when {{ {condition} }};'
    ).evaluate(facts)

    assert ("seen" in decision.rules) is is_true


def test_a_chain_that_is_not_configured_is_the_resource() -> None:
    policy = service_policy(
        f'@id("seen") forbid {TRANSACTIONS} when {{ resource == Chain::"31337" }};'
    )

    assert "seen" in policy.evaluate(replace(_facts(), network=None)).rules
    assert "seen" not in policy.evaluate(_facts()).rules


@pytest.mark.parametrize(
    "fact",
    [
        *("spent_hour", "spent_day", "spent_recipient", "spent_tenant_hour"),
        "first_paid_amount",
    ],
)
def test_an_unknown_token_has_no_totals(fact: str) -> None:
    """Its decimals are not known: the network was removed from the configuration."""
    nothing = Spent(0, 0, 0, 0)
    totals = PaymentTotals(nothing, nothing, is_first_payment=True, first_paid_amount=1)
    facts = _facts(replace(AROUND, network=None, totals=totals))

    decision = service_policy(
        f'@id("seen") forbid {TRANSACTIONS} when {{ context has {fact} }};'
    ).evaluate(facts)

    assert "seen" not in decision.rules


@pytest.mark.parametrize(
    ("price", "condition"),
    [
        (None, "!(context has worth)"),
        ("0.92", 'context has worth && context.worth == decimal("11.5")'),
        # 12.5 * 1.00001 is 12.500125.
        ("1.00001", 'context has worth && context.worth == decimal("12.5002")'),
        (
            "1" * 50,
            'context has worth && context.worth.greaterThan(decimal("999999999.0"))',
        ),
    ],
    ids=["no price", "exact", "rounded up", "the largest decimal"],
)
def test_rules_see_what_an_amount_is_worth(price: str | None, condition: str) -> None:
    network = NETWORKS["local"]
    token = network.tokens["TUSD"].model_copy(update={"reference_price": price})
    priced = network.model_copy(update={"tokens": {"TUSD": token}})
    around = replace(AROUND, network=KnownNetwork.of("local", priced))

    decision = service_policy(
        f'@id("seen") forbid {TRANSACTIONS} when {{ {condition} }};'
    ).evaluate(_facts(around))

    assert decision.rules == ("seen",)
    text = f'@id("seen") forbid {TRANSACTIONS} when {{ context has worth }};'
    without_an_amount = service_policy(text).evaluate(_facts(around, data=b""))
    assert "seen" not in without_an_amount.rules


@pytest.mark.parametrize(
    ("amount", "decimals", "shown"),
    [
        (0, 6, "0.0000"),
        (1, 6, "0.0001"),
        (12_500_000, 6, "12.5000"),
        (12_500_001, 6, "12.5001"),
        (1, 0, "1.0000"),
        (1, 18, "0.0001"),
        (2**256 - 1, 6, "922337203685477.5807"),
        (2**256 - 1, 36, "922337203685477.5807"),
    ],
)
def test_amounts_are_rounded_up(amount: int, decimals: int, shown: str) -> None:
    """Four digits after the point; a larger amount is the largest decimal."""
    assert decimal(amount, decimals) == {"__extn": {"fn": "decimal", "arg": shown}}


def test_every_context_fits_the_schema() -> None:
    """What rules were validated against is what they get, on every path."""
    text = f'@id("n") forbid {TRANSACTIONS} when {{ context.nonce == {MAX_LONG} }};'
    assert "n" in service_policy(text).evaluate(_facts(nonce=2**64 - 2)).rules

    schema = cedarpy.Schema.from_str(build_schema())
    seen = set()
    for case in CASES:
        for path in Path:
            facts = decide(case, path).facts
            action = next(each for each in ACTIONS if each.facts is type(facts))
            values = {each.name: each.read(facts) for each in action.attributes}
            absent = {name for name, value in values.items() if value is None}
            if (form := (path, action.name, *sorted(absent))) in seen:
                continue  # Cedar reads the whole schema for each question.
            seen.add(form)
            assert absent <= {each.name for each in action.attributes if each.optional}
            request = {
                "principal": 'Tenant::"shop"',
                "action": f'Action::"{action.name}"',
                "resource": resource(facts)._asdict(),
                "context": {k: v for k, v in values.items() if v is not None},
            }
            result = cedarpy.is_authorized(request, "", [], schema)
            assert result.decision is cedarpy.Decision.Deny, (case.name, result)


def test_the_rules_are_the_documented_ones() -> None:
    """Each name of a refusal has its meaning, and no meaning is without a refusal."""
    limits = NetworkLimits(tokens={"TUSD": TokenLimits(approve_above="1")})
    tenant = Tenant(subjects=("shop-1",), networks={"local": limits})
    asking = service_files(NETWORKS, TenantRegistry({"shop": tenant}))
    policies = (Policy.compile(asking), account_policy())
    rules = [rule for policy in policies for rule in policy.rules]
    forbids = {rule.name for rule in rules if rule.effect == "forbid"}
    of_cases = {name for case in CASES for name in case.rules.values()}
    refused = {name for name in of_cases if not name.startswith("+")}

    assert forbids | RESERVED | refused == set(RULES)


@pytest.mark.parametrize(("levels", "calldata"), [(5, "exact"), (6, "malformed")])
def test_calls_in_calls_are_read_to_a_depth(levels: int, calldata: str) -> None:
    """A caller must not keep a process busy with a million levels."""
    data = b"\xde\xad\xbe\xef"
    for _ in range(levels):
        data = keccak(text="multicall(bytes[])")[:4] + encode(["bytes[]"], [[data]])

    assert _facts(data=data).calldata == calldata


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
