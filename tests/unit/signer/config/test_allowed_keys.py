"""Patterns of the KMS keys that the service may use."""

import pytest

from signer.config.allowed_keys import (
    AllowedKeys,
    default_patterns,
    names_account,
    parse_patterns,
)
from signer.config.settings import Settings
from signer.errors import ConfigurationError


UUID = "1234abcd-12ab-34cd-56ef-1234567890ab"
MRK = "mrk-1234abcd12ab34cd56ef1234567890ab"
HOME = "arn:aws:kms:eu-central-1:111122223333"
WEST = "arn:aws:kms:eu-west-1:111122223333"
OTHER_ACCOUNT = "arn:aws:kms:eu-central-1:444455556666"
OTHER_PARTITION = "arn:aws-cn:kms:eu-central-1:111122223333"
KEY = f"{HOME}:key/{UUID}"
REGIONS = "arn:aws:kms:eu-*:111122223333:key/*"


@pytest.mark.parametrize(
    ("value", "patterns"),
    [
        (KEY, (KEY,)),
        (f"{HOME}:key/*", (f"{HOME}:key/*",)),
        (f" {KEY} , {WEST}:key/mrk-* ", (KEY, f"{WEST}:key/mrk-*")),
        (REGIONS, (REGIONS,)),
    ],
)
def test_lists(value: str, patterns: tuple[str, ...]) -> None:
    assert parse_patterns(value) == patterns
    assert Settings.from_env({"KMS_ALLOWED_KEYS": value}).allowed_keys == AllowedKeys(
        patterns
    )


@pytest.mark.parametrize(
    "value",
    [
        *("*", ",", f"{KEY},", f"{KEY};{KEY}", UUID, "alias/refunds"),
        *(f"{HOME}:alias/refunds", "arn:aws:kms:eu-central-1:*:key/*"),
        "arn:aws:kms:eu-central-1:1111*:key/*",
        "arn:*:kms:eu-central-1:111122223333:key/*",
        "arn:aws:s3:eu-central-1:111122223333:key/*",
        f"{HOME}:key/[a-z]*",
        f"{HOME}:key/?",
        f"{HOME}:key/a:b",
    ],
)
def test_malformed_lists_are_refused(value: str) -> None:
    """The refusal has the variable's name, and not its value."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({"KMS_ALLOWED_KEYS": value})

    (refusal,) = caught.value.refusals
    assert refusal.code == "settings-invalid"
    assert refusal.message.startswith("KMS_ALLOWED_KEYS: ")
    assert "111122223333" not in refusal.message


def _default(key_name: str, region: str = "eu-central-1") -> AllowedKeys:
    return AllowedKeys(default_patterns(key_name, region))


@pytest.mark.parametrize("configured", [KEY, f"{HOME}:alias/refunds"])
def test_the_default_is_the_account_and_region_of_the_key(configured: str) -> None:
    allowed = _default(configured)

    assert f"{HOME}:key/another" in allowed
    for arn in (WEST, OTHER_ACCOUNT, OTHER_PARTITION):
        assert f"{arn}:key/{UUID}" not in allowed
        assert f"{arn}:key/{MRK}" not in allowed


def test_the_default_has_the_region_of_the_host() -> None:
    """Aliases and bare ids belong to AWS_REGION, which may be another one."""
    allowed = _default(KEY, "eu-west-1")

    assert KEY in allowed
    assert f"{WEST}:key/{UUID}" in allowed
    assert f"arn:aws:kms:eu-west-2:111122223333:key/{UUID}" not in allowed


def test_the_default_of_a_multi_region_key_has_its_replicas() -> None:
    """A failover must not wait for a new setting, also of keys that are draining."""
    assert f"{WEST}:key/{MRK}" in _default(MRK)
    allowed = _default(f"{HOME}:key/{MRK}")

    assert f"{WEST}:key/{MRK}" in allowed
    assert f"{WEST}:key/mrk-draining" in allowed
    assert f"{WEST}:key/{UUID}" not in allowed
    assert f"{OTHER_ACCOUNT}:key/{MRK}" not in allowed


@pytest.mark.parametrize("configured", ["alias/refunds", UUID])
def test_the_default_of_a_bare_name_is_its_region(configured: str) -> None:
    """Its account is not known; production refuses that."""
    allowed = _default(configured)

    assert KEY in allowed
    assert f"{OTHER_ACCOUNT}:key/{UUID}" in allowed
    assert f"{WEST}:key/{UUID}" not in allowed


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (KEY, True),
        (f"{HOME}:key/other", False),
        (f"{HOME}:alias/refunds", True),
        (f"{HOME}:1234abcd", True),
        (f"{WEST}:alias/refunds", False),
        (f"{OTHER_ACCOUNT}:alias/refunds", False),
        ("alias/refunds", True),
        (UUID, True),
        (f"key/{UUID}", True),
    ],
)
def test_names_are_judged_before_they_are_resolved(name: str, expected: bool) -> None:
    """The ARN of an alias by its account and region, and other names not at all."""
    assert AllowedKeys((KEY,)).may_contain(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (KEY, True),
        (f"{HOME}:alias/refunds", True),
        ("alias/refunds", False),
        (UUID, False),
        ("arn:aws:kms:eu-central-1:1:key/x", False),
        ("", False),
    ],
)
def test_which_names_have_an_account(name: str, expected: bool) -> None:
    assert names_account(name) == expected
