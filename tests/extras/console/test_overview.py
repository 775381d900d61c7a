"""The parts of the overview: codes, guard, QR code and links to explorers."""

import re

import pytest

from api.container import Container
from api.extras.console.overview import read_guard
from api.extras.console.rendering import GUIDES, Explorers, draw_qr_code, runbook_of
from api.extras.console.wallets import MeasuredBalance
from api.views.codes import find_code
from backends.sql import SQLStore
from signer.config.networks import Network
from signer.config.settings import Settings
from signer.model.worker_row import WorkerRow
from tests.api.browser import Browser
from tests.api.readings import measured
from tests.api.service import NETWORKS
from tests.api.support import SettableClock
from tests.fixtures.ledger import accepted
from tests.support.keys import key_at, made_active
from tests.support.programs import ROOT


ADDRESS = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
EXPLORER = "https://explorer.example/base"


def _network(**changes: object) -> Network:
    return Network.model_validate({**NETWORKS["local"].model_dump(), **changes})


def test_every_guide_exists() -> None:
    """``test_monitoring.py`` compares the runbooks of alerts."""
    for code, guide in GUIDES.items():
        assert find_code(code) is not None
        path, _, anchor = guide.partition("#")
        heading = rf"^#+ {anchor.replace('-', ' ')}$"
        text = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(heading, text, re.MULTILINE | re.IGNORECASE), code
        assert runbook_of(code, "https://docs.example") == guide


def test_a_code_is_explained(browser: Browser) -> None:
    page = browser.get("/console/codes/signing-stopped").text

    assert "docs/how-to/alarms.md#signing-stopped" in page
    assert "<code>hotwallet resume</code>" in page
    for unknown in ("invented", "%3Cscript%3E"):
        assert browser.get(f"/console/codes/{unknown}").status_code == 404
    assert runbook_of("invented", None) is None


def test_notices_lead_to_their_runbooks(browser: Browser) -> None:
    page = browser.get("/console").text

    assert "No worker runs" in page
    assert 'href="/console/codes/worker-stopped"' in page


def test_the_guard_says_what_production_would_refuse(
    container: Container, browser: Browser
) -> None:
    environ = {"APP_ENV": "development", "HOTWALLET_HOME": "unused"}
    container.settings = Settings.from_env(environ)
    state = read_guard(container)
    codes = {refusal.code for refusal in state.in_production}

    assert {"kms-not-configured", "mac-key-missing", "tenants-missing"} <= codes
    assert any("NOT SAFE FOR PRODUCTION" in each for each in state.warnings)
    page = browser.get("/console").text
    assert "Production would refuse" in page
    assert "kms-not-configured" in page


def test_the_address_is_a_qr_code(browser: Browser, sqlite_store: SQLStore) -> None:
    sqlite_store.enrol(key_at(ADDRESS))
    made_active(sqlite_store, key_at(ADDRESS))
    page = browser.get("/console").text

    assert str(draw_qr_code(ADDRESS)) in page
    assert f"<title>QR code of {ADDRESS}</title>" in page
    assert "<script>" not in draw_qr_code("</title><script>")


def test_links_lead_to_the_explorer_only() -> None:
    """What another program wrote into the database does not get into a link."""
    explorers = Explorers.of({"local": _network(explorer=f"{EXPLORER}/")})

    assert explorers.account(31337, ADDRESS) == f"{EXPLORER}/address/{ADDRESS}"
    assert explorers.token(31337, ADDRESS) == f"{EXPLORER}/token/{ADDRESS}"
    assert explorers.transaction(31337, "0x12") == f"{EXPLORER}/tx/0x12"
    assert explorers.transaction(1, "0x12") is None
    for hostile in ("0x12/../evil", "javascript:alert(1)", "0x", "0x12\n", "0x1\uff12"):
        assert explorers.transaction(31337, hostile) is None


def test_a_refund_links_to_the_explorer(
    container: Container, browser: Browser, sqlite_store: SQLStore
) -> None:
    container.networks = {"local": _network(explorer=EXPLORER)}
    refund = accepted(sqlite_store)
    page = browser.get(f"/console/refunds/{refund.id}").text

    assert (
        f'<a class="external" href="{EXPLORER}/address/{refund.recipient}"'
        ' rel="noreferrer">' in page
    )


@pytest.mark.parametrize(
    ("refunds", "hours", "percent"),
    [(None, None, 100), (250, None, 100), (50, 100, 20), (500, 6, 10), (0, 0, 0)],
)
def test_the_runway(refunds: int | None, hours: int | None, percent: float) -> None:
    """The shorter of the two; a full bar is five times the bound."""
    asset = MeasuredBalance("local", "TUSD", 10.0, refunds, hours)

    assert asset.runway(_network()) == percent


@pytest.mark.parametrize(
    ("balance", "refunds", "state"),
    [
        (0.0, None, "empty"),
        (0.0, 0, "empty"),
        (10.0, None, "unknown"),
        (None, None, "unknown"),
        (10.0, 1, "low"),
        (10.0, 1000, "enough"),
    ],
)
def test_only_what_lasts_is_enough(
    balance: float | None, refunds: int | None, state: str
) -> None:
    """Before the first refund, a balance of zero was "enough"."""
    assert MeasuredBalance("local", "TUSD", balance, refunds).state(_network()) == state


def test_balances_have_a_runway(
    container: Container, browser: Browser, clock: SettableClock
) -> None:
    metrics = (
        'hotwallet_wallet_balance{network="local",asset="TUSD"} 1250.5\n'
        'hotwallet_wallet_refunds_left{network="local",asset="TUSD"} 25\n'
    )
    container.store.record_pass(
        WorkerRow("w1", clock.now, clock.now, measured(metrics))
    )
    for path in ("/console", "/console/trends", "/console/wallets"):
        page = browser.get(path).text
        assert "1,250.5" in page
        assert '<rect class="fill-bad" width="10.0"' in page
