"""The page on which people sign, in Chromium with its virtual authenticator."""

import base64
import hashlib
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Browser, CDPSession, expect

from api.cli.administration import PAGE
from signer.crypto.approver_keys import parse_signature
from signer.errors import PermissionDeniedError
from signer.model.approvers import Approvers, Consent, Statement
from tests.browser.chromium import Visitor, visiting
from tests.support.approvers import SSHKey


pytestmark = pytest.mark.needs("chromium")

PROPOSAL = '{"action":"signing-resume","chain_id":"137","stop_reason":"<b>odd</b>"}'

STATEMENT = Statement(PROPOSAL, datetime(2026, 12, 3, 12, tzinfo=UTC))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def open_page(chromium: Browser, tmp_path: Path) -> Iterator[Callable[[], Visitor]]:
    """Return what opens the page on an origin of its own."""
    (tmp_path / "approve.html").write_bytes(PAGE.read_bytes())
    with ExitStack() as stack:

        def opened() -> Visitor:
            url = stack.enter_context(_serving(tmp_path))
            visitor = stack.enter_context(visiting(chromium, url))
            visitor.open("/approve.html")
            return visitor

        yield opened


def _authenticator(visitor: Visitor) -> tuple[CDPSession, str]:
    """Add an authenticator that verifies its person at once."""
    session = visitor.page.context.new_cdp_session(visitor.page)
    session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    added = session.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return session, str(added["authenticatorId"])


def _value(visitor: Visitor, box: str) -> str:
    found = visitor.page.locator(f"#{box}")
    expect(found).not_to_have_value("")
    return found.input_value()


def _enrol(visitor: Visitor) -> Approvers:
    """Make a key of alice on the page; return a file with what the page prints."""
    visitor.page.get_by_text("Enrol a key").click()
    visitor.page.get_by_label("Your name").fill("alice")
    visitor.page.get_by_role("button", name="Make a key").click()
    people = tomllib.loads(_value(visitor, "line"))["people"]
    people["bob"] = {"keys": {"laptop": SSHKey().line}}
    page = visitor.page.url.partition("#")[0]
    return Approvers.parse({"deployment": "tests", "page": page, "people": people})


def _sign(visitor: Visitor, approvers: Approvers, text: str) -> str:
    """Sign *text* on the page of its link, which shows exactly that."""
    visitor.page.goto(str(approvers.link(text)))
    assert visitor.page.evaluate("document.getElementById('shown').textContent") == text
    visitor.page.get_by_role("button", name="Sign this text").click()
    return _value(visitor, "result")


def test_a_passkey_is_enrolled_and_signs_what_is_shown(
    open_page: Callable[[], Visitor],
) -> None:
    """Its signature is none of another text, or of another origin of the same host."""
    visitor = open_page()
    _authenticator(visitor)
    approvers = _enrol(visitor)
    text = approvers.text("alice", Consent.APPROVE, STATEMENT)
    signature = _sign(visitor, approvers, text)
    signed = approvers.verify(signature, Consent.APPROVE, STATEMENT)

    assert (signed.approver, signed.key) == ("alice", "first")
    assert "<b>odd</b>" in text  # It is text, no markup.
    with pytest.raises(PermissionDeniedError, match="challenge"):
        approvers.verify(signature, Consent.BREAK_GLASS, STATEMENT)
    elsewhere = replace(approvers, page="http://localhost:1/approve.html")
    with pytest.raises(PermissionDeniedError, match="origin"):
        elsewhere.verify(signature, Consent.APPROVE, STATEMENT)
    assert visitor.check_accessibility() == []
    assert visitor.problems == []


def test_a_copied_authenticator_counts_again_from_what_was_copied(
    open_page: Callable[[], Visitor],
) -> None:
    """``tests/unit/signer/test_signed_approvals.py`` shows that it is refused."""
    visitor = open_page()
    session, first = _authenticator(visitor)
    approvers = _enrol(visitor)
    text = approvers.text("alice", Consent.APPROVE, STATEMENT)
    known: Any = session.send("WebAuthn.getCredentials", {"authenticatorId": first})
    (credential,) = known["credentials"]
    own = [parse_signature(_sign(visitor, approvers, text)).counter for _ in range(2)]
    session.send("WebAuthn.removeVirtualAuthenticator", {"authenticatorId": first})
    session, second = _authenticator(visitor)
    copy = {"authenticatorId": second, "credential": credential}
    session.send("WebAuthn.addCredential", copy)
    copied = parse_signature(_sign(visitor, approvers, text)).counter

    assert own[0] < own[1]
    assert 0 < copied <= own[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hotwallet approval 2\naction: x\n",
        "hotwallet approval 1\napprover: \u202eecila\n",
        "hotwallet approval 1\napprover: \u0430lice\n",
        "hotwallet approval 1\r\naction: x\n",
        "hotwallet approval 1\naction: x",
    ],
    ids=["empty", "header", "direction", "homoglyph", "control", "cut off"],
)
def test_what_does_not_look_like_itself_is_not_signed(
    open_page: Callable[[], Visitor], text: str
) -> None:
    visitor = open_page()
    fragment = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    visitor.page.evaluate("hash => { location.hash = hash; }", fragment)

    shown = visitor.page.locator("#shown")
    assert visitor.page.locator("#sign").is_disabled()
    assert shown.text_content() == "This is no text of a proposal."


def test_the_policy_of_the_page_has_its_only_script_and_style() -> None:
    """It loads nothing, sends nothing, and runs nothing else."""
    page = PAGE.read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "form-action 'none'" in policy
    assert not re.search(r"innerHTML|eval\(|https?:|\son\w+=", page)
