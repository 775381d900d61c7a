"""Every page: its headers, its text, and what it shows of hostile data."""

import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from falcon.testing import TestClient
from sqlalchemy import text as sql

from api.container import Container
from api.extras.console.rendering import CONTENT_POLICY
from api.health.readiness import Readiness
from api.http.app import create_app
from backends.sql import SQLStore
from signer.alerts import Alert
from signer.crypto.transactions import SignedBytes
from signer.model.key import KeyState
from signer.model.refund import Refund, Status
from signer.model.wallet import Pause, Wallet
from signer.model.worker_row import WorkerRow
from signer.ports.chain import NodeStatus
from signer.ports.refund_reports import RefundFilter
from tests.api.administrators import authorized
from tests.api.browser import PATHS, Browser, build_console
from tests.api.readings import measured
from tests.api.service import BODY
from tests.api.support import SettableClock, post
from tests.extras.console.worlds import pages_of
from tests.fixtures.ledger import accepted, filled, now, queued, save
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.keys import key_at


EVIL = "<script>alert(1)</script>"
"""Visible ASCII, so references and tenants may have it."""

EVIL_TEXT = "\"'><img src=x onerror=alert(1)> {{ 7 * 7 }} \u202eevil"


METRICS = """
hotwallet_wallet_balance{network="local",asset="TUSD"} 12.5
hotwallet_wallet_refunds_left{network="local",asset="TUSD"} 3
hotwallet_wallet_hours_left{network="local",asset="TUSD"} 1
hotwallet_node_up{network="local",node="node-1"} 0
hotwallet_wallet_chain_nonce{network="local"} 2
"""
"""What a worker measured."""


def test_every_page_of_an_empty_ledger(browser: Browser) -> None:
    """
    Its headers forbid scripts and frames.

    No script, no style in the text, and no address of another host.
    """
    assert CONTENT_POLICY == (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
        " frame-ancestors 'none'; base-uri 'none'"
    )
    for path in (*PATHS, "/console/login", "/console/console.css"):
        answer = browser.get(path)
        headers, page = answer.headers, answer.text
        assert answer.status_code == 200, path
        assert headers["content-security-policy"] == CONTENT_POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        if path.endswith(".css"):
            continue
        assert page.startswith("<!doctype html>")
        assert not re.search(r"<script|<style| style=| on\w+=|javascript:", page), path
        # Comments of Cedar begin like the address of a host.
        assert "//" not in re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL)
        assert re.findall(r'(?:src|href)="(?!/console)([^"#]+)"', page) == []


@pytest.fixture
def full(store: SQLStore, clock: SettableClock) -> Container:
    """A container over a ledger with something of everything, hostile where it can."""
    node = ScriptedChain()
    made = build_console(store, clock, node)
    client = TestClient(create_app(made))
    body = {**BODY, "reference": EVIL, "reason": "<b>item</b> & more"}
    assert post(client, body).status_code == 201
    post(client, {**BODY, "payment_session_id": "other", "reference": "other"})
    refused = queued(
        tenant=EVIL,
        status=Status.REFUSED,
        version=1,
        failure_code="policy-violation",
        failure_detail=EVIL_TEXT,
    )
    filled(store, [refused])
    reason = {"reason": f"{EVIL} stop"}
    for path in ("stop", "resume"):
        client.simulate_post(
            f"/v1/admin/{path}", json=reason, headers=authorized(scope="signing:stop")
        )
    store.count_alert(Alert.LOW_BALANCE, clock.now)
    return made


def _browse(container: Container, **claims: Any) -> Browser:
    opened = Browser(TestClient(create_app(container)))
    assert opened.log_in(**claims).status_code == 303
    return opened


def test_every_page_of_a_full_ledger(full: Container, clock: SettableClock) -> None:
    browser = _browse(full)
    refunds = full.store.search_refunds(RefundFilter(), limit=10).refunds
    (approval,) = full.approvals.list().approvals
    paths = [
        *PATHS,
        *(f"/console/refunds/{each.id}" for each in refunds),
        f"/console/approvals/{approval.digest}",
    ]
    pages = {}
    for path in paths:
        full.store.record_pass(WorkerRow("w1", clock.now, clock.now, measured(METRICS)))
        answer = browser.get(path)
        assert answer.status_code == 200, answer.text
        pages[path] = answer.text
    for page in pages.values():
        assert not re.search(r"<script|<img|<b>item| onerror=\S*>", page)
        assert "{{" not in page.replace("{{ 7 * 7 }}", "")
        assert "\u202e" not in page
    overview = pages["/console"]
    assert "Signing is stopped for every network" in overview
    assert "&lt;script&gt;alert(1)&lt;/script&gt; stop" in overview
    assert "The balance of TUSD on local is low: about 3 refunds" in overview
    assert "1 change waits for a decision" in overview
    assert "Alert approval-requested" in overview
    assert "Alert low-balance" not in overview  # It is still low, which is shown.
    assert len(refunds) == 3


def _page_of(browser: Browser, refund: Refund) -> str:
    answer = browser.get(f"/console/refunds/{refund.id}")
    assert answer.status_code == 200
    return answer.text


def test_a_refund_shows_what_its_transactions_pay(
    container: Container, browser: Browser
) -> None:
    client = TestClient(create_app(container))
    path = post(client, BODY).headers["location"]
    page = browser.get(f"/console/refunds/{path.rpartition('/')[2]}").text

    assert f"pays 12.50 TUSD to {BODY['recipient']}" in page
    assert "as requested" in page
    for status in ("queued", "reserved", "signed", "broadcast"):
        assert f"status-{status}" in page
    assert "1 of 1 nodes have it, and it waits to be mined." in page


@pytest.mark.parametrize("changes", [{"to": None}, {"data": b""}], ids=repr)
def test_a_changed_transaction_is_marked(
    container: Container,
    browser: Browser,
    sqlite_store: SQLStore,
    changes: dict[str, Any],
) -> None:
    """The page shows it if the bytes of a row create a contract, or pay nothing."""
    client = TestClient(create_app(container))
    refund_id = post(client, BODY).headers["location"].rpartition("/")[2]
    (row,) = sqlite_store.transactions(refund_id)
    signed = SignedBytes.decode(row.raw)
    raw = replace(signed.transaction, **changes).serialise(signed.signature)
    statement = sql("UPDATE attempts SET raw = :raw").bindparams(raw=raw)
    sqlite_store._database.write(lambda connection: connection.execute(statement))

    assert "cannot be decoded" in browser.get(f"/console/refunds/{refund_id}").text


def test_a_changed_refund_is_marked(browser: Browser, sqlite_store: SQLStore) -> None:
    """The page says that a changed row is not to be trusted."""
    filled(sqlite_store, [replace(queued(), mac=f"tests:{'0' * 64}")])
    (refund,) = sqlite_store.search_refunds(RefundFilter(), limit=10).refunds

    assert "Another program changed this row" in _page_of(browser, refund)


class _HangingNode(ScriptedChain):
    """A node that does not answer until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def node_statuses(
        self, sender: str | None, tx_hashes: Sequence[str]
    ) -> Sequence[NodeStatus]:
        self.release.wait()
        return ()


def test_pages_do_not_wait_for_nodes_that_hang(
    sqlite_store: SQLStore, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.extras.console.refunds._EXPLAIN_SECONDS", 0.2)
    node = _HangingNode()
    made = build_console(sqlite_store, clock, node)
    browser = _browse(made)
    refund = accepted(sqlite_store)
    save(
        sqlite_store,
        refund,
        refund.with_due_at(clock.now, blocked_by="chain-unavailable"),
    )
    try:
        page = _page_of(browser, refund)
    finally:
        node.release.set()
        # The thread still reads the ledger, which the test closes.
        for thread in threading.enumerate():
            if thread.name == "deadline-explain":
                thread.join()

    assert "It could not be explained now (chain-unavailable)" in page
    assert refund.reference in page


def test_the_overview_says_what_is_wrong(
    container: Container, browser: Browser, sqlite_store: SQLStore, clock: SettableClock
) -> None:
    checks = {"database": "ok", "network-local": "timeout", "worker": "worker-stopped"}
    container.readiness = lambda: Readiness(checks)
    sender = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
    wallet = Wallet(31337, sender, 0, 0)
    sqlite_store.open_wallet(wallet)
    sqlite_store.pause(wallet, Pause.CHAIN_AHEAD, clock.now)
    old = clock.now - timedelta(minutes=2)
    sqlite_store.record_pass(WorkerRow("w1", old, old, ""))
    blocked = accepted(sqlite_store)
    save(
        sqlite_store,
        blocked,
        blocked.with_due_at(clock.now, blocked_by="limit-reached"),
    )
    page = browser.get("/console").text

    for text in (
        "The check of network-local reports timeout",
        "No worker runs",
        f"The wallet {sender} of local is paused (chain-ahead)",
        "1 refund is delayed by limit-reached",
    ):
        assert text in page
    assert page.index("is paused") < page.index("is delayed by")


_PROBLEMS = """
hotwallet_node_up{network="local",node="node-1"} 1
hotwallet_node_lag_blocks{network="local",node="node-1"} 0
hotwallet_node_up{network="local",node="node-2"} 0
hotwallet_node_lag_blocks{network="local",node="node-3"} 11
hotwallet_signature_throttled_share{backend="aws-kms"} 0.25
hotwallet_wallet_refunds_left{network="local",asset="TUSD"} 3
hotwallet_top_up_failing{network="local",asset="TUSD"} 1
hotwallet_top_up_failing{network="other",asset="TUSD"} 0
hotwallet_wallet_delegated{network="local"} 1
hotwallet_wallet_delegated{network="other"} 0
hotwallet_network_quorum{network="other"} 0
hotwallet_network_quorum{network="local"} 1
hotwallet_network_head_age_seconds{network="local"} 301
hotwallet_network_head_age_seconds{network="other"} 301
"""


def test_problems_have_names_and_runbooks(
    browser: Browser, sqlite_store: SQLStore, clock: SettableClock
) -> None:
    """The measurements may be of any of the running workers."""
    for name, metrics in (("a", measured(_PROBLEMS)), ("b", "")):
        sqlite_store.record_pass(WorkerRow(name, clock.now, clock.now, metrics))
    late = clock.now - timedelta(seconds=901)
    filled(sqlite_store, [queued(updated_at=late)])
    page = browser.get("/console").text

    for name, text in {
        "node-down": "node-2 of local does not answer",
        "quorum-lost": "Too few nodes of other answer and agree",
        "chain-stalled": "local has had no new block for 5 min 1 s",
        "refunds-late": "A refund on local has been queued for 15 min 1 s",
        "node-lagging": "node-3 of local lags the others by 11 blocks",
        "backend-throttled": "aws-kms rejects 25 %",
        "wallet-delegated": "The wallet&#39;s address on local has code of others",
        "low-balance": "The balance of TUSD on local is low: about 3 refunds",
        "top-up-failing": "The treasury does not top up TUSD on local",
    }.items():
        assert text in page
        link = f'<code>{name}</code>, <a href="/console/codes/{name}">runbook<'
        assert link in page
        runbook = browser.get(f"/console/codes/{name}")
        assert runbook.status_code == 200
        assert f"<code>docs/how-to/alarms.md#{name}</code>" in runbook.text
    assert "node-1 of local" not in page
    assert "address on other" not in page
    assert "TUSD on other" not in page


def test_runbooks_are_where_the_operators_read(
    container: Container, browser: Browser, sqlite_store: SQLStore, clock: SettableClock
) -> None:
    url = "https://docs.example/how-to/alarms.html"
    container.settings = container.settings.model_copy(update={"runbook_url": url})
    sqlite_store.record_pass(WorkerRow("a", clock.now, clock.now, measured(_PROBLEMS)))

    assert f'<a href="{url}#node-down">runbook<' in browser.get("/console").text
    page = browser.get("/console/codes/node-down").text
    assert f'<a href="{url}#node-down" rel="noreferrer">' in page


@pytest.mark.parametrize(
    ("backend", "badge"),
    [("aws-kms", "kms"), ("google-cloud-kms", "google-kms"), ("pkcs11", "softhsm")],
)
def test_keys_of_each_backend_look_different(
    browser: Browser, sqlite_store: SQLStore, backend: str, badge: str
) -> None:
    key = replace(key_at("0x5FbDB2315678afecb367f032d93F642f64180aa3"), backend=backend)
    sqlite_store.begin_rotation(replace(key, state=KeyState.PENDING), now())
    page = browser.get("/console/keys").text

    assert key.address in page
    assert re.findall(r'class="badge (kms|google-kms|softhsm)"', page) == [badge]


MALFORMED = {
    "refunds?status=lost": "",
    "refunds?cursor=x": "",
    "refunds?page=2": "",
    "refunds?q=a&q=b": "",
    "refunds?q=a%00": "",
    "refunds?min_amount=many": "min_amount",
    "audit?since=yesterday": "",
    "audit?before=x": "",
    f"audit?before={'9' * 16}": "",
    "signatures?since=yesterday": "",
    "signatures?before=x": "",
    "signatures?what=this": "",
    "trends?span=year": "must be day or week",
}
"""Searches, with a text that explains what is wrong."""


def test_malformed_searches_are_explained(browser: Browser) -> None:
    for search, text in MALFORMED.items():
        answer = browser.get(f"/console/{search}")

        assert answer.status_code == 400, search
        assert "invalid-input" in answer.text, search
        assert text in answer.text, search


def test_refunds_are_found(browser: Browser, sqlite_store: SQLStore) -> None:
    mine = accepted(sqlite_store, tenant="shop", reference="order-1")
    other = accepted(
        sqlite_store,
        tenant="other",
        reference="order-1",
        recipient="0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512",
    )

    def found(search: str) -> set[str]:
        page = browser.get(f"/console/refunds?{search}").text
        return set(re.findall(r'href="/console/refunds/(rf_[0-9a-f]+)"', page))

    assert found("q=&tenant=&status=") == {mine.id, other.id}
    assert found(f"q={mine.id}") == {mine.id}
    assert found("q=order-1") == {mine.id, other.id}
    assert found("q=order-1&tenant=shop") == {mine.id}
    assert found(f"q={other.recipient.lower()}") == {other.id}
    assert found("tenant=shop&status=queued") == {mine.id}
    assert found("status=queued") == {mine.id, other.id}
    assert found("status=confirmed") == found("q=nothing") == set()


def test_searches_have_pages(
    browser: Browser, sqlite_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.extras.console.refunds.PAGE_SIZE", 2)
    ids = [accepted(sqlite_store).id for _ in range(5)]
    seen = [
        refund_id
        for page in pages_of(browser, "/console/refunds?status=queued")
        for refund_id in re.findall(r'href="/console/refunds/(rf_[0-9a-f]+)"', page)
    ]

    assert seen == sorted(ids, reverse=True)


def test_errors_are_pages(browser: Browser) -> None:
    for path in ("/console/refunds/rf_1", "/console/approvals/12"):
        answer = browser.get(path)

        assert answer.status_code in {400, 404}
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["content-security-policy"] == CONTENT_POLICY
        assert answer.headers["x-request-id"] in answer.text


def test_other_methods_are_refused(client: TestClient) -> None:
    for method in ("DELETE", "PUT", "OPTIONS", "HEAD"):
        assert client.simulate_request(method, "/console").status_code == 405
