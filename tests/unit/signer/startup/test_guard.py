"""The start-up guard refuses every unsafe start, by name, and is not talked round."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import coincurve
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from eth_abi.abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from signer.config.networks import Network
from signer.config.settings import RAW_KEY, Settings
from signer.errors import (
    AccessDeniedError,
    BackendUnavailableError,
    ChainUnavailableError,
    ConfigurationError,
    ExecutionRevertedError,
    KeyNotFoundError,
    KeyUnusableError,
    Refusal,
    StoreError,
)
from signer.keys.signer import Signer
from signer.ports import Call, Journal
from signer.startup.guard import (
    EXIT_STATUS,
    NOT_SAFE,
    check_audit_key,
    check_chain,
    check_journal,
    check_settings,
    prove_key,
)
from tests.fixtures.scripted_chain import CHAIN_ID, DECIMALS, TOKEN, ScriptedChain
from tests.support.devices import (
    KEY_ID,
    Device,
    honest,
    planted,
    point,
    signer_over,
)


PRODUCTION = {
    "APP_ENV": "production",
    "USE_KMS": "true",
    "KMS_KEY_ID": KEY_ID,
    "AWS_REGION": "eu-central-1",
    "DATABASE_URL": "postgresql+psycopg://refunds@db/refunds",
    "AUDIT_SIGNING_KEY_FILE": "/run/secrets/audit.pem",
}
KEY = coincurve.PrivateKey.from_int(0x6A4D)


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


def _judge(
    environ: Mapping[str, str], networks: Mapping[str, Network] = NETWORKS
) -> tuple[list[str], list[str]]:
    """Return the codes of the refusals, and the warnings."""
    try:
        return [], check_settings(Settings.from_env(environ), networks)
    except ConfigurationError as e:
        return [refusal.code for refusal in e.refusals], []


def test_production_as_it_should_be_starts_without_a_warning() -> None:
    """KMS, PostgreSQL, https and nothing else: no refusal, no warning."""
    assert _judge(PRODUCTION) == ([], [])


def test_the_exit_status_is_that_of_a_configuration_error() -> None:
    """EX_CONFIG tells supervisors that restarting will not help."""
    assert EXIT_STATUS == 78


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


def _environments() -> Iterator[tuple[dict[str, str], list[bool]]]:
    tables = (APP_ENVS, USE_KMS, KEYS, REGIONS, RAW_KEYS)
    names = ("APP_ENV", "USE_KMS", "KMS_KEY_ID", "AWS_REGION", RAW_KEY)
    for values in product(*tables):
        environ = {
            name: value
            for name, value in zip(names, values, strict=True)
            if value is not None
        }
        yield (
            environ,
            [table[value] for table, value in zip(tables, values, strict=True)],
        )


def test_the_table_of_keys_in_every_combination() -> None:
    """
    Which key signs is never left to chance: all 3,360 combinations.

    Unset, empty, blank and oddly written values are what they mean, and nothing
    but the two words makes a process harmless.
    """
    for environ, (production, kms, key, region, raw) in _environments():
        expected = [
            *["kms-not-configured"] * (production and not kms),
            *["kms-not-configured"] * (kms and not key),
            *["kms-not-configured"] * (kms and not region),
            *["raw-key-forbidden"] * (production and raw),
            *["audit-key-missing"] * production,
        ]

        refusals, warnings = _judge(environ)

        assert refusals == expected, environ
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
    ("debug-forbidden", {"DEBUG": "true"}),
    ("debug-forbidden", {"DEBUG": " TRUE"}),
    ("sqlite-multi-node", {"NODE_COUNT": "2", "DATABASE_URL": ""}),
    ("sqlite-multi-node", {"NODE_COUNT": "2", "DATABASE_URL": "sqlite:////a.db"}),
    ("sqlite-multi-node", {"NODE_COUNT": "2", "DATABASE_URL": "SQLite:////a.db"}),
    ("sqlite-multi-node", {"NODE_COUNT": "2", "DATABASE_URL": "mysql://h/d"}),
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
@pytest.mark.parametrize("app_env", [None, "", "production", "Production ", "x"])
def test_production_refuses(
    app_env: str | None, code: str, unsafe: dict[str, str]
) -> None:
    """Each danger is refused by its own code, under every name of production (P15)."""
    environ = {**PRODUCTION, **unsafe, "APP_ENV": app_env or ""}
    if app_env is None:
        del environ["APP_ENV"]

    assert _judge(environ) == ([code], [])


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_many_nodes_share_postgresql(scheme: str) -> None:
    """Under every name that the ledger takes for it."""
    environ = {"NODE_COUNT": "2", "DATABASE_URL": f"{scheme}://h/d"}

    assert _judge({**PRODUCTION, **environ}) == ([], [])


@pytest.mark.parametrize(("code", "unsafe"), UNSAFE)
@pytest.mark.parametrize("app_env", ["development", "test", " TEST "])
def test_elsewhere_it_starts(app_env: str, code: str, unsafe: dict[str, str]) -> None:
    """What production refuses is allowed where no money is at stake."""
    assert _judge({**PRODUCTION, **unsafe, "APP_ENV": app_env})[0] == []


@pytest.mark.parametrize(("code", "unsafe"), UNSAFE)
@pytest.mark.parametrize("empty", ["", "  ", "\t\n"])
def test_an_empty_variable_is_an_unset_one(
    code: str, unsafe: dict[str, str], empty: str
) -> None:
    """Emptying the variable cures the refusal."""
    cured = {name: empty for name in unsafe if name != "DATABASE_URL"}

    assert _judge({**PRODUCTION, **unsafe, **cured})[0] == []


@pytest.mark.parametrize("empty", [None, "", "  ", "\t\n"])
@pytest.mark.parametrize("app_env", [None, "", "production", "PRODUCTION ", "x"])
def test_production_needs_a_key_for_the_audit(
    app_env: str | None, empty: str | None
) -> None:
    """A log without signed checkpoints may lose its end without anybody noticing."""
    given = {"AUDIT_SIGNING_KEY_FILE": empty, "APP_ENV": app_env}
    environ = {
        name: value for name, value in (PRODUCTION | given).items() if value is not None
    }

    assert _judge(environ) == (["audit-key-missing"], [])


# What every variable may hold, and whether production refuses it.  The codes stand in
# the order of the refusals.
SPELLINGS: dict[str, tuple[str, dict[str | None, bool]]] = {
    RAW_KEY: (
        "raw-key-forbidden",
        {None: False, "": False, " \t": False, "0x11": True, " x ": True},
    ),
    "PKCS11_MODULE": (
        "softhsm-module-forbidden",
        {None: False, "": False, "\n": False, "/usr/lib/softhsm.so": True, ".": True},
    ),
    "SOFTHSM2_CONF": (
        "softhsm-config-forbidden",
        {None: False, "": False, " ": False, "/etc/softhsm2.conf": True, "x ": True},
    ),
    "AWS_ENDPOINT_URL_KMS": (
        "kms-endpoint-forbidden",
        {None: False, "": False, " ": False, "http://127.0.0.1:1": True, "x": True},
    ),
    "DEBUG": (
        "debug-forbidden",
        {None: False, "": False, "false": False, " False ": False, "tRuE": True},
    ),
    "NODE_COUNT": ("sqlite-multi-node", {None: False, "": False, " 1 ": False}),
    "JWT_SECRET": (
        "jwt-shared-secret",
        {None: False, "": False, "  ": False, "x": True, "x" * 64: True},
    ),
    "JWT_SIGNING_KEY_FILE": (
        "jwt-signing-key-forbidden",
        {None: False, "": False, "\t": False, "/run/jwt.pem": True, " jwt ": True},
    ),
    "JWT_JWKS_URL": (
        "jwks-insecure",
        {
            None: False,
            " ": False,
            "https://issuer.example": False,
            " HTTPS://issuer.example ": False,
            "hTTp://issuer.example": True,
            "issuer.example": True,
        },
    ),
    "AUDIT_SIGNING_KEY_FILE": (
        "audit-key-missing",
        {None: True, "": True, " \n": True, "/run/audit.pem": False, " a ": False},
    ),
    "ALERT_WEBHOOK_URL": (
        "webhook-insecure",
        {
            None: False,
            "": False,
            "Https://pager.example": False,
            "http://pager.example": True,
            " HTTP://pager.example": True,
        },
    ),
    "BIND": (
        "proxy-missing",
        {
            None: False,
            "": False,
            " LOCALHOST:80 ": False,
            "[::]:80": True,
            "0:80": True,
        },
    ),
}


def _spelt(values: Mapping[str, str | None]) -> tuple[dict[str, str], list[str]]:
    """Return the environment in which *values* are set, and what must be refused."""
    given: dict[str, str | None] = {**PRODUCTION, **values}
    environ = {name: value for name, value in given.items() if value is not None}
    refused = [
        code
        for name, (code, spellings) in SPELLINGS.items()
        if name in values and spellings[values[name]]
    ]
    return environ, refused


PAIRS = [(a, b) for a in SPELLINGS for b in SPELLINGS if a < b]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_every_pair_of_variables_in_every_spelling(one: str, other: str) -> None:
    """
    No variable hides another one's refusal, however each is spelt: 1,593 pairs.

    Where no money is at stake, all of them start.
    """
    for first, second in product(SPELLINGS[one][1], SPELLINGS[other][1]):
        environ, refused = _spelt({one: first, other: second})

        assert _judge(environ)[0] == refused, environ
        assert _judge({**environ, "APP_ENV": "test"})[0] == [], environ


@given(
    values=st.fixed_dictionaries(
        {
            name: st.sampled_from(list(spellings))
            for name, (_, spellings) in SPELLINGS.items()
        }
    ),
    app_env=st.sampled_from(list(APP_ENVS)),
)
@settings(max_examples=300)
def test_the_whole_table_at_once(
    values: dict[str, str | None], app_env: str | None
) -> None:
    """Any row of the table is refused for all that is wrong with it, in its order."""
    environ, refused = _spelt({**values, "APP_ENV": app_env})

    assert _judge(environ)[0] == (refused if APP_ENVS[app_env] else [])


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
def test_production_speaks_https_only(urls: list[str], refused: bool) -> None:
    """One plain URL of one network is enough to refuse, and it is not shown."""
    networks = {**NETWORKS, "other": _network(*urls)}

    assert _judge(PRODUCTION, networks)[0] == ["rpc-insecure"] * refused
    assert _judge({**PRODUCTION, "APP_ENV": "test"}, networks)[0] == []


def test_everything_wrong_is_said_at_once() -> None:
    """The seven of P15, and more: a line each, none hides another, no value shown."""
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

    assert [refusal.code for refusal in caught.value.refusals] == [
        "kms-not-configured",
        "raw-key-forbidden",
        "softhsm-module-forbidden",
        "softhsm-config-forbidden",
        "kms-endpoint-forbidden",
        "debug-forbidden",
        "sqlite-multi-node",
        "jwt-shared-secret",
        "jwt-signing-key-forbidden",
        "jwks-insecure",
        "audit-key-missing",
        "webhook-insecure",
        "rpc-insecure",
        "proxy-missing",
    ]
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
def test_a_key_that_is_not_in_kms_is_warned_about(environ: dict[str, str]) -> None:
    """SoftHSM and emulators are good enough for a laptop, and say so."""
    _, warnings = _judge(environ)

    assert len(warnings) == 1
    assert "NOT SAFE FOR PRODUCTION" in warnings[0]


def test_a_raw_key_on_a_laptop_is_told_the_way_into_the_token() -> None:
    """The warning has the command that imports it."""
    _, warnings = _judge({"APP_ENV": "development", RAW_KEY: "0x11"})

    assert "hotwallet softhsm import" in warnings[1]
    assert "0x11" not in str(warnings)


KMS = Settings.from_env(PRODUCTION)
SOFTHSM = Settings.from_env({"APP_ENV": "test"})


def _opens(device: Device) -> Signer:
    return signer_over(device)


def test_a_key_that_signs_is_proved() -> None:
    """The signer comes back, after one real signature."""
    device = honest(KEY)

    signer = prove_key(KMS, lambda: _opens(device))

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
def test_a_key_that_does_not_sign_is_refused(
    settings: Settings, kind: str, error: Exception, code: str, when: str
) -> None:
    """A missing key is not configured; every other failure is a signing error."""

    def open_signer() -> Signer:
        if when == "opening":
            raise error
        return _opens(planted(point(KEY), error))

    with pytest.raises(ConfigurationError) as caught:
        prove_key(settings, open_signer)

    (refusal,) = caught.value.refusals
    assert refusal.code == f"{kind}-{code}"
    assert str(error) in refusal.message


def test_a_key_that_signs_something_else_is_refused() -> None:
    """The self test recovers, so that a device at fault does not serve."""
    other = coincurve.PrivateKey.from_int(5)
    liar = Device(point(KEY), lambda digest: other.sign(digest, hasher=None))

    with pytest.raises(ConfigurationError, match="kms-signing-error"):
        prove_key(KMS, lambda: _opens(liar))


def test_a_bug_is_not_a_refusal() -> None:
    """What is not ours goes through, with its traceback."""

    def open_signer() -> Signer:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        prove_key(KMS, open_signer)


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


def test_the_right_chain_with_its_tokens() -> None:
    """Chain id, code and decimals are as configured."""
    assert _chain_refusals(ScriptedChain()) == []


def test_another_chain() -> None:
    """A node on another chain is refused before anything else is asked (T5)."""
    chain = ScriptedChain()
    network = LOCAL.model_copy(update={"chain_id": 1})

    assert _chain_refusals(chain, network) == ["chain-misconfigured"]
    assert chain.calls.keys() == {"chain_id"}


def test_a_token_without_code() -> None:
    """Each token whose address has no contract is refused."""
    stranger = LOCAL.tokens["TUSD"].model_copy(
        update={"address": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"}
    )
    network = LOCAL.model_copy(update={"tokens": {"A": stranger, "B": stranger}})

    assert _chain_refusals(ScriptedChain(), network) == ["chain-misconfigured"] * 2


@pytest.mark.parametrize(
    "answer",
    [
        encode(("uint8",), (DECIMALS + 1,)),
        encode(("uint8",), (DECIMALS,)) + bytes(32),
        bytes([DECIMALS]),
        b"",
    ],
)
def test_a_token_with_other_decimals(answer: bytes) -> None:
    """Whoever is a digit off pays ten times too much."""

    class Other(ScriptedChain):
        def call(self, call: Call) -> bytes:
            assert call.to == TOKEN
            return answer

    assert _chain_refusals(Other()) == ["chain-misconfigured"]


def test_a_contract_that_answers_nothing_has_not_zero_decimals() -> None:
    """An empty answer is no number."""

    class Silent(ScriptedChain):
        def call(self, call: Call) -> bytes:
            return b""

    token = LOCAL.tokens["TUSD"].model_copy(update={"decimals": 0})
    network = LOCAL.model_copy(update={"tokens": {"TUSD": token}})

    assert _chain_refusals(Silent(), network) == ["chain-misconfigured"]


def test_a_contract_that_is_no_token() -> None:
    """One that reverts when it is asked for its decimals is misconfigured."""
    chain = ScriptedChain()
    chain.fail("call", ExecutionRevertedError("no such function"))

    assert _chain_refusals(chain) == ["chain-misconfigured"]


@pytest.mark.parametrize("method", ["chain_id", "has_code", "call"])
def test_a_node_that_does_not_answer(method: str) -> None:
    """An unknown chain may be the wrong one."""
    chain = ScriptedChain()
    chain.fail(method, ChainUnavailableError("no node answered"))

    assert _chain_refusals(chain) == ["chain-unavailable"]


WALLET = ec.derive_private_key(0x6A4D, ec.SECP256K1()).public_key()
AUDITS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate().public_key(),
    "ec": ec.generate_private_key(ec.SECP256R1()).public_key(),
    "rsa": rsa.generate_private_key(65537, 2048).public_key(),
}


def _der(key: Any) -> bytes:
    spki: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki


@pytest.mark.parametrize("kind", AUDITS)
def test_a_key_for_the_audit_alone(kind: str) -> None:
    """Whatever kind it is, a key of its own is what the audit needs."""
    others = [_der(key) for name, key in AUDITS.items() if name != kind]

    check_audit_key(_der(AUDITS[kind]), others, _der(WALLET))


@pytest.mark.parametrize("kind", AUDITS)
def test_the_audit_does_not_share_the_key_of_tokens(kind: str) -> None:
    """Who mints tokens must not vouch for the log (A7): wherever in the set it is."""
    tokens = [_der(key) for key in AUDITS.values()]

    with pytest.raises(ConfigurationError) as caught:
        check_audit_key(_der(AUDITS[kind]), tokens, _der(WALLET))

    assert [refusal.code for refusal in caught.value.refusals] == ["audit-key-shared"]


def test_the_audit_does_not_share_the_wallets_key() -> None:
    """Who pays must not vouch for the log (A7), however the key is written down."""
    # A compressed point is the same key in fewer bytes: RFC 5480, section 2.2.
    point = WALLET.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = _der(WALLET)[2:20]
    content = algorithm + b"\x03" + bytes([len(point) + 1]) + b"\0" + point
    compressed = b"\x30" + bytes([len(content)]) + content

    for spki in (_der(WALLET), compressed):
        with pytest.raises(ConfigurationError, match="audit-key-shared"):
            check_audit_key(spki, [], _der(WALLET))


def test_both_keys_that_are_shared_are_named() -> None:
    """A line for each of the two."""
    with pytest.raises(ConfigurationError) as caught:
        check_audit_key(_der(WALLET), [_der(WALLET)], _der(WALLET))

    assert len(caught.value.refusals) == 2


ROOT = Path(__file__).resolve().parents[4]


def _codes_in_the_code() -> set[str]:
    """Return every code that a refusal is made with, wherever it is made."""
    found: set[str] = set()
    for room in ("signer", "backends", "api", "softhsm"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                found |= set(_codes_of(node))
    return found


def _codes_of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Call(
            func=ast.Name(id="Refusal" | "_refusal" | "refusal"),
            args=[ast.Constant(value=str(code)), *_],
        ):
            yield code
        case ast.Tuple(elts=[_, ast.Constant(value=str(code)), _]) if re.fullmatch(
            "[a-z0-9]+(-[a-z0-9]+)+", code
        ):
            yield code


# Made of two parts, or written down where no expression finds them.
MORE_CODES = {
    "kms-signing-error",
    "pkcs11-not-configured",
    "pkcs11-signing-error",
    "key-not-in-ring",
    "key-backend-mismatch",
    "jwt-keys-unreachable",
    "audit-key-shared",
}


@pytest.mark.parametrize("code", sorted(_codes_in_the_code() | MORE_CODES))
def test_every_code_has_its_cure(code: str) -> None:
    """Whoever is refused finds the code in the guide, with what to do about it."""
    guide = (ROOT / "docs" / "guard.md").read_text(encoding="utf-8")
    rows = [line for line in guide.splitlines() if line.startswith("| ")]

    (row,) = (row for row in rows if f"`{code}`" in row.split(" | ")[0])
    assert all(len(cell.strip(" |")) > 5 for cell in row.split(" | "))


def test_the_codes_are_found() -> None:
    """The test above reads the code as it is written."""
    assert {code for code, _ in UNSAFE} <= _codes_in_the_code()


class _Role:
    """A journal that says what its role may do, or that it does not answer."""

    def __init__(self, *found: str, fails: bool = False) -> None:
        self._found = found
        self._fails = fails

    def liberties(self) -> Sequence[str]:
        """Return what was given."""
        if self._fails:
            raise StoreError("it does not answer")
        return self._found


@pytest.mark.parametrize(
    ("role", "codes"),
    [
        (_Role(), []),
        (_Role("owns audit_records"), ["audit-not-append-only"]),
        (_Role(fails=True), ["database-not-ready"]),
    ],
)
def test_production_cannot_change_its_audit(role: _Role, codes: list[str]) -> None:
    """A role that could is refused, and named; nobody asks for it elsewhere."""
    journal = cast("Journal", role)
    check_journal(Settings.from_env({"APP_ENV": "test"}), journal)
    refusals: Sequence[Refusal] = ()
    try:
        check_journal(Settings.from_env(PRODUCTION), journal)
    except ConfigurationError as e:
        refusals = e.refusals

    assert [refusal.code for refusal in refusals] == codes
