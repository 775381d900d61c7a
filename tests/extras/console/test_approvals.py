"""Approvals: what the console decides is what the API would have decided."""

import re
from base64 import urlsafe_b64decode
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result, TestClient
from markupsafe import escape

from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from signer.approvals import MAX_LISTED
from signer.model.approval import ApprovalState
from signer.ports.clock import utc_now
from signer.refunds.acceptance import SubmittedRequest
from tests.api.administrators import authorized
from tests.api.browser import Browser, new_token
from tests.api.commands import Run
from tests.api.forms import find_form
from tests.api.support import SettableClock
from tests.support.approvals import ASKING, limited
from tests.support.approvers import (
    PAGE,
    AnyKey,
    Authenticator,
    SSHKey,
    approvers_of,
)
from tests.support.ledgers import write_mac_key
from tests.support.refunds import REQUEST, World


DECIDE = "approvals:decide"
Pages = list[list[str]]
"""The digests of each page."""

WHY = "checked with <b>the</b> gateway"


def _resume_proposal(client: TestClient, **claims: Any) -> str:
    for path in ("stop", "resume"):
        answer = client.simulate_post(
            f"/v1/admin/{path}",
            json={"reason": "a test"},
            headers=authorized(**{"scope": "signing:stop", "sub": "carol", **claims}),
        )
    return str(answer.json["digest"])


@pytest.fixture
def digest(client: TestClient) -> str:
    return _resume_proposal(client)


def _decide(
    browser: Browser,
    digest: str,
    decision: str = "approve",
    *,
    signature: str = "",
    **changes: str,
) -> Result:
    path = f"/console/changes/{decision}"
    given = {"form": browser.form_token(), "digest": digest, "reason": WHY}
    given |= {} if decision == "reject" else {"signature": signature}
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


def test_the_confirmation_shows_exactly_what_will_be_done(
    browser: Browser, sqlite_store: SQLStore, digest: str
) -> None:
    fields = {"form": browser.form_token(), "digest": digest, "reason": WHY}
    fields |= {"signature": ""}
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
    (record,) = [each for each in _records(sqlite_store) if f'"{event}"' in each]
    assert '"actor":"token:alice"' in record
    assert "gateway" in record


def test_people_sign_the_text_behind_the_link(
    container: Container, browser: Browser, sqlite_store: SQLStore, digest: str
) -> None:
    """The page has each person's text, and hands in what they signed."""
    keys: dict[str, AnyKey] = {"alice": Authenticator(), "bob": SSHKey()}
    container.approvers = approvers_of(**keys)
    container.approvals = container.approvals.verified_by(container.approvers)
    page = browser.get(f"/console/approvals/{digest}").text
    links = dict(
        re.findall(r'text for <bdi>(\w+)</bdi>.*?href="([^"]+)"', page, re.DOTALL)
    )
    for name, key in keys.items():
        fragment = links[name].removeprefix(f"{PAGE}#")
        text = urlsafe_b64decode(fragment + "=" * (-len(fragment) % 4)).decode()
        assert f"approver: {name}\n" in text
        assert escape(text) in page
        signature = key.sign(text).replace("\n", "")  # As a browser pastes it.
        answer = _decide(browser, digest, signature=signature)
        assert answer.status_code == 200
    found = sqlite_store.find_approval(digest)

    assert found is not None
    assert found.decided_by == "token:alice token:bob"
    assert found.state is ApprovalState.APPROVED


def _records(store: SQLStore) -> list[str]:
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


def test_a_body_that_is_no_form_is_refused(
    browser: Browser, client: TestClient
) -> None:
    for body in (b"\xff", b"a", b"form=%ff", b"x=1&" * 20):
        answer = client.simulate_post(
            "/console/changes/approve/confirm",
            body=body,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            cookies=browser.cookies,
            host="hotwallet.example",
        )

        assert answer.status_code == 400, body


def test_a_decided_proposal_has_no_form(
    container: Container, browser: Browser, digest: str
) -> None:
    _decide(browser, digest, "reject")
    page = Browser(TestClient(create_app(container)))
    page.log_in()
    answer = page.get(f"/console/approvals/{digest}")

    assert not re.search(r"/confirm", answer.text)
    assert _decide(browser, digest).status_code == 409


def _by_api(client: TestClient, now: datetime) -> Pages:
    """Return the digests of each page, following ``nextCursor``."""
    pages, cursor = Pages(), "0"
    while cursor:
        listed = client.simulate_get(
            "/v1/admin/approvals",
            params={"cursor": cursor},
            headers=authorized(scope="approvals:read", now=now),
        ).json
        pages.append([each["digest"] for each in listed["approvals"]])
        cursor = listed["nextCursor"] or ""
    return pages


def _by_command(hotwallet: Run) -> Pages:
    """Return the digests of each page, following what each page says."""
    pages, cursor = Pages(), "0"
    while cursor:
        command = ("approvals", "list", "--cursor", cursor)
        listed = hotwallet(*command, "--json").json
        pages.append([each["digest"] for each in listed["approvals"]])
        cursor = listed["nextCursor"] or ""
        said = re.findall(r"--cursor (\d+)", hotwallet(*command).out)
        assert said == ([cursor] if cursor else [])
    return pages


def _by_console(browser: Browser) -> Pages:
    """Return the digests of each page, following the link to more."""
    pages, links = Pages(), ["/console/approvals"]
    while links:
        text = browser.get(links[0]).text
        pages.append(re.findall(r'<h2[^>]*><a href="[^"]*/([0-9a-f]{64})">', text))
        links = re.findall(r'<a href="([^"]+)">More</a>', text)
    return pages


def test_pages_show_each_proposal_once(
    client: TestClient,
    sqlite_store: SQLStore,
    sqlite_url: str,
    clock: SettableClock,
    hotwallet: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    By API, command and console: more refunds wait than a page has.

    An administrator's proposal is later than all, and on the first page.
    """
    clock.now = utc_now()  # As the command, which has the host's clock.
    world = World(sqlite_store)
    world.clock.now = clock.now
    requests = [
        SubmittedRequest(f"key-{n}", replace(REQUEST, reference=f"order-{n}"))
        for n in range(MAX_LISTED + 5)
    ]
    limited(world).service.submit_all(tenant="mallory", requests=requests, actor=ASKING)
    resume = _resume_proposal(client, now=clock.now)
    browser = Browser(client)
    assert browser.log_in(now=clock.now).status_code == 303
    settings = {
        "APP_ENV": "test",
        "MAC_KEY_FILE": str(write_mac_key(tmp_path)),
        "DATABASE_URL": sqlite_url,
        "REQUIRE_APPROVALS": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    for first, second in (
        _by_api(client, clock.now),
        _by_command(hotwallet),
        _by_console(browser),
    ):
        assert resume in first
        assert (len(first), len({*first, *second})) == (MAX_LISTED, MAX_LISTED + 6)
        assert len(second) == 6
