"""The audit pages: the verdict, the search, and the download."""

import re
from threading import Lock

import pytest
from falcon.testing import TestClient

from api.container import Container
from api.extras.console import resources
from api.extras.console.audit import (
    RecordFilter,
    read_audit,
    search_records,
    verify_newest,
)
from api.http.app import create_app
from api.http.exports import Stream
from backends.sql import SQLStore
from signer.alerts import Alerts
from signer.audit.actions import AuditAction
from signer.audit.checkpointer import Checkpointer, CheckpointSettings
from signer.audit.checkpoints import Verifier
from signer.audit.sealer import Sealer
from signer.audit.verify import verify
from signer.model.audit_record import Actor, Operation, Record
from tests.api.browser import Browser
from tests.api.support import SettableClock
from tests.extras.console.worlds import pages_of
from tests.support.audit import KEY, overruled
from tests.support.ledgers import ROW_MACS


REFUND = f"rf_{'0' * 32}"


@pytest.fixture
def log(container: Container, clock: SettableClock) -> Container:
    """A container over a sealed log: the actions of carol, an hour apart."""
    container.checkpoint_settings = CheckpointSettings(KEY, "hotwallet/hotwallet")
    for number in range(4):
        container.audit.write(
            container.audit.result(
                AuditAction.REFUND_CANCEL,
                Operation.REFUND,
                Actor("token:carol"),
                refund_id=REFUND if number == 2 else None,
                number=number,
            )
        )
        clock.advance(3600)
    Sealer(Checkpointer(container.store, clock=clock)).work()
    return container


@pytest.fixture
def browser(log: Container, clock: SettableClock) -> Browser:
    opened = Browser(TestClient(create_app(log)))
    assert opened.log_in(now=clock.now).status_code == 303
    return opened


def _sealer(container: Container) -> Sealer:
    store = container.store
    return Sealer(
        Checkpointer(
            store, container.checkpoint_settings, Alerts(store), container.clock
        )
    )


def test_the_newest_records_come_first(browser: Browser) -> None:
    page = browser.get("/console/audit").text
    shown = [int(each) for each in re.findall(r'"sequence soft">(\d+)<', page)]

    assert shown == sorted(shown, reverse=True)
    assert len(shown) >= 4
    assert "refund-cancel-succeeded" in page
    assert f'href="/console/refunds/{REFUND}"' in page


SEARCHES: dict[str, list[int]] = {
    "event=refund-cancel": [3, 2, 1, 0],
    "event=refund-&actor=carol": [3, 2, 1, 0],
    f"actor=token:carol&refund={REFUND}": [2],
    "refund=rf_other": [],
    "actor=carol&since=2026-11-24T13:30": [3, 2],
    "actor=carol&until=2026-11-24T13:30": [1, 0],
    "actor=carol&since=2026-11-24T12:30&until=2026-11-24T13:30": [1],
    "event=&actor=carol&refund=&since=&until=": [3, 2, 1, 0],
}


def test_records_are_found(browser: Browser) -> None:
    for query, numbers in SEARCHES.items():
        page = browser.get(f"/console/audit?{query}").text

        found = re.findall(r"&#34;number&#34;: (\d+)", page)
        assert [*map(int, found)] == numbers, query


def test_a_search_has_pages(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.extras.console.audit.PAGE_SIZE", 2)
    pages = "".join(pages_of(browser, "/console/audit?actor=carol"))

    assert re.findall(r"&#34;number&#34;: (\d+)", pages) == ["3", "2", "1", "0"]


def test_a_search_looks_at_so_many_records(
    log: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says where it stopped, so that the next page continues there."""
    monkeypatch.setattr("api.extras.console.audit.LOOKED_AT", 2)
    size = log.store.head()[0]
    found = search_records(log.store, ROW_MACS, RecordFilter(event="no-such-event"))

    assert found.records == []
    assert found.before == size - 1


def test_a_forged_record_is_marked_and_not_shown(
    log: Container, browser: Browser, sqlite_store: SQLStore, clock: SettableClock
) -> None:
    forged = Record.of({"event": "refund-cancel-succeeded", "actor": "evil"}, clock.now)
    sqlite_store.append([Record(forged.id, forged.body, "tests:" + "0" * 64)])
    _sealer(log).work()
    page = browser.get("/console/audit?event=refund-cancel").text

    assert "another program wrote it" in page
    assert "evil" not in page
    assert "have no valid MAC" in page


def test_the_verdict_needs_a_signed_checkpoint(
    log: Container, browser: Browser
) -> None:
    assert "Not signed yet." in browser.get("/console/audit").text
    _sealer(log).work()
    _sealer(log).checkpointer.checkpoint()

    assert read_audit(log).is_verified
    assert "Verified." in browser.get("/console/audit").text
    log.checkpoint_settings = None
    assert "Not verified." in browser.get("/console/audit").text


def test_a_changed_chain_is_found(
    log: Container, browser: Browser, sqlite_store: SQLStore, sqlite_url: str
) -> None:
    _sealer(log).checkpointer.checkpoint()
    # As an attacker who owns the file: without the triggers.
    overruled(sqlite_url, "UPDATE audit_records SET body = '{}' WHERE sequence = 2")

    state = verify_newest(sqlite_store, ROW_MACS)
    assert state.broken_at == 2
    assert state.foreign == 1
    assert "Record 2 does not follow" in browser.get("/console/audit").text


def test_the_download_can_be_verified(log: Container, browser: Browser) -> None:
    """It needs the form, and is on record."""
    _sealer(log).checkpointer.checkpoint()
    refused = browser.submit("/console/audit/export", {"form": "0" * 64})
    given = {"form": browser.form_token()}
    answer = browser.submit("/console/audit/export", given)
    lines = answer.content.splitlines(keepends=True)
    _sealer(log).work()
    page = browser.get("/console/audit?event=admin-access-succeeded").text

    assert (refused.status_code, answer.status_code) == (403, 200)
    assert 'filename="audit.jsonl"' in answer.headers["content-disposition"]
    assert verify(lines, Verifier(KEY.public_pem()), []).is_good
    assert "/console/audit/export" in page


def test_a_long_log_is_not_downloaded(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "MOST_EXPORTED", 2)
    answer = browser.submit("/console/audit/export", {"form": browser.form_token()})

    assert answer.status_code == 409
    assert "hotwallet audit export" in answer.text


def test_one_download_at_a_time() -> None:
    """The next one begins when the server closes the first."""
    lock = Lock()
    download = Stream(iter([b"a", b"b"]), lock.release)
    assert lock.acquire(blocking=False)

    assert b"".join(download) == b"ab"
    assert lock.locked()
    download.close()
    download.close()
    assert not lock.locked()


def test_a_second_download_is_refused(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stream, "close", lambda _: None)
    form = {"form": browser.form_token()}

    assert browser.submit("/console/audit/export", form).status_code == 200
    assert browser.submit("/console/audit/export", form).status_code == 409
