"""Texts that others can write stay texts, on every page of a change."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from api.actions.catalogue import FORMS
from api.extras.console.refunds import ConsoleTables
from backends.sql import SQLStore
from signer.errors import ApprovalRequiredError
from signer.model.audit_record import Actor
from signer.model.hold import Hold
from signer.model.key import KeyState
from tests.api.browser import PATHS, Browser, new_token
from tests.api.forms import find_form
from tests.extras.console.worlds import SHOP, World
from tests.support.ring import NEW


EVIL = "\"'><script>alert(1)</script><img/src=x/onerror=alert(1)>{{7*7777}}"
"""Visible ASCII, so subjects, tenants and references may have it."""

EVIL_TEXT = f"{EVIL} \u202egpj"

MALLORY = Actor(f"token:{EVIL}", "req-1", "token-1")


@pytest.fixture
def world(sqlite_store: SQLStore) -> World:
    """A service in which everything that others write is hostile."""
    made = World(sqlite_store)
    container, store = made.container, made.store
    pending = replace(
        made.system.key(NEW), state=KeyState.PENDING, requested_by=EVIL_TEXT
    )
    store.begin_rotation(pending, made.clock())
    store.begin_hold(Hold.of_tenant(EVIL_TEXT, made.clock(), "", EVIL_TEXT))
    made.refund(reference=EVIL)
    made.given_up(problem=EVIL_TEXT, reference="another")
    container.holds.stop("local", MALLORY.because(EVIL))
    container.holds.block(SHOP, MALLORY)
    for ask in (
        lambda: container.holds.resume("local", MALLORY.because(EVIL)),
        lambda: container.holds.unblock(SHOP, replace(MALLORY, reason=EVIL)),
    ):
        with pytest.raises(ApprovalRequiredError):
            ask()
    made.paused(made.old.address)
    made.browser = Browser(made.client)
    assert made.browser.log_in(sub=EVIL).status_code == 303
    return made


def _pages(world: World) -> Iterator[tuple[str, str]]:
    """Walk through everything; yield each page with its path."""
    browser, store = world.browser, world.store
    (refund,) = store.tables(ConsoleTables).find_by_reference(EVIL, 9)
    event_id = store.deliveries(9)[0][0].event_id
    digests = [each.digest for each in world.container.approvals.list().approvals]
    paths = [*PATHS, f"/console/refunds/{refund.id}"]
    paths += [f"/console/approvals/{digest}" for digest in digests]
    paths += [f"/console/changes/{each.name}" for each in FORMS]
    paths.append("/console/changes/block-tenant?tenant=%22%3E%3Cscript%3E")
    for path in paths:
        yield path, browser.get(path).text
    given = {
        "approve": {"digest": digests[0], "reason": EVIL},
        "resume": {"network": "local", "asset": "*", "reason": EVIL},
        "unblock-tenant": {"tenant": SHOP, "reason": EVIL},
        "replay-event": {"event_id": event_id, "reason": EVIL},
        "cancel-refund": {"refund_id": refund.id, "reason": EVIL},
        "stop": {"network": "*", "asset": "*", "reason": EVIL},
        "block-tenant": {"tenant": EVIL, "reason": EVIL},
    }
    scopes = {each.name: each.scope for each in FORMS}
    for name, values in given.items():
        path = f"/console/changes/{name}"
        fields = {"form": browser.form_token(), **values}
        page = browser.submit(f"{path}/confirm", fields).text
        yield f"{path}/confirm", page
        if 'name="token"' in page:
            last = find_form(page, f"{path}/make").fields
            last["token"] = new_token(scope=scopes[name], sub=EVIL)
            yield f"{path}/make", browser.submit(f"{path}/make", last).text


def test_nothing_of_others_becomes_a_tag(world: World) -> None:
    shown = 0
    for path, page in _pages(world):
        assert not re.search(r"<script|<img|\u202e|54439", page), path
        assert "Internal" not in page, path
        shown += page.count("&lt;script&gt;")
    assert shown > 50
