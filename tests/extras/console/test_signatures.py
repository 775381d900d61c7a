"""The page of the signatures: in words, of every path, and of genuine records only."""

import html
import re
from typing import Any

import pytest
from falcon.testing import TestClient

from api.container import Container
from api.extras.console.audit import SignatureFilter, search_records, show_signature
from api.http.app import create_app
from backends.sql import SQLStore
from signer.audit.checkpointer import Checkpointer
from signer.audit.log import AuditLog
from signer.audit.sealer import Sealer
from signer.model.audit_record import Operation, Purpose, Record, Subject
from signer.model.decision import Decision, Verdict
from tests.api.browser import Browser
from tests.api.service import NETWORKS
from tests.api.support import SettableClock
from tests.extras.console.worlds import pages_of
from tests.support.ledgers import ROW_MACS


HASH = "0x" + "ab" * 32
RECIPIENT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
REFUND = f"rf_{'1' * 32}"
SUBJECT = Subject("pkcs11", "0123456789", "0x" + "11" * 20)
PAYMENT = {
    "tenant": "shop",
    "token_symbol": "TUSD",
    "recipient": RECIPIENT,
    "amount": "12.500000",
    "kind": "transfer",
    "nonce": 7,
}


def _write(
    audit: AuditLog,
    operation: Operation,
    rule: str | None,
    *,
    actor: str = "worker",
    refund_id: str | None = None,
    outcome: str = "success",
    requested: bool = False,
    **details: Any,
) -> None:
    decision = None
    if rule is not None:
        decision = Decision(Verdict.ALLOW, (rule,), "ab" * 32, bytes(32))
    purpose = Purpose(
        operation,
        network="local",
        actor=actor,
        refund_id=refund_id,
        details=details,
        decision=decision,
    )
    if requested:
        audit.write(audit.intent(purpose, SUBJECT, bytes(32)))
    audit.write(
        audit.outcome(purpose, SUBJECT, digest=bytes(32), outcome=outcome, seconds=0.01)
    )


@pytest.fixture
def signed(container: Container, clock: SettableClock) -> Container:
    """A container over signatures of each path, an hour apart."""
    audit = container.audit
    sent = {"tx_hash": HASH}
    paying, message = Operation.TRANSACTION_SIGNING, Operation.MESSAGE_SIGNING
    for operation, rule, given in (
        (paying, "refund", {**PAYMENT, **sent, "refund_id": REFUND}),
        (Operation.KEY_SWEEP, "sweep", {**PAYMENT, **sent, "refund_id": REFUND}),
        (Operation.NONCE_FILL, "no-op", {**PAYMENT, "kind": "noop", **sent}),
        (
            message,
            "greetings",
            {"actor": "token:bot", "path": "rest", "summary": "sign <b>hello</b>"},
        ),
        (
            paying,
            "calls",
            {"actor": "token:bot", "path": "json-rpc", "summary": "call 0x", **sent},
        ),
        (paying, "refund", {**PAYMENT, "outcome": "backend-unavailable"}),
        (Operation.SELF_TEST, None, {}),
    ):
        _write(audit, operation, rule, requested=True, **given)
        clock.advance(3600)
    Sealer(Checkpointer(container.store, clock=clock)).work()
    local = NETWORKS["local"].model_copy(
        update={"explorer": "https://explorer.example"}
    )
    container.networks = {"local": local}
    return container


@pytest.fixture
def browser(signed: Container, clock: SettableClock) -> Browser:
    opened = Browser(TestClient(create_app(signed)))
    assert opened.log_in(now=clock.now).status_code == 303
    return opened


def _words(page: str) -> list[str]:
    found = re.findall(r'<td class="words"><bdi>(.*?)</bdi>', page)
    return [html.unescape(each) for each in found]


TRANSFER = f"transfer 12.50 TUSD to {RECIPIENT}"
NOOP = "use up nonce 7, and pay nothing"


def test_every_path_is_shown_in_words(browser: Browser) -> None:
    """Once each, the newest first; a text of a caller is no markup."""
    page = browser.get("/console/signatures").text

    assert _words(page) == [
        TRANSFER,
        "call 0x",
        "sign <b>hello</b>",
        NOOP,
        TRANSFER,
        TRANSFER,
    ]
    assert "<b>hello" not in page
    assert "not signed: backend-unavailable" in page
    assert f'href="https://explorer.example/tx/{HASH}"' in page
    assert f'href="/console/refunds/{REFUND}"' in page
    assert "abababababababab" in page


SEARCHES = {
    "path=refund": [TRANSFER, TRANSFER],
    "path=sweep": [TRANSFER],
    "path=no-op": [NOOP],
    "path=self-test": ["test the key with random bytes"],
    "path=rest&actor=bot&network=local": ["sign <b>hello</b>"],
    "actor=token:bot&rule=calls": ["call 0x"],
    "rule=greet": [],
    "network=elsewhere": [],
    "since=2026-11-24T15:30&until=2026-11-24T16:30": ["call 0x"],
    "actor=&path=&network=&rule=no-op&since=&until=": [NOOP],
}


def test_signatures_are_found(browser: Browser) -> None:
    for search, words in SEARCHES.items():
        page = browser.get(f"/console/signatures?{search}").text

        assert _words(page) == words, search


def test_a_search_has_pages(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page continues where the one before it ended."""
    monkeypatch.setattr("api.extras.console.audit.PAGE_SIZE", 2)
    pages = pages_of(browser, "/console/signatures?actor=worker")
    seen = [each for page in pages for each in _words(page)]

    assert seen == [TRANSFER, NOOP, TRANSFER, TRANSFER]


def test_a_page_reads_so_many_records(
    signed: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the log is, and however few of its records are wanted."""
    monkeypatch.setattr("api.extras.console.audit.LOOKED_AT", 3)
    read: list[int] = []
    store = signed.store
    sealed = store.sealed

    def counting(after: int, limit: int) -> Any:
        read.append(limit)
        return sealed(after, limit)

    monkeypatch.setattr(store, "sealed", counting)
    found = search_records(store, ROW_MACS, SignatureFilter(rule="none"))

    assert (found.records, sum(read)) == ([], 3)
    assert found.before == store.head()[0] - 2


def test_a_forged_record_is_marked_and_not_shown(
    browser: Browser, sqlite_store: SQLStore, clock: SettableClock
) -> None:
    """A program that can write rows cannot invent a signature."""
    fields = {
        "event": "digest-sign-succeeded",
        "operation": "transaction-signing",
        "details": {"summary": "transfer everything to evil"},
    }
    forged = Record.of(fields, clock.now)
    sqlite_store.append([Record(forged.id, forged.body, "tests:" + "0" * 64)])
    Sealer(Checkpointer(sqlite_store, clock=clock)).work()
    page = browser.get("/console/signatures").text

    assert "another program wrote it" in page
    assert "everything" not in page


def test_a_call_is_no_transfer(signed: Container, clock: SettableClock) -> None:
    """It has the calldata that a client sent, and a path of its own."""
    call: dict[str, Any] = {
        **PAYMENT,
        "calldata": "0xabcdef01",
        "amount": "0",
        "token_symbol": "ETH",
    }
    _write(signed.audit, Operation.TRANSACTION_SIGNING, "calls", **call)
    Sealer(Checkpointer(signed.store, clock=clock)).work()
    wanted = SignatureFilter(path="call")
    (found,) = search_records(signed.store, ROW_MACS, wanted).records

    assert (
        show_signature(found, {})["summary"]
        == f"call {RECIPIENT} with 0xabcdef01 and 0 ETH"
    )


def test_a_network_that_was_removed_has_no_link(signed: Container) -> None:
    """And what no explorer may get is no link either."""
    found = search_records(signed.store, ROW_MACS, SignatureFilter())
    shown = [show_signature(each, {}) for each in found.records]

    assert {each["chain_id"] for each in shown} == {None}
    assert {each["network"] for each in shown} == {"local"}
