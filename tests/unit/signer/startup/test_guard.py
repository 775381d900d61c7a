"""The start-up guard refuses every unsafe configuration, with a code for each."""

import ast
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from threading import Event
from typing import Any, cast

import bitcurve
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from eth_abi.abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from api.views.codes import load_codes
from signer.config.networks import Network
from signer.config.settings import CREDENTIALS, RAW_KEY, Settings
from signer.errors import (
    AccessDeniedError,
    BackendUnavailableError,
    ChainUnavailableError,
    ConfigurationError,
    ExecutionRevertedError,
    KeyNotFoundError,
    KeyNotProtectedError,
    KeyUnusableError,
    PINRefusedError,
    Refusal,
    StoreError,
)
from signer.keys.signer import Signer
from signer.ports.audit_journal import Journal
from signer.startup.dependency_checks import (
    check_audit_key,
    check_chain,
    check_journal,
    self_test_key,
)
from signer.startup.guard import EXIT_STATUS, NOT_SAFE, check_settings
from tests.fixtures.scripted_chain import CHAIN_ID, DECIMALS, TOKEN, ScriptedChain
from tests.support.devices import KEY_ID, Device, honest, planted, point, signer_over
from tests.support.refunds import altered
from tests.unit.production_code import production_nodes


PRODUCTION = {
    "APP_ENV": "production",
    "USE_KMS": "true",
    "KMS_KEY_ID": KEY_ID,
    "AWS_REGION": "eu-central-1",
    "DATABASE_URL": "postgresql+psycopg://refunds@db/refunds?sslmode=verify-full",
    "TENANTS_FILE": "/etc/hotwallet/tenants.toml",
    "AUDIT_SIGNING_KEY_FILE": "/run/secrets/audit.pem",
    "MAC_KEY_FILE": "/run/secrets/mac.key",
}
KEY = bitcurve.PrivateKey.from_int(0x6A4D)


def _network(*urls: str) -> Network:
    return Network.model_validate(
        {
            "chain_id": CHAIN_ID,
            "rpc_urls": [*urls],
            "tokens": {
                "TUSD": {"address": TOKEN, "decimals": DECIMALS, "max_amount": "10"}
            },
        }
    )


NETWORKS = {"base": _network("https://node.example/KEY")}


def _check(
    environ: Mapping[str, str], networks: Mapping[str, Network] = NETWORKS
) -> tuple[list[str], list[str]]:
    """Return the codes of the refusals, and the warnings."""
    try:
        return [], check_settings(Settings.from_env(environ), networks)
    except ConfigurationError as e:
        return [refusal.code for refusal in e.refusals], []


SQLITE = {"DATABASE_URL": "sqlite:////var/lib/hotwallet/hotwallet.db"}


@pytest.mark.parametrize("url", [SQLITE, {"DATABASE_URL": ""}])
@pytest.mark.parametrize(
    ("role", "alone", "codes"),
    [
        ("all", True, []),  # `hotwallet up`, a small deployment.
        ("all", False, ["sqlite-multi-node"]),
        ("admin", True, ["sqlite-multi-node"]),
        ("sign", True, ["sqlite-multi-node"]),
    ],
)
def test_processes_beside_others_need_postgresql(
    url: dict[str, str], role: str, codes: list[str], *, alone: bool
) -> None:
    """Without DATABASE_URL, each would have a ledger of its own."""
    environ = {**PRODUCTION, **url, "SERVE_ROLE": role}
    found: list[str] = []
    try:
        check_settings(Settings.from_env(environ), NETWORKS, alone=alone)
    except ConfigurationError as e:
        found = [refusal.code for refusal in e.refusals]

    assert found == codes


APP_ENVS = {
    None: True,
    "": True,
    " ": True,
    "production": True,
    " PRODUCTION ": True,
    "Prod": True,
    "staging": True,
    "development": False,
    " Development": False,
    "TEST\n": False,
}
USE_KMS = {
    None: False,
    "": False,
    "  ": False,
    "false": False,
    "FALSE": False,
    "true": True,
    " True ": True,
}
KEYS = {None: False, "": False, " \t": False, KEY_ID: True}
REGIONS = {None: False, "": False, "eu-central-1": True}
RAW_KEYS = {None: False, "": False, " ": False, "0x11": True}


def test_the_table_of_keys_in_every_combination() -> None:
    """
    The refusals for all 3,360 combinations of the settings that select a key.

    Unset, empty and blank values are equal, and only `development` and `test`, in any
    case, are not production.
    """
    tables = (APP_ENVS, USE_KMS, KEYS, REGIONS, RAW_KEYS)
    names = ("APP_ENV", "USE_KMS", "KMS_KEY_ID", "AWS_REGION", RAW_KEY)
    for values in product(*tables):
        given = zip(names, values, strict=True)
        environ = {name: value for name, value in given if value is not None}
        production, kms, key, region, raw = (
            table[value] for table, value in zip(tables, values, strict=True)
        )
        expected = [
            *["kms-not-configured"] * (production and not kms),
            *["kms-not-configured"] * (kms and not key),
            *["kms-not-configured"] * (kms and not region),
            *["raw-key-forbidden"] * (production and raw),
            *["tenants-missing", "audit-key-missing", "mac-key-missing"] * production,
        ]

        refusals, warnings = _check(environ)

        assert sorted(refusals) == sorted(expected), environ
        if not expected:
            assert (NOT_SAFE in warnings) == (not kms), environ
            assert any(RAW_KEY in warning for warning in warnings) == raw, environ


UNSAFE = [
    ("raw-key-forbidden", {RAW_KEY: "0x11"}),
    ("raw-key-forbidden", {RAW_KEY.lower(): " x "}),
    ("softhsm-module-forbidden", {"PKCS11_MODULE": "/usr/lib/libsofthsm2.so"}),
    ("softhsm-config-forbidden", {"SOFTHSM2_CONF": "/etc/softhsm2.conf"}),
    ("kms-endpoint-forbidden", {"AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:1"}),
    ("kms-endpoint-forbidden", {"AWS_ENDPOINT_URL": "https://kms.example"}),
    # Also beside AWS KMS, and in a process without a key.
    ("kms-endpoint-forbidden", {"GOOGLE_CLOUD_KMS_ENDPOINT": "http://127.0.0.1:1"}),
    ("kms-key-not-allowed", {"KMS_KEY_ID": "alias/refunds"}),
    ("kms-key-not-allowed", {"KMS_KEY_ID": "1234abcd-12ab-34cd-56ef-1234567890ab"}),
    ("debug-forbidden", {"DEBUG": "true"}),
    ("approvals-required", {"REQUIRE_APPROVALS": "false"}),
    ("debug-forbidden", {"DEBUG": " TRUE"}),
    ("sqlite-multi-node", {"NODE_COUNT": "2", "DATABASE_URL": ""}),
    ("sqlite-multi-node", {"NODE_COUNT": "2", "DATABASE_URL": "sqlite:////a.db"}),
    ("sqlite-multi-node", {"NODE_COUNT": "2", "DATABASE_URL": "SQLite:////a.db"}),
    ("sqlite-multi-node", {"NODE_COUNT": "2", "DATABASE_URL": "mysql://h/d"}),
    *(
        ("database-insecure", {"DATABASE_URL": f"postgresql://{url}"})
        for url in (
            *("h/d", "u:p@h/d?sslmode=disable", "h/d?sslmode=require"),
            *("h/d?sslmode=verify-ca", "h/d?sslmode=verify-full&sslmode=disable", "/d"),
            *("/d?host=h", "/d?host=/run,h", "h/d?host=/run"),
            *("/d?host=/run&hostaddr=192.0.2.1", "/d?host=/run&service=other"),
            *("u:p#w@h/d?sslmode=verify-full", "u:x?sslmode=verify-full&y=@h/d"),
            "[h/d?sslmode=verify-full",
        )
    ),
    *(
        ("database-insecure", {"DATABASE_URL": "postgresql:///d?host=/run", name: "x"})
        for name in ("PGHOSTADDR", "PGSERVICE")
    ),
    ("jwt-shared-secret", {"JWT_ALGORITHM": "HS256"}),
    ("jwt-shared-secret", {"JWT_SECRET": "x" * 64}),
    ("jwt-signing-key-forbidden", {"JWT_SIGNING_KEY_FILE": "/run/jwt.pem"}),
    ("jwks-insecure", {"JWT_JWKS_URL": "http://issuer.example/keys"}),
    ("jwks-insecure", {"JWT_JWKS_URL": " HTTP://issuer.example/keys"}),
    ("jwks-insecure", {"JWT_JWKS_URL": "file:///etc/keys"}),
    ("webhook-insecure", {"ALERT_WEBHOOK_URL": "http://pager.example/T0KEN"}),
    ("webhook-insecure", {"ALERT_WEBHOOK_URL": "https:pager.example"}),
    ("proxy-missing", {"BIND": "0.0.0.0:8080"}),
    ("proxy-missing", {"BIND": ":8080", "TRUSTED_PROXIES": " "}),
    ("proxy-anybody", {"TRUSTED_PROXIES": "10.0.0.0/8, 0.0.0.0/0"}),
    ("proxy-anybody", {"BIND": "0.0.0.0:1", "TRUSTED_PROXIES": "::/0"}),
]


@pytest.mark.parametrize(("code", "unsafe"), UNSAFE)
def test_each_danger_has_its_own_refusal(code: str, unsafe: dict[str, str]) -> None:
    """P15: each spelling of production refuses it; an empty variable is unset."""
    environ = {**PRODUCTION, **unsafe}
    unnamed = {name: value for name, value in environ.items() if name != "APP_ENV"}

    assert _check(unnamed) == ([code], [])
    for app_env in ("", "production", "Production ", "x"):
        assert _check({**environ, "APP_ENV": app_env}) == ([code], []), app_env
    for app_env in ("development", "test", " TEST "):
        assert _check({**environ, "APP_ENV": app_env})[0] == [], app_env
    for empty in ("", "  ", "\t\n"):
        unset = {name: empty for name in unsafe if name not in PRODUCTION}
        assert _check({**PRODUCTION, **unset})[0] == [], repr(empty)


@pytest.mark.parametrize("app_env", ["production", "test"])
def test_keys_can_be_demanded_for_approvals(app_env: str) -> None:
    environ = {**PRODUCTION, "APP_ENV": app_env, "REQUIRE_APPROVALS": "keys"}

    assert _check(environ)[0] == ["approvers-missing"]
    assert _check({**environ, "APPROVERS_FILE": "approvers.toml"})[0] == []


@pytest.mark.parametrize("app_env", ["production", "test"])
def test_the_configured_key_must_be_allowed(app_env: str) -> None:
    """A list without the key of ``KMS_KEY_ID`` is a mistake; one with it names all."""
    other = KEY_ID.replace("111122223333", "444455556666")
    environ = {**PRODUCTION, "APP_ENV": app_env}
    alias = {"KMS_KEY_ID": "alias/refunds", "KMS_ALLOWED_KEYS": KEY_ID}

    assert _check({**environ, "KMS_ALLOWED_KEYS": other})[0] == ["kms-key-not-allowed"]
    assert _check({**environ, "KMS_ALLOWED_KEYS": f"{other},{KEY_ID}"})[0] == []
    assert _check({**environ, **alias})[0] == []


HSM = {
    **{name: PRODUCTION[name] for name in PRODUCTION if "KMS" not in name},
    "KEY_BACKEND": "pkcs11",
    "PKCS11_MODULE": "/opt/hsm/module.so",
    "PKCS11_PIN_FILE": "/run/secrets/pin",
    "WALLET_ADDRESS": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
}


@pytest.mark.parametrize(
    ("changed", "codes"),
    [
        ({}, []),
        ({"KEY_BACKEND": ""}, ["kms-not-configured", "softhsm-module-forbidden"]),
        ({"PKCS11_MODULE": " "}, ["softhsm-module-forbidden"]),
        ({"PKCS11_PIN": "canary"}, ["pkcs11-pin-exposed"]),
        ({"PKCS11_PIN_FILE": ""}, ["pkcs11-pin-exposed"]),
        (
            {
                "PKCS11_PIN_FILE": "",
                "PKCS11_TOKEN_LABEL": "pkcs11:token=a?pin-source=%7C/opt/pin",
            },
            [],
        ),
        ({"WALLET_ADDRESS": ""}, ["wallet-address-missing"]),
        ({"SOFTHSM2_CONF": "/etc/softhsm2.conf"}, ["softhsm-config-forbidden"]),
    ],
)
def test_production_with_an_hsm_needs_its_settings(
    changed: dict[str, str], codes: list[str]
) -> None:
    """Without a warning; outside of production, SoftHSM needs none of them."""
    environ = {**HSM, **changed}

    assert _check(environ) == (codes, [])
    assert _check({**environ, "APP_ENV": "test"}) == ([], [NOT_SAFE])


# A process that serves refunds only, in production: it has no setting of a key.
REFUNDS = {
    "SERVE_ROLE": "refunds",
    **{
        name: PRODUCTION[name]
        for name in ("APP_ENV", "DATABASE_URL", "TENANTS_FILE", "MAC_KEY_FILE")
    },
}


@pytest.mark.parametrize("app_env", ["production", "development", "test"])
@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_process_for_refunds_refuses_credentials(name: str, app_env: str) -> None:
    """In every environment, by name and not by value; an empty variable is unset."""
    environ = {**REFUNDS, "APP_ENV": app_env}
    with pytest.raises(ConfigurationError) as caught:
        check_settings(Settings.from_env({**environ, name: " canary "}), NETWORKS)
    found = [refusal for refusal in caught.value.refusals if "role" in refusal.code]

    assert [refusal.code for refusal in found] == ["role-has-credentials"]
    assert str(found[0]).endswith(f": unset {name}")
    assert "canary" not in str(caught.value)
    for empty in ("", "  ", "\t\n"):
        assert _check({**environ, name: empty})[0] == []


def test_all_credentials_are_named_together() -> None:
    """The raw key counts in every spelling of its name, and the source of a PIN."""
    assert _check(REFUNDS) == ([], [])
    assert _check({**REFUNDS, "APP_ENV": "test"}) == ([], [])
    for label, codes in (
        ("pkcs11:token=a?pin-source=file:/run/pin", ["role-has-credentials"]),
        ("pkcs11:token=a?pin-source=|/opt/pin", ["role-has-credentials"]),
        ("pkcs11:token=a;model=pin-source=b", []),
    ):
        assert _check({**REFUNDS, "PKCS11_TOKEN_LABEL": label})[0] == codes

    others = [name for name in CREDENTIALS if name != RAW_KEY]
    environ = dict.fromkeys([RAW_KEY.lower(), *others], "canary")
    with pytest.raises(ConfigurationError) as caught:
        check_settings(
            Settings.from_env({**REFUNDS, **environ, "APP_ENV": "test"}), NETWORKS
        )
    (refusal,) = caught.value.refusals

    assert refusal.code == "role-has-credentials"
    assert str(refusal).endswith(f"unset {', '.join(CREDENTIALS)}")


@pytest.mark.parametrize(
    ("role", "missing"),
    [
        ("all", ["audit-key-missing"]),
        ("admin", ["audit-key-missing"]),
        ("sign", []),
    ],
)
def test_other_roles_need_their_credentials(role: str, missing: list[str]) -> None:
    """
    The settings of the key are required, and credentials are accepted.

    A process that does not seal the audit log needs no key for checkpoints.
    """
    environ = {**PRODUCTION, "SERVE_ROLE": role}
    credentials = {
        name: "canary"
        for name in CREDENTIALS
        if name not in {RAW_KEY, "AUDIT_SIGNING_KEY_FILE"}
    }

    assert _check({**environ, **credentials}) == ([], [])
    assert _check({**REFUNDS, "SERVE_ROLE": role})[0] == [
        "kms-not-configured",
        *missing,
    ]


@pytest.mark.parametrize("role", ["all", "refunds", "admin", "sign"])
def test_the_worker_has_the_key_in_every_role(role: str) -> None:
    """``SERVE_ROLE`` says what ``serve`` serves; the worker serves nothing."""

    def check(environ: Mapping[str, str]) -> list[str]:
        given = Settings.from_env({**environ, "SERVE_ROLE": role})
        try:
            check_settings(given, NETWORKS, serving=False)
        except ConfigurationError as e:
            return [refusal.code for refusal in e.refusals]
        return []

    assert check({**PRODUCTION, "AWS_ACCESS_KEY_ID": "canary"}) == []
    assert check(REFUNDS) == ["kms-not-configured", "audit-key-missing"]


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_safe_production_starts_without_a_warning(scheme: str) -> None:
    """KMS, https and any PostgreSQL URL cause no refusal, also with several nodes."""
    environ = {"NODE_COUNT": "2", "DATABASE_URL": f"{scheme}://h/d?sslmode=verify-full"}

    assert _check(PRODUCTION) == ([], [])
    assert _check({**PRODUCTION, **environ}) == ([], [])
    socket = {"DATABASE_URL": f"{scheme}://u:p@/d?host=/run/postgresql"}
    assert _check({**PRODUCTION, **socket}) == ([], [])


# Of each variable: the code, and values that production refuses and accepts.
SPELLINGS: dict[str, tuple[str, list[str | None], list[str | None]]] = {
    RAW_KEY: ("raw-key-forbidden", ["0x11", " x "], [None, "", " \t"]),
    "PKCS11_MODULE": ("softhsm-module-forbidden", ["/softhsm.so", "."], [None, "\n"]),
    "SOFTHSM2_CONF": ("softhsm-config-forbidden", ["/etc/x.conf", "x "], [None, " "]),
    "AWS_ENDPOINT_URL_KMS": ("kms-endpoint-forbidden", ["http://h:1", "x"], [None, ""]),
    "DEBUG": ("debug-forbidden", ["tRuE"], [None, "", "false", " False "]),
    "NODE_COUNT": ("sqlite-multi-node", [], [None, "", " 1 "]),
    "JWT_SECRET": ("jwt-shared-secret", ["x", "x" * 64], [None, "", "  "]),
    "JWT_SIGNING_KEY_FILE": ("jwt-signing-key-forbidden", ["/a", " a "], [None, "\t"]),
    "JWT_JWKS_URL": (
        "jwks-insecure",
        ["hTTp://issuer.example", "issuer.example"],
        [None, " ", "https://issuer.example", " HTTPS://issuer.example "],
    ),
    "TENANTS_FILE": ("tenants-missing", [None, "", "\n"], ["/etc/tenants.toml"]),
    "AUDIT_SIGNING_KEY_FILE": ("audit-key-missing", [None, "", " \n"], ["/a", " a "]),
    "MAC_KEY_FILE": ("mac-key-missing", [None, "", " \t"], ["/run/mac.key", " m "]),
    "ALERT_WEBHOOK_URL": (
        "webhook-insecure",
        ["http://pager.example", " HTTP://pager.example"],
        [None, "", "Https://pager.example"],
    ),
    "BIND": ("proxy-missing", ["[::]:80", "0:80"], [None, "", " LOCALHOST:80 "]),
}


def _with_values(values: Mapping[str, str | None]) -> tuple[dict[str, str], list[str]]:
    """Return the environment in which *values* are set, and what must be refused."""
    given: dict[str, str | None] = {**PRODUCTION, **values}
    environ = {name: value for name, value in given.items() if value is not None}
    refused = [
        code
        for name, (code, forbidden, _) in SPELLINGS.items()
        if name in values and values[name] in forbidden
    ]
    return environ, refused


@given(
    values=st.fixed_dictionaries(
        {
            name: st.sampled_from([*forbidden, *accepted])
            for name, (_, forbidden, accepted) in SPELLINGS.items()
        }
    ),
    app_env=st.sampled_from(list(APP_ENVS)),
)
@settings(max_examples=300)
def test_combinations_report_every_refusal(
    values: dict[str, str | None], app_env: str | None
) -> None:
    """No variable hides another one's refusal, in any spelling."""
    environ, refused = _with_values({**values, "APP_ENV": app_env})

    expected = refused if APP_ENVS[app_env] else []
    assert sorted(_check(environ)[0]) == sorted(expected)


@pytest.mark.parametrize(
    ("urls", "refused"),
    [
        (["https://a"], False),
        (["HTTPS://a"], False),
        (["http://a"], True),
        (["HTTP://a"], True),
        (["https://a", "http://b"], True),
        (["ws://a"], True),
        (["a"], True),
        ([" https://a"], True),
        (["http:https://a"], True),
        (["https://[bad"], False),
        (["http://[bad"], True),
    ],
)
def test_production_needs_https_for_every_rpc_url(
    urls: list[str], refused: bool
) -> None:
    """One http URL is enough for a refusal, which does not show it."""
    networks = {**NETWORKS, "other": _network(*urls)}

    assert _check(PRODUCTION, networks)[0] == ["rpc-insecure"] * refused
    assert _check({**PRODUCTION, "APP_ENV": "test"}, networks)[0] == []


def test_all_refusals_are_reported_together() -> None:
    """P15: the seven refusals and more are reported together, without values."""
    environ = {
        RAW_KEY: "0x11",
        "PKCS11_MODULE": "/canary/libsofthsm2.so",
        "SOFTHSM2_CONF": "/canary/softhsm2.conf",
        "AWS_ENDPOINT_URL_KMS": "http://canary",
        "DEBUG": "true",
        "NODE_COUNT": "3",
        "JWT_ALGORITHM": "HS256",
        "JWT_SECRET": "canary",
        "JWT_SIGNING_KEY_FILE": "/canary/key",
        "JWT_JWKS_URL": "http://canary",
        "ALERT_WEBHOOK_URL": "http://canary",
        "BIND": "canary:8080",
    }

    with pytest.raises(ConfigurationError) as caught:
        check_settings(Settings.from_env(environ), {"n": _network("http://canary")})

    assert {refusal.code for refusal in caught.value.refusals} == {
        *("kms-not-configured", "raw-key-forbidden", "softhsm-module-forbidden"),
        *("softhsm-config-forbidden", "kms-endpoint-forbidden", "debug-forbidden"),
        *("sqlite-multi-node", "jwt-shared-secret", "jwt-signing-key-forbidden"),
        *("jwks-insecure", "tenants-missing", "audit-key-missing", "mac-key-missing"),
        *("webhook-insecure", "rpc-insecure", "proxy-missing"),
    }
    assert "canary" not in str(caught.value)
    assert not any("\n" in str(refusal) for refusal in caught.value.refusals)


@pytest.mark.parametrize(
    "environ",
    [
        {"APP_ENV": "development"},
        {"APP_ENV": "test", "USE_KMS": "false"},
        {**PRODUCTION, "APP_ENV": "test", "AWS_ENDPOINT_URL_KMS": "http://h"},
        {**PRODUCTION, "APP_ENV": "test", "AWS_ENDPOINT_URL": "http://h"},
    ],
)
def test_key_outside_kms_causes_a_warning(environ: dict[str, str]) -> None:
    """SoftHSM and emulators are accepted in development, with a warning."""
    _, warnings = _check(environ)

    assert len(warnings) == 1
    assert "NOT SAFE FOR PRODUCTION" in warnings[0]
    _, (_, raw_key) = _check({**environ, RAW_KEY: "0x11"})
    assert "hotwallet softhsm import" in raw_key
    assert "0x11" not in raw_key


KMS = Settings.from_env(PRODUCTION)
SOFTHSM = Settings.from_env({"APP_ENV": "test"})


@pytest.mark.parametrize("limit", [{}, {"seconds": 30}], ids=["default", "given"])
def test_key_that_signs_passes_the_self_test(limit: Any) -> None:
    """The signer is returned after one test signature."""
    device = honest(KEY)

    signer = self_test_key(KMS, "KMS_KEY_ID", lambda: signer_over(device), **limit)

    assert signer.public_key.uncompressed == point(KEY)
    assert device.calls == 1


@pytest.mark.parametrize(("settings", "kind"), [(KMS, "kms"), (SOFTHSM, "pkcs11")])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyNotFoundError("there is no such key"), "not-configured"),
        (KeyUnusableError("the key is disabled"), "signing-error"),
        (AccessDeniedError("the role may not sign"), "signing-error"),
        (BackendUnavailableError("no answer"), "signing-error"),
    ],
)
@pytest.mark.parametrize("when", ["opening", "signing"])
def test_key_that_does_not_sign_is_refused(
    settings: Settings, kind: str, error: Exception, code: str, when: str
) -> None:
    """A missing key is not configured; every other failure is a signing error."""

    def open_signer() -> Signer:
        if when == "opening":
            raise error
        return signer_over(planted(point(KEY), error))

    with pytest.raises(ConfigurationError) as caught:
        self_test_key(settings, "KMS_KEY_ID", open_signer)

    (refusal,) = caught.value.refusals
    assert refusal.code == f"{kind}-{code}"
    assert str(error) in refusal.message
    assert ("check KMS_KEY_ID and WALLET_ADDRESS" in refusal.message) == (kind == "kms")


def test_other_failures_of_the_self_test() -> None:
    """A wrong signature is refused; a bug propagates with its traceback."""
    other = bitcurve.PrivateKey.from_int(5)
    faulty = Device(point(KEY), lambda digest: other.sign(digest, hasher=None))
    bug = planted(point(KEY), ZeroDivisionError())

    with pytest.raises(ConfigurationError, match="kms-signing-error"):
        self_test_key(KMS, "KMS_KEY_ID", lambda: signer_over(faulty))
    with pytest.raises(ZeroDivisionError):
        self_test_key(KMS, "KMS_KEY_ID", lambda: signer_over(bug))


def _refused(error: Exception) -> ConfigurationError:
    """Return the refusal of a key in a token that *error* is about."""
    with pytest.raises(ConfigurationError) as caught:
        self_test_key(
            SOFTHSM,
            "PKCS11_KEY_ID",
            lambda: signer_over(planted(point(KEY), error)),
        )
    return caught.value


def test_a_refused_pin_has_its_own_exit_status() -> None:
    """systemd does not restart then; one that cannot be read may be there later."""
    refused = _refused(PINRefusedError("the token does not accept the PIN"))
    unread = _refused(AccessDeniedError("the PIN file cannot be read"))

    assert (refused.exit_status, unread.exit_status) == (os.EX_NOPERM, EXIT_STATUS)
    assert "each start tries the PIN once" in str(refused)
    assert "hotwallet softhsm doctor" in str(unread)
    # Each weakness of a key is a refusal, with the code of the device.
    found = [Refusal("pkcs11-key-imported", "a"), Refusal("pkcs11-key-exposed", "b")]
    weak = _refused(KeyNotProtectedError("two", found))
    assert ([*weak.refusals], weak.exit_status) == (found, EXIT_STATUS)


def test_key_that_hangs_is_refused_after_the_given_time() -> None:
    """The refusal is transient, as that of a device that reports the outage itself."""
    released = Event()

    def open_signer() -> Signer:
        released.wait()
        raise BackendUnavailableError("late")

    with pytest.raises(ConfigurationError, match="no answer in time") as caught:
        self_test_key(KMS, "KMS_KEY_ID", open_signer, seconds=0.01)
    released.set()

    assert caught.value.is_transient


LOCAL = _network("http://127.0.0.1:8545")


def _chain_refusals(chain: ScriptedChain, network: Network = LOCAL) -> list[str]:
    try:
        check_chain("local", network, chain)
    except ConfigurationError as e:
        return [
            refusal.code
            for refusal in e.refusals
            if refusal.message.startswith("networks.local")
        ]
    return []


def test_node_on_another_chain_is_refused() -> None:
    """T5: the chain id is checked before anything else."""
    assert _chain_refusals(ScriptedChain()) == []
    chain = ScriptedChain()
    network = LOCAL.model_copy(update={"chain_id": 1})

    assert _chain_refusals(chain, network) == ["chain-misconfigured"]
    assert chain.calls.keys() == {"chain_id"}


def test_token_without_code_is_refused() -> None:
    """Each token whose address has no contract is refused."""
    stranger = LOCAL.tokens["TUSD"].model_copy(
        update={"address": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"}
    )
    network = LOCAL.model_copy(update={"tokens": {"A": stranger, "B": stranger}})

    assert _chain_refusals(ScriptedChain(), network) == ["chain-misconfigured"] * 2


@pytest.mark.parametrize(
    ("answer", "decimals"),
    [
        (encode(("uint8",), (DECIMALS + 1,)), DECIMALS),
        (encode(("uint8",), (DECIMALS,)) + bytes(32), DECIMALS),
        (bytes([DECIMALS]), DECIMALS),
        (b"", DECIMALS),
        (b"", 0),
    ],
)
def test_token_with_other_decimals_is_refused(answer: bytes, decimals: int) -> None:
    """One decimal too few or too many is a factor of ten; an empty answer is not 0."""
    token = LOCAL.tokens["TUSD"].model_copy(update={"decimals": decimals})
    network = LOCAL.model_copy(update={"tokens": {"TUSD": token}})
    for call in (lambda call: answer, ExecutionRevertedError("no such function")):
        chain = altered(ScriptedChain(), call=call)
        assert _chain_refusals(chain, network) == ["chain-misconfigured"]


@pytest.mark.parametrize("method", ["chain_id", "code", "call"])
def test_unavailable_node_is_refused(method: str) -> None:
    """A chain that cannot be checked may be the wrong one; a later start may pass."""
    chain = ScriptedChain()
    chain.fail(method, ChainUnavailableError("no node answered"))

    with pytest.raises(ConfigurationError) as caught:
        check_chain("local", LOCAL, chain)

    assert [refusal.code for refusal in caught.value.refusals] == ["chain-unavailable"]
    assert caught.value.is_transient


WALLET = ec.derive_private_key(0x6A4D, ec.SECP256K1()).public_key()
AUDITS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate().public_key(),
    "ec": ec.generate_private_key(ec.SECP256R1()).public_key(),
}


def _der(key: Any) -> bytes:
    spki: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki


@pytest.mark.parametrize("kind", AUDITS)
def test_audit_key_must_not_verify_tokens(kind: str) -> None:
    """A7: token issuers must not be able to sign the log; every key counts."""
    others = [_der(key) for name, key in AUDITS.items() if name != kind]
    own = _der(AUDITS[kind])

    check_audit_key(own, others, _der(WALLET))
    check_audit_key(own, others, None)
    with pytest.raises(ConfigurationError) as caught:
        check_audit_key(own, [*others, own], _der(WALLET))

    assert [refusal.code for refusal in caught.value.refusals] == ["audit-key-shared"]


def test_audit_key_must_not_be_the_wallets() -> None:
    """A7: the wallet must not be able to sign the log, in any encoding of its key."""
    # A compressed point is the same key in fewer bytes: RFC 5480, section 2.2.
    point = WALLET.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = _der(WALLET)[2:20]
    content = algorithm + b"\x03" + bytes([len(point) + 1]) + b"\0" + point
    compressed = b"\x30" + bytes([len(content)]) + content

    for spki in (_der(WALLET), compressed):
        for tokens in ([], [spki]):
            with pytest.raises(ConfigurationError, match="audit-key-shared") as caught:
                check_audit_key(spki, tokens, _der(WALLET))

            assert len(caught.value.refusals) == 1 + len(tokens)


@cache
def _codes_in_the_code() -> set[str]:
    """Return every refusal code in the source."""
    return {
        code
        for nodes in production_nodes()
        for node in nodes
        for code in _codes_of(node)
    }


def _codes_of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Call(
            func=ast.Name(
                id="Refusal" | "RefusedInProduction" | "_refusal" | "refusal"
            ),
            args=[ast.Constant(value=str(code)), *_],
        ):
            yield code
        # A row of the guard's table: whether it applies, the code, the message.
        case ast.Tuple(elts=[applies, ast.Constant(value=str(code)), _]) if (
            not isinstance(applies, ast.Constant)
            and re.fullmatch("[a-z0-9]+(-[a-z0-9]+)+", code)
        ):
            yield code


# Codes that are composed, or that `_codes_of` does not find.
MORE_CODES = {
    *("kms-signing-error", "pkcs11-not-configured", "pkcs11-signing-error"),
    *("key-not-in-ring", "key-backend-mismatch", "jwt-keys-unreachable"),
    "audit-key-shared",
}


def test_every_refusal_code_is_documented() -> None:
    """``codes.toml``, from which the page is generated, explains each."""
    explained = {each["code"] for each in load_codes() if each["kind"] == "refusal"}

    assert _codes_in_the_code() | MORE_CODES <= explained
    assert {code for code, _ in UNSAFE} <= _codes_in_the_code()


@pytest.mark.parametrize(
    ("privileges", "codes"),
    [
        (lambda _: [], []),
        (lambda _: ["owns audit_records"], ["audit-not-append-only"]),
        (StoreError("it does not answer"), ["database-not-ready"]),
    ],
)
def test_production_role_must_not_change_the_audit(
    privileges: Callable[[str], list[str]] | StoreError, codes: list[str]
) -> None:
    """A role that could is refused by name; other environments are not checked."""
    journal = altered(cast("Journal", None), excess_privileges=privileges)
    check_journal(Settings.from_env({"APP_ENV": "test"}), journal)
    refusals: Sequence[Refusal] = ()
    try:
        check_journal(Settings.from_env(PRODUCTION), journal)
    except ConfigurationError as e:
        refusals = e.refusals

    assert [refusal.code for refusal in refusals] == codes


@pytest.mark.parametrize("role", ["all", "refunds", "admin"])
def test_the_database_role_is_judged_by_what_the_process_serves(role: str) -> None:
    """A worker, which serves nothing, may share a role with a process that does all."""
    asked: list[str] = []

    def excess(judged: str) -> list[str]:
        asked.append(judged)
        return []

    journal = altered(cast("Journal", None), excess_privileges=excess)
    settings = Settings.from_env({**PRODUCTION, "SERVE_ROLE": role})
    check_journal(settings, journal)
    check_journal(settings, journal, serving=False)

    assert asked == [role, "all"]


def _proxy_refusals(environ: Mapping[str, str]) -> list[str]:
    """Return the codes of the refusals."""
    try:
        check_settings(Settings.from_env(environ), {})
    except ConfigurationError as e:
        return [refusal.code for refusal in e.refusals]
    return []


BINDS = {
    None: False,
    "": False,
    "127.0.0.1:8080": False,
    "127.9.9.9:80": False,
    "tcp://127.0.0.1:8080": False,
    "[::1]:8080": False,
    "localhost:8080": False,
    " unix:/run/hotwallet.sock ": False,
    "unix:///run/hotwallet.sock": False,
    "0.0.0.0:8080": True,
    "[::]:8080": True,
    ":8080": True,
    "10.0.0.7:8080": True,
    "api.internal:8080": True,
    "localhost.example:8080": True,
    "127.0.0.1.example:8080": True,
    "fd://3": True,
}
PROXIES = {
    None: (False, False),
    "": (False, False),
    " \t": (False, False),
    "10.0.0.7": (True, False),
    "10.0.0.0/8, fc00::/7": (True, False),
    "0.0.0.0/0": (True, True),
    "10.0.0.7,::/0": (True, True),
    "128.0.0.0/1": (True, True),
    "0.0.0.0/6": (True, True),
}


@pytest.mark.parametrize(
    ("app_env", "production"),
    [(None, True), (" ", True), ("Prod", True), ("TEST", False)],
)
def test_reachable_service_needs_a_trusted_proxy(
    app_env: str | None, production: bool
) -> None:
    """
    H15: production that other hosts can reach must name its proxies.

    An address that the guard cannot read counts as reachable.
    """
    for bind, proxies in product(BINDS, PROXIES):
        given = {"APP_ENV": app_env, "BIND": bind, "TRUSTED_PROXIES": proxies}
        environ = {k: v for k, v in (PRODUCTION | given).items() if v is not None}
        named, too_many = PROXIES[proxies]
        expected = [
            *["proxy-missing"] * (BINDS[bind] and not named),
            *["proxy-anybody"] * too_many,
        ]

        assert _proxy_refusals(environ) == (expected if production else []), given


def test_shipped_containers_are_accepted() -> None:
    """The image listens beyond its host, and compose names its proxy's address."""
    docker = Path(__file__).parents[4] / "docker"
    image = (docker / "Dockerfile").read_text(encoding="utf-8")
    compose = (docker / "compose.yaml").read_text(encoding="utf-8")
    nginx = (docker / "nginx.conf").read_text(encoding="utf-8")
    (bind,) = re.findall(r"BIND=(\S+)", image)
    example = (docker.parent / ".env.example").read_text(encoding="utf-8")
    places = dict(re.findall(r"^  ([A-Z_]+): (/?[\w./:]+)$", compose, re.MULTILINE))
    named = re.findall(r"TRUSTED_PROXIES: (\S+)", compose)
    _, proxy = compose.split("\n  proxy:\n")
    shipped = PRODUCTION | {"BIND": bind}

    assert places["BIND"] == bind
    files = ("NETWORKS_FILE", "TENANTS_FILE", "MAC_KEY_FILE", "AUDIT_SIGNING_KEY_FILE")
    for place in ("BIND", "HOTWALLET_HOME", *files):
        # Compose overrides the value that the example has for a laptop.
        assert f"\n{place}=" in example
        assert place in places
    assert f"networks.toml:{places['NETWORKS_FILE']}:ro" in compose
    assert f"tenants.toml:{places['TENANTS_FILE']}:ro" in compose
    assert f"keys:{places['MAC_KEY_FILE'].removesuffix('/mac.key')}:ro" in compose
    signing = places["AUDIT_SIGNING_KEY_FILE"].removesuffix("/audit.pem")
    assert f"signing:{signing}:ro" in compose
    assert _proxy_refusals(shipped) == ["proxy-missing"]

    worker = Settings.from_env(shipped)  # It has the image's BIND and no socket.
    assert check_settings(worker, {}, serving=False) == []

    for address in named:
        assert _proxy_refusals({**shipped, "TRUSTED_PROXIES": address}) == []
    assert f"front: {{ipv4_address: {named[0]}}}" in proxy
    assert not any(address in proxy for address in named[1:])
    assert f"server api-refunds:{bind.rpartition(':')[2]};" in nginx
    assert re.findall(r"listen (\d+) ", nginx) == re.findall(r'"\d+:(\d+)"', compose)
