"""Files of examples: what is read, and what is refused with a clear message."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from signer.config.tenants import TenantRegistry
from signer.errors import ConfigurationError, InvalidInputError
from signer.policy.examples import read_examples, require_examples, run_examples
from tests.support.policy import SERVICE_POLICY


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
