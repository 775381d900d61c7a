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
    fields = {
        "form": browser.form_token(),
        "decision": decision,
        "reason": WHY,
        "token": new_token(scope=DECIDE),
        **changes,
    }
    return browser.submit(f"/console/approvals/{digest}/decide", fields)


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
    fields = {"form": browser.form_token(), "decision": "approve", "reason": WHY}
    answer = browser.submit(f"/console/approvals/{digest}/confirm", fields)
    page = answer.text

    assert answer.status_code == 200
    for text in (
        "signing-resume",
        digest,
        "token:carol",
        "stopped_at",
        "<strong>Approve",
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

    assert (answer.status_code, answer.headers["location"]) == (
        303,
        f"/console/approvals/{digest}",
    )
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


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"sub": "mallory"}, 403),
        ({"scope": "approvals:read"}, 403),
        ({"scope": "console:read"}, 403),
        ({"roles": ["merchant"]}, 403),
        ({"exp": 0, "iat": -100, "nbf": -100}, 401),
    ],
)
def test_a_decision_needs_a_token_of_its_own(
    browser: Browser,
    sqlite_store: SQLStore,
    digest: str,
    claims: dict[str, object],
    status: int,
) -> None:
    given = {"scope": DECIDE, **claims}
    answer = _decide(browser, digest, token=new_token(**given))

    assert answer.status_code == status
    assert _state(sqlite_store, digest) is ApprovalState.WAITING
    assert _records(sqlite_store, "admin-access-refused") != []


def test_a_token_decides_once(
    browser: Browser, sqlite_store: SQLStore, client: TestClient, digest: str
) -> None:
    used = new_token(scope=DECIDE)
    first = _decide(browser, digest, "approve", token=used)
    second = _decide(browser, digest, "reject", token=used)
    api = client.simulate_post(
        f"/v1/admin/approvals/{digest}/reject",
        json={"reason": "again"},
        headers={"Authorization": f"Bearer {used}"},
    )

    assert [each.status_code for each in (first, second, api)] == [303, 401, 401]
    assert _state(sqlite_store, digest) is ApprovalState.APPROVED


def test_the_token_of_a_login_decides_nothing(
    client: TestClient, sqlite_store: SQLStore, digest: str
) -> None:
    browser = Browser(client)
    used = new_token(scope=f"console:read {DECIDE}")
    browser.submit("/console/login", {"token": used})

    assert _decide(browser, digest, token=used).status_code == 401
    assert _state(sqlite_store, digest) is ApprovalState.WAITING


@pytest.mark.parametrize("step", ["confirm", "decide"])
@pytest.mark.parametrize("form", [None, "", "x", "other"])
def test_a_form_of_another_session_is_refused(
    client: TestClient,
    browser: Browser,
    sqlite_store: SQLStore,
    digest: str,
    step: str,
    form: str | None,
) -> None:
    """CSRF: each session has a token of its own, which its forms send back."""
    used = new_token(scope=DECIDE)
    other = Browser(client)
    other.log_in()
    token = other.form_token() if form == "other" else form
    fields = {"decision": "approve", "reason": WHY}
    fields |= {} if token is None else {"form": token}
    fields |= {"token": used} if step == "decide" else {}
    answer = browser.submit(f"/console/approvals/{digest}/{step}", fields)

    assert answer.status_code == (400 if form is None else 403)
    assert _state(sqlite_store, digest) is ApprovalState.WAITING
    # The token was not read, so it can still be used.
    assert _decide(browser, digest, token=used).status_code == 303


def test_a_form_from_another_site_is_refused(
    browser: Browser, sqlite_store: SQLStore, digest: str
) -> None:
    fields = {"form": browser.form_token(), "decision": "approve", "reason": WHY}
    headers = {"Sec-Fetch-Site": "cross-site"}
    answer = browser.submit(f"/console/approvals/{digest}/confirm", fields, **headers)

    assert answer.status_code == 403
    assert "another site" in answer.text


@pytest.mark.parametrize(
    "changes", [{"decision": "break-glass"}, {"reason": ""}, {"more": "x"}]
)
def test_another_form_is_refused(
    browser: Browser, sqlite_store: SQLStore, digest: str, changes: dict[str, str]
) -> None:
    assert _decide(browser, digest, **changes).status_code == 400
    assert _state(sqlite_store, digest) is ApprovalState.WAITING


@pytest.mark.parametrize("body", [b"\xff", b"a", b"form=%ff", b"x=1&" * 20])
def test_a_body_that_is_no_form_is_refused(
    browser: Browser, client: TestClient, digest: str, body: bytes
) -> None:
    answer = client.simulate_post(
        f"/console/approvals/{digest}/confirm",
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
