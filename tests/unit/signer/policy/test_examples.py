"""Files of examples: what is read, and what is refused with a clear message."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from eth_utils.address import to_checksum_address

from signer.chain.erc20 import encode_transfer
from signer.config.networks import Network
from signer.config.tenants import TenantRegistry
from signer.errors import ConfigurationError, InvalidInputError
from signer.policy.default_rules import service_files
from signer.policy.examples import read_examples, require_examples, run_examples
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from tests.support.policy import SERVICE_POLICY


CUSTOMER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
OTHER_WALLET = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
MEMO = b"\x07" * 16


DIGEST = {
    "name": "a digest",
    "paths": ["account"],
    "verdict": "refuse",
    "digest": "0x" + "11" * 32,
}


def _json(**changes: Any) -> str:
    return json.dumps({"example": [{**DIGEST, **changes}]})


def test_json_and_toml_are_the_same() -> None:
    toml = f"""
    [[example]]
    name = "a digest"
    paths = ["account"]
    verdict = "refuse"
    digest = "{DIGEST["digest"]}"
    time = 2026-01-02T03:04:05Z
    """
    read = read_examples(_json(time="2026-01-02T03:04:05Z"), is_json=True)

    assert read == read_examples(toml, is_json=False)
    assert read.example[0].time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "the examples cannot be read: Expecting property name"),
        ('{"example": []}', "example: "),
        (_json(verdict="maybe"), "example.0.verdict: "),
        (_json(message="hello"), "needs exactly one of transaction, message"),
    ],
)
def test_a_file_that_is_not_one_of_examples(text: str, problem: str) -> None:
    with pytest.raises(InvalidInputError, match="the examples cannot be read") as no:
        read_examples(text, is_json=True)

    assert problem in str(no.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"digest": "0xzz"}, "non-hexadecimal"),
        ({"network": "nowhere"}, "NETWORKS_FILE has no such network"),
    ],
)
def test_a_malformed_example_is_named(changes: dict[str, str], problem: str) -> None:
    examples = read_examples(_json(**changes), is_json=True)

    with pytest.raises(InvalidInputError, match="example 'a digest'") as no:
        list(run_examples(SERVICE_POLICY, examples, {}, TenantRegistry()))
    assert problem in str(no.value)


def _toml(verdict: str, digest: str = "11" * 32) -> str:
    return f"""
    [[example]]
    name = "a digest"
    paths = ["account"]
    verdict = "{verdict}"
    digest = "0x{digest}"
    """


def test_own_examples_that_the_policy_decides_so() -> None:
    require_examples(SERVICE_POLICY, _toml("refuse"), {}, TenantRegistry())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (_toml("allow"), "'a digest', account: expected allow, found refuse"),
        (_toml("refuse", "zz"), "non-hexadecimal"),
        ("= 1", "the examples cannot be read"),
    ],
    ids=["another verdict", "malformed", "not TOML"],
)
def test_own_examples_that_refuse_the_rules(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as refused:
        require_examples(SERVICE_POLICY, text, {}, TenantRegistry())
    assert [each.code for each in refused.value.refusals] == ["policy-invalid"]


TRANSFER: dict[str, Any] = {
    "paths": ["refund"],
    "tenant": "shop",
    "transaction": {
        "chainId": 31337,
        "nonce": 0,
        "gas": 60_000,
        "maxFeePerGas": 10**9,
        "maxPriorityFeePerGas": 1,
        "to": OTHER_WALLET,
        "data": "0x" + encode_transfer(CUSTOMER, 12_500_000, MEMO).hex(),
    },
    "memo": MEMO.hex(),
}
TOTALS = """
@id("day") forbid (principal, action == Action::"sign-transaction", resource)
when { context has spent_day && context.spent_day.greaterThan(decimal("100.0")) };
@id("tenant-day") forbid (principal, action == Action::"sign-transaction", resource)
when {
  context has spent_tenant_day
  && context.spent_tenant_day.greaterThan(decimal("50.0"))
};
@id("tenant-hour") forbid (principal, action == Action::"sign-transaction", resource)
when {
  context has spent_tenant_hour
  && context.spent_tenant_hour.greaterThan(decimal("25.0"))
};
@id("new") @approvals("1")
forbid (principal, action == Action::"sign-transaction", resource)
when { context has first_payment && context.first_payment };
@id("young") forbid (principal, action == Action::"sign-transaction", resource)
when {
  context has first_paid_hours && context.first_paid_hours < 24
  && context has first_paid_amount
  && context.first_paid_amount.greaterThan(decimal("7.0"))
};
@id("coin") permit (principal, action == Action::"sign-transaction", resource)
when { context.path == "call" };
@id("coin-day") forbid (principal, action == Action::"sign-transaction", resource)
when {
  context.path == "call" && context has spent_day
  && context.spent_day.greaterThan(decimal("0.5"))
};
"""
LOCAL = {
    "local": Network.model_validate(
        {
            "chain_id": 31337,
            "rpc_urls": ["http://127.0.0.1"],
            "tokens": {
                "TUSD": {
                    "address": to_checksum_address(OTHER_WALLET),
                    "decimals": 6,
                    "max_amount": "1000000",
                    "max_gas": 100_000,
                }
            },
            "max_fee_per_gas_gwei": 100,
        }
    )
}


def _call(value: int, data: str) -> dict[str, Any]:
    sent = {"to": CUSTOMER, "value": value, "data": data}
    transaction = {**TRANSFER["transaction"], **sent}
    return {"paths": ["call"], "tenant": "shop", "transaction": transaction}


COIN, CALL = _call(10**17, "0x"), _call(10**17, "0xb1c0ffee")


@pytest.mark.parametrize(
    ("given", "paid_before", "verdict", "rule"),
    [
        (TRANSFER, None, "allow", "refund"),
        (TRANSFER, {"day": "87.5"}, "allow", "refund"),
        (TRANSFER, {"day": "87.500001"}, "refuse", "day"),
        (TRANSFER, {"hour": "500", "recipient": "500"}, "allow", "refund"),
        (TRANSFER, {"tenant_day": "37.5", "tenant_hour": "12.5"}, "allow", "refund"),
        (TRANSFER, {"tenant_day": "37.500001"}, "refuse", "tenant-day"),
        (TRANSFER, {"tenant_hour": "12.500001"}, "refuse", "tenant-hour"),
        (TRANSFER, {"first_payment": True}, "needs-approval", "new"),
        (TRANSFER, {"first_paid_hours": 23}, "allow", "refund"),
        *(
            (
                TRANSFER,
                {"first_paid_hours": hours, "first_paid_amount": amount},
                *(("refuse", "young") if is_young else ("allow", "refund")),
            )
            for hours, amount, is_young in (
                (23, "7", False),
                (23, "7.01", True),
                (24, "7.01", False),
            )
        ),
        # The coin that a call sends counts, with its calldata or without.
        *((each, {"day": "0.4"}, "allow", "coin") for each in (COIN, CALL)),
        *(
            (each, {"day": "0.400000000000000001"}, "refuse", "coin-day")
            for each in (COIN, CALL)
        ),
    ],
    ids=range(16),
)
def test_rules_about_totals(
    given: dict[str, Any],
    paid_before: dict[str, Any] | None,
    verdict: str,
    rule: str,
) -> None:
    """An example can state what was paid before."""
    policy = Policy.compile(
        service_files({}, TenantRegistry()), [PolicyFile("own.cedar", TOTALS)]
    )
    example = {"name": "x", "verdict": verdict, "rule": rule, **given}
    text = json.dumps({"example": [{**example, "paid_before": paid_before}]})
    examples = read_examples(text, is_json=True)

    (outcome,) = run_examples(policy, examples, LOCAL, TenantRegistry())

    assert outcome.is_expected, outcome.decision


@pytest.mark.parametrize(
    "example", [TRANSFER, _call(0, "0xb1c0ffee")], ids=["token", "call"]
)
def test_totals_need_a_payment(example: dict[str, Any]) -> None:
    """Of a token of a configured network, or of coin."""
    written = {"name": "x", "verdict": "allow", **example, "paid_before": {}}
    examples = read_examples(json.dumps({"example": [written]}), is_json=True)

    with pytest.raises(InvalidInputError, match="'x': paid_before needs a payment"):
        list(run_examples(SERVICE_POLICY, examples, {}, TenantRegistry()))
