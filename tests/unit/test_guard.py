"""The start-up guard refuses every unsafe start, by name, and is not talked round."""

from collections.abc import Iterator, Mapping
from itertools import product

import coincurve
import pytest
from eth_abi.abi import encode

from signer.errors import (
    AccessDeniedError,
    BackendUnavailableError,
    ChainUnavailableError,
    ConfigurationError,
    ExecutionRevertedError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.guard import (
    EXIT_STATUS,
    NOT_SAFE,
    check_chain,
    check_settings,
    prove_key,
)
from signer.networks import Network
from signer.ports import Call
from signer.settings import RAW_KEY, Settings
from signer.signing import Signer
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
        "rpc-insecure",
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
