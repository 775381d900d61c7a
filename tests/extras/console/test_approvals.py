"""Approvals: what the console decides is what the API would have decided."""

import re

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from signer.model.approval import ApprovalState
from tests.api.administrators import authorized
from tests.api.browser import Browser, new_token
from tests.api.forms import find_form


DECIDE = "approvals:decide"
WHY = "checked with <b>the</b> gateway"


@pytest.fixture
def digest(client: TestClient) -> str:
    """The digest of a proposal of carol."""
    for path in ("stop", "resume"):
        answer = client.simulate_post(
            f"/v1/admin/{path}",
            json={"reason": "a test"},
            headers=authorized(scope="signing:stop", sub="carol"),
        )
    return str(answer.json["digest"])


def _decide(
    browser: Browser, digest: str, decision: str = "approve", **changes: str
) -> Result:
    path = f"/console/changes/{decision}"
    given = {"form": browser.form_token(), "digest": digest, "reason": WHY}
    page = browser.submit(f"{path}/confirm", given)
    if page.status_code != 200:
        return page
    fields = find_form(page.text, f"{path}/make").fields
    return browser.submit(
        f"{path}/make", {**fields, "token": new_token(scope=DECIDE), **changes}
    )


def _state(store: SQLStore, digest: str) -> ApprovalState:
    found = store.find_approval(digest)
    assert found is not None
    return found.state


def _records(store: SQLStore, event: str) -> list[str]:
    rows = store._database.run(
        lambda c: c.exec_driver_sql("SELECT body FROM audit_records").all()
    )
    return [str(body) for (body,) in rows if f'"event":"{event}"' in body]


def test_the_confirmation_shows_exactly_what_will_be_done(
    browser: Browser, sqlite_store: SQLStore, digest: str
) -> None:
    fields = {"form": browser.form_token(), "digest": digest, "reason": WHY}
    answer = browser.submit("/console/changes/approve/confirm", fields)
    page = answer.text

    assert answer.status_code == 200
    for text in (
        "signing-resume",
        digest,
        "token:carol",
        "stopped_at",
        "<strong>Approve a proposal",
        "resume signing for every network, stopped by &#34;token:carol&#34;",
    ):
        assert text in page
    assert "checked with &lt;b&gt;the&lt;/b&gt; gateway" in page
    assert _state(sqlite_store, digest) is ApprovalState.WAITING


@pytest.mark.parametrize(
    ("decision", "state", "event"),
    [
        ("approve", ApprovalState.APPROVED, "approval-grant-succeeded"),
        ("reject", ApprovalState.REJECTED, "approval-reject-succeeded"),
    ],
)
def test_a_decision(
    browser: Browser,
    sqlite_store: SQLStore,
    digest: str,
    decision: str,
    state: ApprovalState,
    event: str,
) -> None:
    answer = _decide(browser, digest, decision)
    decided = sqlite_store.find_approval(digest)
    page = browser.get(f"/console/approvals/{digest}").text

    assert answer.status_code == 200
    assert f'href="/console/approvals/{digest}"' in answer.text
    assert decided is not None
    assert (decided.state, decided.decided_by) == (state, "token:alice")
    assert "token:alice" in page
    (record,) = [each for each in _all_records(sqlite_store) if f'"{event}"' in each]
    assert '"actor":"token:alice"' in record
    assert "gateway" in record


def _all_records(store: SQLStore) -> list[str]:
    rows = store._database.run(
        lambda c: c.exec_driver_sql("SELECT body FROM audit_records").all()
    )
    return [str(body) for (body,) in rows]


def test_one_person_cannot_ask_and_approve(
    client: TestClient, sqlite_store: SQLStore, digest: str
) -> None:
    """As in the API: 403 ``same-person``."""
    carol = Browser(client)
    carol.log_in(sub="carol")
    fields = {"token": new_token(scope=DECIDE, sub="carol")}
    answer = _decide(carol, digest, **fields)

    assert answer.status_code == 403
    assert "same-person" in answer.text
    assert _state(sqlite_store, digest) is ApprovalState.WAITING


@pytest.mark.parametrize("body", [b"\xff", b"a", b"form=%ff", b"x=1&" * 20])
def test_a_body_that_is_no_form_is_refused(
    browser: Browser, client: TestClient, body: bytes
) -> None:
    answer = client.simulate_post(
        "/console/changes/approve/confirm",
        body=body,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        cookies=browser.cookies,
        host="hotwallet.example",
    )

    assert answer.status_code == 400


def test_a_decided_proposal_has_no_form(
    container: Container, browser: Browser, digest: str
) -> None:
    _decide(browser, digest, "reject")
    page = Browser(TestClient(create_app(container)))
    page.log_in()
    answer = page.get(f"/console/approvals/{digest}")

    assert not re.search(r"/confirm", answer.text)
    assert _decide(browser, digest).status_code == 409
