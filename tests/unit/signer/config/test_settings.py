"""The settings are read strictly from the environment, and hide their secrets."""

import os
import pickle
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from signer.config.settings import CREDENTIALS, RAW_KEY, Environment, Role, Settings
from signer.errors import ConfigurationError


CANARY = "canary-5ecret"


def test_empty_environment_is_production() -> None:
    """The defaults are production, no debug, no KMS, no secret and one node."""
    settings = Settings.from_env({})

    assert settings.app_env is Environment.PRODUCTION
    assert settings.is_production
    for name in ("app_env", "App_Env", "APP-ENV", " APP_ENV"):  # As usual on UNIX.
        assert Settings.from_env({name: "development"}).is_production
    assert not settings.debug
    assert not settings.use_kms
    assert not settings.raw_key_present
    assert settings.node_count == 1
    assert settings.kms_max_retries == 10
    assert settings.kms_signatures_per_second == 950
    assert settings.jwt_algorithm == "ES256"


@given(st.text() | st.sampled_from([" Development\n", "TEST", "dev", "\u0442est"]))
def test_only_two_names_are_not_production(value: str) -> None:
    """In any case, and with blanks around them."""

    harmless = value.strip().lower() in ("development", "test")

    assert Settings.from_env({"APP_ENV": value}).is_production != harmless


@pytest.mark.parametrize("name", ["METRICS_OPEN", "DEBUG"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("true", True),
        ("True", True),
        (" TRUE ", True),
        ("false", False),
        ("FALSE", False),
        ("", False),
        ("  ", False),
    ],
)
def test_booleans_are_true_or_false(name: str, value: str, expected: bool) -> None:
    """`true` and `false` in any case; an empty value is unset, which is false."""
    settings = Settings.from_env({name: value})

    assert getattr(settings, name.lower()) is expected


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "pkcs11"),
        ({"USE_KMS": "", "KEY_BACKEND": " "}, "pkcs11"),
        ({"USE_KMS": "false"}, "pkcs11"),
        ({"USE_KMS": "true"}, "aws-kms"),
        ({"KEY_BACKEND": "aws-kms"}, "aws-kms"),
        ({"KEY_BACKEND": "aws-kms", "USE_KMS": "true"}, "aws-kms"),
        ({"KEY_BACKEND": "pkcs11", "USE_KMS": "false"}, "pkcs11"),
        ({"KEY_BACKEND": "google-cloud-kms"}, "google-cloud-kms"),
        ({"KEY_BACKEND": "google-cloud-kms", "USE_KMS": "false"}, "google-cloud-kms"),
    ],
)
def test_one_backend_is_selected(environ: dict[str, str], name: str) -> None:
    """USE_KMS=true is short for KEY_BACKEND=aws-kms."""
    assert Settings.from_env(environ).backend_name == name


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"KEY_BACKEND": "aws-kms", "USE_KMS": "false"}, "contradicts USE_KMS=false"),
        ({"KEY_BACKEND": "pkcs11", "USE_KMS": "true"}, "contradicts USE_KMS=true"),
        ({"KEY_BACKEND": "other", "USE_KMS": "true"}, "contradicts USE_KMS=true"),
        ({"KEY_BACKEND": "AWS-KMS"}, "KEY_BACKEND"),
        ({"KEY_BACKEND": "a/b"}, "KEY_BACKEND"),
        ({"KEY_BACKEND": "other", "USE_KMS": "perhaps"}, "USE_KMS"),
    ],
)
def test_a_contradiction_is_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        Settings.from_env(environ)

    assert [refusal.code for refusal in caught.value.refusals] == ["settings-invalid"]


@pytest.mark.parametrize("name", ["USE_KMS", "DEBUG"])
@pytest.mark.parametrize("value", ["1", "0", "yes", "no", "on", "t", "truee", "null"])
def test_other_words_are_not_booleans(name: str, value: str) -> None:
    """USE_KMS=1 is refused at start-up."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({name: value})

    assert [refusal.code for refusal in caught.value.refusals] == ["settings-invalid"]
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "name", [RAW_KEY, RAW_KEY.lower(), RAW_KEY.title(), "merchant_WALLET_private_KEY"]
)
@pytest.mark.parametrize(
    ("value", "present"),
    [("0x" + "11" * 32, True), ("x", True), ("", False), (" \t\n", False)],
)
def test_raw_key_is_detected_but_not_read(name: str, value: str, present: bool) -> None:
    """Any value under any case of the name counts, and no setting stores it."""
    settings = Settings.from_env({name: value, "raw_key_present": "false"})

    assert settings.raw_key_present is present
    assert "11" * 32 not in repr(settings)
    assert "11" * 32 not in str(settings.model_dump())


@pytest.mark.parametrize("name", CREDENTIALS)
def test_credentials_are_detected_by_name(name: str) -> None:
    """Their names are kept; no variable can claim that there are none (G19, H19)."""
    settings = Settings.from_env({name: CANARY, "credentials": ""})

    assert settings.credentials == (name,)
    if name != RAW_KEY:  # Each of its values is one too many.
        assert Settings.from_env({name: os.devnull}).credentials == ()
    assert Settings.from_env({name: " \t"}).credentials == ()
    if name.startswith("AWS_"):
        assert CANARY not in str(settings.model_dump())
    secrets = ("PKCS11_PIN", "DATABASE_URL", "JWT_SECRET", "KMS_KEY_ID")
    for secret in (*secrets, "AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"):
        assert CANARY not in repr(Settings.from_env({secret: CANARY}))


@pytest.mark.parametrize(
    ("value", "role", "has_key"),
    [
        (None, Role.ALL, True),
        (" ", Role.ALL, True),
        ("all", Role.ALL, True),
        (" admin ", Role.ADMIN, True),
        ("refunds", Role.REFUNDS, False),
    ],
)
def test_only_the_role_for_refunds_has_no_key(
    value: str | None, role: Role, has_key: bool
) -> None:
    settings = Settings.from_env({} if value is None else {"SERVE_ROLE": value})

    assert (settings.serve_role, settings.serve_role.has_key) == (role, has_key)


OUT_OF_RANGE = {
    "SERVE_ROLE": ("worker", "Refunds", "refunds,admin", "none"),
    "NODE_COUNT": ("0", "two"),
    "KMS_MAX_RETRIES": ("-1", "11"),
    "KMS_TIMEOUT_MS": ("499", "120001", "1e4"),
    "KMS_SIGNATURES_PER_SECOND": ("-1", "100001", "0.5"),
    "KMS_MAX_CONCURRENCY": ("0", "257"),
    "WEB_CONCURRENCY": ("0",),
    "WEB_THREADS": ("65",),
    "JWT_ALGORITHM": ("none", "es256"),
    "WALLET_ADDRESS": (
        *("0x" + "1" * 39, "0x" + "1" * 41, "1" * 40, "0x" + "g" * 40),
        "0x" + "1" * 40 + "\n0x",
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C7",  # Of ...C8.
    ),
    "PKCS11_KEY_ID": ("0", "0A", "01" * 33, "hot"),
    "AUDIT_ORIGIN": (
        *("with space", "prod-eu-central-1", "us-gov-west-1/wallet"),
        *("prod-111122223333", "wallet.amazonaws.com"),
    ),
    "BIND": (
        *("nonsense", "8080", "::1", "[::1]", "[]:80", "127.0.0.1:http"),
        *("127.0.0.1:65536", "a:1,b:2", "fd://x", "UNIX:/run/s", "unix:"),
    ),
    "RUNBOOK_URL": ("docs/alarms.md", "https://x/#y", "javascript:x", "https://x/ y"),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in OUT_OF_RANGE.items() for value in values],
)
def test_value_out_of_range_is_refused(name: str, value: str) -> None:
    """The refusal names the variable and does not show the value."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({name: value})

    (refusal,) = caught.value.refusals
    assert refusal.code == "settings-invalid"
    assert refusal.message.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("KMS_MAX_RETRIES", ("0", "10")),
        ("KMS_TIMEOUT_MS", ("500", "120000")),
        ("KMS_SIGNATURES_PER_SECOND", ("0", "100000")),
        ("KMS_MAX_CONCURRENCY", ("1", "256")),
        ("WEB_CONCURRENCY", ("64",)),
        ("WEB_THREADS", ("1",)),
    ],
)
def test_limits_of_ranges_are_accepted(name: str, values: tuple[str, ...]) -> None:
    for value in values:
        assert int(value) in Settings.from_env({name: value}).model_dump().values()


def test_all_invalid_variables_are_reported_together() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({"USE_KMS": "1", "NODE_COUNT": "x", "WEB_THREADS": "0"})

    named = {refusal.message.split(":")[0] for refusal in caught.value.refusals}
    assert named == {"USE_KMS", "NODE_COUNT", "WEB_THREADS"}


_VARIABLES = sorted(
    alias
    for field in Settings.model_fields.values()
    if (alias := str(field.alias)).isupper()
)


def _outcome(environ: dict[str, str]) -> Settings | ConfigurationError:
    try:
        return Settings.from_env(environ)
    except ConfigurationError as e:
        return e


@given(st.dictionaries(st.sampled_from(_VARIABLES), st.text(max_size=12)))
def test_any_environment_is_settings_or_refusals(environ: dict[str, str]) -> None:
    """Any values of our variables give settings, or refusals that name variables."""
    outcome = _outcome(environ)

    if isinstance(outcome, ConfigurationError):
        assert {refusal.message.split(":")[0] for refusal in outcome.refusals} <= {
            *environ
        }
    else:
        assert outcome == Settings.from_env(environ)


@pytest.mark.parametrize("name", _VARIABLES)
def test_refusals_do_not_show_values(name: str) -> None:
    """The value of a variable may be a secret in the wrong place."""
    outcome = _outcome({name: CANARY})

    if isinstance(outcome, ConfigurationError):
        shown = "".join(traceback.format_exception(outcome))
        assert CANARY not in shown + repr(outcome.refusals)


def test_settings_are_immutable() -> None:
    """The settings are frozen, and unknown fields are refused."""
    settings = Settings.from_env({})

    with pytest.raises(ValidationError):
        settings.debug = True
    with pytest.raises(ValidationError):
        Settings.model_validate({"DEBUGG": "true"})
    assert Settings.model_validate({"USE_KMS": True, "DEBUG": False}).use_kms is True
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "sqlite:///.hotwallet/hotwallet.db"),
        ({"HOTWALLET_HOME": "/srv/hw"}, "sqlite:////srv/hw/hotwallet.db"),
        ({"DATABASE_URL": "postgresql://h/d"}, "postgresql://h/d"),
        ({"DATABASE_URL": " "}, "sqlite:///.hotwallet/hotwallet.db"),
    ],
)
def test_database_defaults_to_sqlite(environ: dict[str, str], url: str) -> None:
    """Without a URL, the database is a file under HOTWALLET_HOME."""
    assert Settings.from_env(environ).effective_database_url == url


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, True),
        ({"REQUIRE_APPROVALS": "false"}, True),
        ({"APP_ENV": "staging"}, True),
        ({"APP_ENV": "test"}, False),
        ({"APP_ENV": "test", "REQUIRE_APPROVALS": "true"}, True),
        ({"APP_ENV": "test", "REQUIRE_APPROVALS": "keys"}, True),
        ({"APP_ENV": "development", "REQUIRE_APPROVALS": "false"}, False),
    ],
)
def test_production_always_needs_approvals(
    environ: dict[str, str], expected: bool
) -> None:
    """No variable lets one administrator act alone in production."""
    assert Settings.from_env(environ).needs_approvals is expected


def test_values_are_stripped_and_typed() -> None:
    """Blanks around a value are removed; paths and secrets have their types."""
    settings = Settings.from_env(
        {
            "PKCS11_PIN": " 1234 ",
            "PKCS11_PIN_FILE": "/run/pin",
            "EVENT_RETENTION_DAYS": "7",
            "RUNBOOK_URL": "https://docs.example/a.html",
        }
    )

    assert settings.pkcs11_pin == SecretStr("1234")
    assert settings.pkcs11_pin_file == Path("/run/pin")
    assert settings.event_retention == timedelta(days=7)
    assert settings.runbook_url == "https://docs.example/a.html"
    assert Settings.from_env({}).event_retention == timedelta(days=90)
