"""The networks file is read strictly."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from signer.config.networks import AutomaticStopRules, Network, Token, load_networks
from signer.errors import ConfigurationError


GOOD = """\
[networks.local]
chain_id = 31337
rpc_urls = ["http://127.0.0.1:8545"]

[networks.local.tokens.TUSD]
address = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
decimals = 6
max_amount = "1000"
"""

SECOND = """
[networks.base]
chain_id = 8453
rpc_urls = ["https://a.example/KEY", "https://b.example"]
confirmations = 30
max_fee_per_gas_gwei = 5
max_priority_fee_per_gas_gwei = 0
rpc_timeout_ms = 100

[networks.base.tokens.USDC]
address = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
decimals = 0
max_amount = "7"
"""

VAULT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
LOWER = VAULT.lower()
WITH_VAULT = f'chain_id = 1\nvault = "{VAULT}"\n'


TOKEN = {
    "address": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
    "decimals": 6,
    "max_amount": "1000",
}


def _refused(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_networks(path)
    (refusal,) = caught.value.refusals

    assert refusal.code == "networks-misconfigured"
    assert refusal.message.startswith("NETWORKS_FILE: ")
    return refusal.message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where the test's file goes."""
    return tmp_path / "networks.toml"


def test_valid_file(file: Path) -> None:
    """Every field is read, and omitted fields have safe defaults."""
    file.write_text(GOOD + SECOND, encoding="utf-8")

    networks = load_networks(file)

    local, base = networks["local"], networks["base"]
    assert local.chain_id == 31337
    assert local.confirmations == 12
    assert local.max_fee_per_gas_gwei == 500
    assert local.max_priority_fee_per_gas_gwei == 50
    assert local.tokens["TUSD"].decimals == 6
    assert [url.get_secret_value() for url in base.rpc_urls] == [
        "https://a.example/KEY",
        "https://b.example",
    ]
    assert base.confirmations == 30
    assert "KEY" not in repr(networks)
    for amount in ("0.000001", "1000.5", str((2**256 - 1) // 10**6)):
        file.write_text(GOOD.replace('"1000"', f'"{amount}"'), encoding="utf-8")
        assert load_networks(file)["local"].tokens["TUSD"].max_amount == amount
    file.write_text(
        GOOD.replace('["http://127.0.0.1:8545"]', '"https://u:hunter2@h"'),
        encoding="utf-8",
    )
    assert "hunter2" not in _refused(file)


@pytest.mark.parametrize("batch", [None, (1, 0), (100, 60)])
def test_a_vault_pays_up_to_a_hundred_at_once(
    file: Path, batch: tuple[int, int] | None
) -> None:
    """A batch may be smaller, or later."""
    given = WITH_VAULT
    if batch is not None:
        given += "max_batch = {}\nbatch_wait = {}\n".format(*batch)
    file.write_text(GOOD.replace("chain_id = 31337\n", given), encoding="utf-8")
    local = load_networks(file)["local"]

    assert local.vault == VAULT
    assert (local.max_batch, local.batch_wait) == (batch or (100, 0))


@pytest.mark.parametrize(
    ("good", "bad", "named"),
    [
        ("chain_id = 31337", "chain_id = 0", "networks.local.chain_id"),
        ("chain_id = 31337", "chain_id = -1", "networks.local.chain_id"),
        ("chain_id = 31337", f"chain_id = {2**64}", "networks.local.chain_id"),
        ("chain_id = 31337", f"chain_id = {2**53}", "networks.local.chain_id"),
        ("chain_id = 31337", 'chain_id = "1"', "networks.local.chain_id"),
        ("chain_id = 31337", "chain_id = 1.0", "networks.local.chain_id"),
        ("chain_id = 31337", "chain_id = true", "networks.local.chain_id"),
        ("chain_id = 31337", "", "networks.local.chain_id"),
        ('["http://127.0.0.1:8545"]', "[]", "networks.local.rpc_urls"),
        ('["http://127.0.0.1:8545"]', '"http://x"', "networks.local.rpc_urls"),
        ('["http://127.0.0.1:8545"]', "[1]", "networks.local.rpc_urls"),
        ("decimals = 6", "decimals = -1", "tokens.TUSD.decimals"),
        ("decimals = 6", "decimals = 37", "tokens.TUSD.decimals"),
        ("decimals = 6", "decimals = 6.0", "tokens.TUSD.decimals"),
        ('"1000"', "1000", "tokens.TUSD.max_amount"),
        ('"1000"', '"0"', "max_amount"),
        ('"1000"', '"1e3"', "max_amount"),
        ('"1000"', '"-1"', "max_amount"),
        ('"1000"', '"01"', "max_amount"),
        ('"1000"', '"1.0000001"', "max_amount"),
        ('"1000"', f'"{2**256}"', "max_amount"),
        ('"1000"', '"1000\\n"', "max_amount"),
        ('"1000"', '"1000"\nmin_amount = "0"', "min_amount"),
        ('"1000"', '"1000"\nmin_amount = "1000.000001"', "min_amount"),
        ('"1000"', '"1000"\nmin_amount = 1', "min_amount"),
        ('"1000"', '"1000"\nreference_price = "0"', "reference_price"),
        ('"1000"', '"1000"\nreference_price = 0.92', "reference_price"),
        ('"1000"', f'"1000"\nreference_price = "0.{"1" * 19}"', "reference_price"),
        ('"1000"', '"1000"\napprove_above = "0"', "approve_above"),
        ('"1000"', '"1000"\napprove_above = "1000"', "less than max_amount"),
        ("chain_id = 31337", "chain_id = 1\ngas_per_hour = 0", "gas_per_hour"),
        ("chain_id = 31337", "chain_id = 1\ngas_per_hour = 1999999", "gas_per_hour"),
        ("chain_id = 31337", 'chain_id = 1\ngas_per_hour = "1"', "gas_per_hour"),
        ("aa3", "aa4", "tokens.TUSD.address"),
        ("0x5FbDB", "0x5fbdb", "tokens.TUSD.address"),
        ("0x5FbDB", "5FbDB", "tokens.TUSD.address"),
        ("decimals = 6", "decimals = 6\nsymbol = 'T'", "tokens.TUSD.symbol"),
        ("chain_id = 31337", "chain_id = 1\nconfirmations = 0", "confirmations"),
        ("chain_id = 31337", "chain_id = 1\nmax_fee_per_gas_gwei = 0", "max_fee"),
        ("chain_id = 31337", "chain_id = 1\nbase_fee_multiple = 0", "base_fee"),
        ("chain_id = 31337", "chain_id = 1\nbase_fee_multiple = 11", "base_fee"),
        ("chain_id = 31337", "chain_id = 1\nrpc_timeout_ms = 99", "rpc_timeout_ms"),
        ("chain_id = 31337", "chain_id = 1\nconfirmation = 3", "confirmation"),
        ("chain_id = 31337", 'chain_id = 1\nvault = "0xA0"', "networks.local.vault"),
        ("chain_id = 31337", f'chain_id = 1\nvault = "{LOWER}"', "local.vault"),
        ("chain_id = 31337", f"{WITH_VAULT}max_batch = 0", "local.max_batch"),
        ("chain_id = 31337", f"{WITH_VAULT}max_batch = 101", "local.max_batch"),
        ("chain_id = 31337", f"{WITH_VAULT}batch_wait = -1", "local.batch_wait"),
        ("chain_id = 31337", f"{WITH_VAULT}batch_wait = 61", "local.batch_wait"),
        ("chain_id = 31337", "chain_id = 1\nmax_batch = 9", "leave out max_batch"),
        (
            "chain_id = 31337",
            "chain_id = 1\nbatch_wait = 0\nmax_batch = 9",
            "networks.local: only a vault pays refunds together; set vault, or",
        ),
    ],
)
def test_field_out_of_range_is_refused(
    file: Path, good: str, bad: str, named: str
) -> None:
    """The refusal names the file and the field."""
    assert good in GOOD
    file.write_text(GOOD.replace(good, bad), encoding="utf-8")

    assert named in _refused(file)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "networks: Field required"),
        ("[networks]", "networks: "),
        ("networks = 5", "networks: "),
        ("[networks.x]", "networks.x.chain_id: Field required"),
        ("more = 1\n" + GOOD, "more: "),
        (GOOD.partition("[networks.local.tokens")[0], "networks.local.tokens"),
    ],
)
def test_file_of_another_shape_is_refused(file: Path, text: str, named: str) -> None:
    """A file without networks or tokens, or with other tables, is refused."""
    file.write_text(text, encoding="utf-8")

    assert named in _refused(file)


def test_limits_may_equal_what_one_refund_needs(file: Path) -> None:
    """The smallest amount may be the largest, and an hour may have gas for one."""
    text = GOOD.replace('"1000"', '"1000"\nmin_amount = "1000"')
    text = text.replace("chain_id = 31337", "chain_id = 1\ngas_per_hour = 2000000")
    file.write_text(text, encoding="utf-8")

    local = load_networks(file)["local"]

    assert local.gas_per_hour == local.tokens["TUSD"].max_gas
    assert local.tokens["TUSD"].min_amount == "1000"


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder, other bytes and no TOML have messages of their own."""
    folder = tmp_path / "folder"
    folder.mkdir()
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    prose = tmp_path / "prose"
    prose.write_text("not = [toml", encoding="utf-8")

    assert "does not exist" in _refused(tmp_path / "missing")
    assert "IsADirectoryError" in _refused(folder)
    assert "UnicodeDecodeError" in _refused(binary)
    assert "not TOML" in _refused(prose)


@pytest.mark.parametrize("limit", ["9.999999", "0", "1e3", "-1"])
@pytest.mark.parametrize(
    "name", ["hourly_limit", "daily_limit", "daily_limit_per_recipient"]
)
def test_limit_below_max_amount_is_refused(name: str, limit: str) -> None:
    """R27: a refund above the limit would wait without end."""
    with pytest.raises(ValueError, match=name):
        Token.model_validate({**TOKEN, "max_amount": "10", name: limit})


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_amounts": {"OTHER": "5"}}, "max_amounts.OTHER is no token"),
        ({"max_amounts": {"TUSD": "5.1234567"}}, "max_amounts.TUSD"),
        ({"window_minutes": 0}, "window_minutes"),
        ({"window_minutes": 61}, "window_minutes"),
        ({"max_refunds": 0}, "max_refunds"),
        ({"max_failed_percent": 100}, "max_failed_percent"),
        ({"max_gas_per_hour": 20_999}, "max_gas_per_hour"),
        ({"max_refund": 1}, "max_refund"),
    ],
)
def test_a_wrong_rule_is_refused(rules: dict[str, object], message: str) -> None:
    """A rule that cannot hold would never stop anything."""
    with pytest.raises(ValidationError, match=message):
        _of_kind(None, tokens={"TUSD": TOKEN}, automatic_stop=rules)


@pytest.mark.parametrize(
    ("rules", "has_rules"),
    [
        ({}, False),
        ({"window_minutes": 5, "failed_of_last": 9}, False),
        ({"max_refunds": 1}, True),
        ({"max_amounts": {"TUSD": "5"}}, True),
        ({"max_failed_percent": 1}, True),
        ({"max_gas_per_hour": 21_000}, True),
    ],
)
def test_rules_are_off_by_default(rules: dict[str, Any], has_rules: bool) -> None:
    assert AutomaticStopRules(**rules).has_rules is has_rules


@pytest.mark.parametrize(
    "url", ["https://etherscan.io", "https://a.example/base/", "https://a.example:8443"]
)
def test_an_explorer_is_an_https_address(file: Path, url: str) -> None:
    """The slash at its end is left out: links continue with one."""
    file.write_text(_with_explorer(url), encoding="utf-8")

    assert load_networks(file)["local"].explorer == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        *("http://etherscan.io", "javascript:alert(1)", "https://user@a.example"),
        *("https://a.example/?q=", "https://a.example/#x", "https://"),
        *("https://a.example/ x", ""),
    ],
)
def test_another_explorer_is_refused(file: Path, url: str) -> None:
    file.write_text(_with_explorer(url), encoding="utf-8")

    assert "networks.local.explorer" in _refused(file)


def _with_explorer(url: str) -> str:
    return GOOD.replace("31337\n", f'31337\nexplorer = "{url}"\n')


_OF_KINDS = {
    "ethereum": ("finalized", 64, 12, "eip-1559", 16),
    "op-stack": ("safe", 60, 2, "eip-1559", 16),
    "arbitrum": ("confirmations", 240, 0.25, "eip-1559", 16),
    "polygon": ("finalized", 64, 2, "eip-1559", 16),
    "instant": ("confirmations", 1, 1, "eip-1559", 16),
    "arc": ("confirmations", 1, 0.5, "eip-1559", 16),
    "tempo": ("confirmations", 1, 0.5, "tempo", 16),
    "local": ("confirmations", 12, None, None, None),
}


def _of_kind(kind: str | None, decimals: int = 6, **changes: Any) -> Network:
    tokens = {"USDC": {**TOKEN, "decimals": decimals}}
    given = {"chain_id": 1, "rpc_urls": ["http://127.0.0.1:9"], **changes}
    named = {} if kind is None else {"kind": kind}
    return Network.model_validate({"tokens": tokens, **given, **named})


@pytest.mark.parametrize("kind", _OF_KINDS)
def test_a_kind_has_the_defaults_of_a_network(kind: str) -> None:
    """Also the network's own keys win."""
    fee: dict[str, Any] = {"coin_is": "USDC"} if kind == "tempo" else {}
    found = _of_kind(kind, **fee)

    assert _OF_KINDS[kind] == (
        *(found.finality, found.confirmations, found.block_seconds, found.fees),
        found.window,
    )
    assert (found.pending, found.coin_is) == (
        "none" if kind == "arc" else "pool",
        "USDC" if kind in {"arc", "tempo"} else None,
    )
    assert (found.data_fee is not None) is (kind == "op-stack")
    own: dict[str, Any] = {"confirmations": 5, "finality": "safe", "max_in_flight": 3}
    assert _of_kind(kind, **fee, **own).model_dump(include={*own}) == own


def test_the_chain_of_anvil_has_the_kind_local() -> None:
    """Without a kind; another network without one has no kind's defaults."""
    local, other = _of_kind(None, chain_id=31337), _of_kind(None)

    assert (local.window, other.window) == (None, 16)
    assert _of_kind("ethereum", chain_id=31337).window == 16
    assert (other.finality, other.confirmations) == ("confirmations", 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": ["arc"]}, "kind must be one of ethereum, op-stack, arbitrum"),
        ({"kind": "etherium"}, "kind must be one of ethereum, op-stack, arbitrum"),
        ({"kind": "arc", "coin_is": "EURC"}, "coin_is: the network has no token EURC"),
        ({"kind": "arc", "vault": VAULT}, "coin_is: a vault's tokens pay for no gas"),
        ({"kind": "arc", "decimals": 19}, "coin_is: USDC has more decimals than coin"),
        ({"finality": "instant"}, "finality"),
        ({"block_seconds": 0}, "block_seconds"),
        ({"rpc_batch": 51}, "rpc_batch"),
        ({"pending": True}, "pending"),
        ({"fees": "fixed"}, "fees"),
        ({"kind": "tempo"}, "coin_is must name the token that pays the fees of tempo"),
    ],
)
def test_a_wrong_kind_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _of_kind(**{"kind": None, **changes})
    with pytest.raises(ValidationError, match="dictionary"):
        Network.model_validate("text")
