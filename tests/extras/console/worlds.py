"""A service whose state each change of the console can action."""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.actions.action import Action, Texts
from api.auth.authorization import AccessPolicy, RateLimits
from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from signer.audit.actions import AuditAction
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import ApprovalRequiredError
from signer.model.audit_record import Actor, Operation
from signer.model.event import DeliveryState
from signer.model.key import Key, find_key
from signer.model.refund import Refund
from signer.model.wallet import Pause, Wallet
from signer.ports.event_store import DeliveryAttempt
from tests.api.browser import Browser, build_console, new_token
from tests.api.forms import find_form
from tests.api.support import SettableClock
from tests.fixtures.ledger import accepted
from tests.fixtures.scripted_chain import CHAIN_ID, ScriptedChain
from tests.support.keys import made_active
from tests.support.ledgers import DRAFTS, seal
from tests.support.ring import ELSEWHERE, NEW, OLD, System


WHY = "checked with <b>the</b> gateway"
SHOP = "shop"

CAROL = Actor("token:carol", "req-carol", "token-carol")
"""Who asked for a proposal."""

BOB = Actor("token:bob", "req-bob", "token-bob")
"""Who approves what alice asks for."""

_MANY = 10_000


class World:
    """One service, a browser of the administrator alice, and some state."""

    def __init__(self, store: SQLStore) -> None:
        """Log alice in; the key OLD is active, and changes need two persons."""
        self.store = store
        self.clock = SettableClock()
        self.node = ScriptedChain()
        self.system = System(store)
        self.system.replicate(OLD, ELSEWHERE)
        self.old = self.system.old
        self.container = self._build()
        self.client = TestClient(create_app(self.container))
        self.browser = Browser(self.client)
        assert self.browser.log_in().status_code == 303

    def _build(self) -> Container:
        made = build_console(self.store, self.clock, self.node)
        made.backend = self.system.directory
        made.tenants = TenantRegistry(
            {
                SHOP: Tenant.model_validate(
                    {
                        "subjects": [SHOP],
                        "webhook": {"url": "https://shop.example/hook"},
                    }
                )
            }
        )
        limits = RateLimits.shared(
            self.store, refused=_MANY, administration=_MANY, clock=self.clock
        )
        made.access = AccessPolicy(
            self.store, limits, made.audit, self.clock, made.tenants
        )
        for part in ("refunds", "ring"):
            del made.__dict__[part]  # The container makes them over its own parts.
        return made

    def replaced(self) -> Key:
        """Return the key OLD, which drains since NEW is active."""
        made_active(self.store, self.system.key(NEW))
        return self._row(self.old.address)

    def revoked(self) -> Key:
        """Return the key OLD, which was revoked a moment ago."""
        record = DRAFTS.result(AuditAction.KEY_REVOKE, Operation.KEY_ROTATION, CAROL)
        return self.store.block(self.replaced(), self.clock(), record)

    def _row(self, address: str) -> Key:
        found = find_key(self.store.keys(), address)
        assert found is not None
        return found

    def paused(self, address: str) -> Wallet:
        """Return a wallet of *address* that a worker has paused."""
        wallet = Wallet(CHAIN_ID, address, 0, 0)
        self.store.open_wallet(wallet)
        self.store.pause(wallet, Pause.CHAIN_AHEAD, self.clock())
        return wallet

    def proposed(self, reason: str = "a stop", why: str = WHY) -> str:
        """Return the digest of carol's proposal to resume signing."""
        switch = self.container.holds
        switch.stop(None, CAROL.because(reason))
        with pytest.raises(ApprovalRequiredError) as refused:
            switch.resume(None, CAROL.because(why))
        return refused.value.digest

    def refund(self, **changes: Any) -> Refund:
        """Return a queued refund of the shop."""
        return accepted(self.store, **{"tenant": SHOP, **changes})

    def given_up(self, problem: str = "status-503", **changes: Any) -> str:
        """Return the id of the event of a new refund that was given up."""
        self.refund(**changes)
        now = self.clock()
        self.store.sequence_events(9, now, lambda _: True)
        (due,) = self.store.claim_deliveries({SHOP: 1}, 1, now, now)
        dead = DeliveryAttempt(due.delivery, DeliveryState.DEAD, now, problem)
        self.store.record_attempts([dead], now)
        return due.delivery.event_id

    def records(self) -> list[dict[str, Any]]:
        """Return the audit records, without those of logins and refusals."""
        seal(self.store)
        found = [each.record.fields for each in self.store.sealed(0, 1000)]
        return [each for each in found if not each["event"].startswith("admin-access")]

    def refusals(self) -> int:
        """Return how many refusals of administrators are on record."""
        query = "SELECT count(*) FROM audit_records WHERE body LIKE '%access-refused%'"
        found = self.store._database.run(lambda c: c.exec_driver_sql(query).scalar())
        return int(found or 0)

    def token(self, action: Action, **claims: object) -> str:
        """Return a new token of alice for *action*, with other *claims*."""
        return new_token(**{"scope": action.scope, "now": self.clock(), **claims})

    def confirm(self, action: Action, values: Texts) -> dict[str, str]:
        """Walk through form and confirmation; return the fields of the last form."""
        path = f"/console/changes/{action.name}"
        form = find_form(self.browser.get(path).text, f"{path}/confirm")
        assert set(form.fields) == {"form", *values}
        answer = self.browser.submit(form.action, {**form.fields, **values})
        assert answer.status_code == 200, answer.text
        return find_form(answer.text, f"{path}/make").fields

    def submit(self, action: Action, fields: Mapping[str, str]) -> Result:
        """Send the last form of *action*."""
        return self.browser.submit(f"/console/changes/{action.name}/make", fields)

    def make(self, action: Action, values: Texts, **claims: object) -> Result:
        """Make *action* as alice does, with a new token."""
        fields = self.confirm(action, values)
        return self.submit(action, {**fields, "token": self.token(action, **claims)})

    def approve_all(self) -> None:
        """Let bob approve everything that waits."""
        for each in self.container.approvals.list().approvals:
            self.container.approvals.approve(each.digest, BOB.because("looked at it"))


def pages_of(browser: Browser, path: str) -> Iterator[str]:
    """Yield the page at *path*, and by their links those after it."""
    while path:
        page = browser.get(path).text
        yield page
        link = r'href="(/console/[a-z]+\?[^"#]*(?:before|cursor)[^"#]*)'
        found = re.findall(link, page)
        assert len(found) <= 1
        path = html.unescape(found[0]) if found else ""
