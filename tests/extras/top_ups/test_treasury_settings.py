"""The settings of the treasury, and what the doctor finds out about it."""

import json
from pathlib import Path

import pytest

from api.auth.dev_tokens import provide_signing_key
from api.bootstrap import build_container, check_configuration, open_container
from api.container import Container
from api.extras.top_ups import open_treasury
from api.extras.top_ups.treasury import TreasuryClient, doctor_checks
from backends.sql import SQLStore
from signer.alerts import Alert
from signer.diagnostics import Finding
from signer.errors import ConfigurationError, TreasuryError
from signer.model.worker_row import WorkerRow
from tests.api.readings import measured
from tests.fixtures.plain_server import reply_server
from tests.fixtures.scripted_chain import CHAIN_ID, TOKEN


NETWORKS = f"""
[networks.local]
chain_id = {CHAIN_ID}
rpc_urls = ["http://127.0.0.1:1"]

[networks.local.tokens.TUSD]
address = "{TOKEN}"
decimals = 6
max_amount = "1000"
top_up_below = "100"
top_up_to = "600"

[networks.local.tokens.TEUR]
address = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
decimals = 6
max_amount = "1000"
"""


@pytest.fixture
def environ(tmp_path: Path, sqlite_url: str) -> dict[str, str]:
    """A worker's environment with thresholds, and no treasury."""
    networks = tmp_path / "networks.toml"
    networks.write_text(NETWORKS)
    return {
        "APP_ENV": "test",
        "NETWORKS_FILE": str(networks),
        "DATABASE_URL": sqlite_url,
        "HOTWALLET_HOME": str(tmp_path),
    }


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """The token of the treasury."""
    path = tmp_path / "treasury.token"
    path.write_text("token")
    path.chmod(0o600)
    return path


def test_a_worker_with_thresholds_needs_a_treasury(environ: dict[str, str]) -> None:
    """Another process may have the same networks file, and no token."""
    with pytest.raises(ConfigurationError) as refused:
        open_container(environ, serving=False)

    (refusal,) = refused.value.refusals
    assert refusal.code == "treasury-misconfigured"
    assert open_treasury(build_container(environ)) is None


def test_the_check_of_a_configuration_finds_it(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """Of settings that a worker may have: those of another role name it."""
    key = tmp_path / "jwt.pem"
    provide_signing_key(tmp_path / "private.pem", key)
    given = {**environ, "JWT_PUBLIC_KEY_FILE": str(key)}
    with pytest.raises(ConfigurationError, match="treasury-misconfigured"):
        check_configuration(given)

    assert check_configuration({**given, "SERVE_ROLE": "refunds"}) == []


@pytest.mark.parametrize("name", ["TREASURY_URL", "TREASURY_TOKEN_FILE"])
def test_half_a_treasury_is_refused(
    environ: dict[str, str], name: str, token_file: Path
) -> None:
    """In every process."""
    value = "https://treasury" if name == "TREASURY_URL" else str(token_file)
    with pytest.raises(ConfigurationError) as refused:
        open_container({**environ, name: value}, serving=True)

    assert "treasury-misconfigured" in {each.code for each in refused.value.refusals}


def test_production_needs_https(token_file: Path) -> None:
    given = {
        "TREASURY_URL": "http://127.0.0.1:1",
        "TREASURY_TOKEN_FILE": str(token_file),
    }
    outside = build_container({**given, "APP_ENV": "test"})
    assert isinstance(open_treasury(outside), TreasuryClient)

    with pytest.raises(ConfigurationError, match="https"):
        open_treasury(build_container(given))


def test_a_process_for_refunds_must_not_have_the_token(
    environ: dict[str, str], token_file: Path
) -> None:
    given = {"SERVE_ROLE": "refunds", "TREASURY_TOKEN_FILE": str(token_file)}
    with pytest.raises(ConfigurationError, match="unset TREASURY_TOKEN_FILE"):
        open_container({**environ, **given}, serving=True)


def _find(container: Container) -> Finding:
    (check,) = doctor_checks(container)
    return check.run()


def test_the_doctor_asks_the_treasury(
    environ: dict[str, str], token_file: Path, sqlite_store: SQLStore
) -> None:
    """Whether it has each token with thresholds."""
    known = {"network": "x", "chain_id": CHAIN_ID, "token": "Y", "address": TOKEN}
    with reply_server((200, {}, json.dumps({"tokens": [known]}).encode())) as server:
        given = {"TREASURY_URL": server.url, "TREASURY_TOKEN_FILE": str(token_file)}
        container = build_container({**environ, **given})
        container.store = sqlite_store
        good = _find(container)
        server.reply = 200, {}, b'{"tokens": []}'
        unknown = _find(container)
        server.reply = 401, {}, b'{"code": "unauthenticated"}'
        with pytest.raises(TreasuryError, match="unauthenticated"):
            _find(container)

    assert (good.detail, good.cure) == ("the treasury answers", None)
    assert unknown.code == Alert.TOP_UP_FAILING
    assert "no token at the address of TUSD on local" in unknown.detail
    assert "TEUR" not in unknown.detail


def test_the_doctor_sees_what_workers_ask_in_vain(
    environ: dict[str, str], sqlite_store: SQLStore
) -> None:
    """Also where it has no token of the treasury itself."""
    container = build_container(environ)
    container.store = sqlite_store
    assert _find(container).detail == "no treasury is configured (TREASURY_URL)"
    now = container.ledger_clock()
    metrics = 'hotwallet_top_up_failing{network="local",asset="TUSD"} 1\n'
    sqlite_store.record_pass(WorkerRow("a", now, now, measured(metrics)))

    found = _find(container)
    assert (found.detail, found.code) == (
        "TUSD on local is low and is not topped up",
        Alert.TOP_UP_FAILING,
    )
