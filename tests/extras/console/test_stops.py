"""Stopping in two clicks, and what pages show while something is stopped."""

from dataclasses import replace

import pytest

from api.actions.catalogue import FORMS
from signer.model.audit_record import WORKER
from signer.model.hold import EVERYTHING, Hold, name_of_chain
from signer.model.wallet import Wallet
from tests.api.browser import PATHS
from tests.api.forms import find_form
from tests.extras.console.worlds import BOB, CAROL, SHOP, WHY, World
from tests.fixtures.ledger import forge


STOP, RESUME, UNBLOCK = (
    next(each for each in FORMS if each.name == name)
    for name in ("stop", "resume", "unblock-tenant")
)


def test_two_clicks_stop_everything(world: World) -> None:
    """The overview has the form; the second click is that of the confirmation."""
    overview = world.browser.get("/console").text
    form = find_form(overview, "/console/changes/stop/confirm")
    assert form.fields["network"] == "*"
    assert overview.index("Stop signing") < overview.index("Needs attention")
    first = world.browser.submit(form.action, {**form.fields, "reason": WHY})
    second = find_form(first.text, "/console/changes/stop/make")
    made = world.browser.submit(
        second.action, {**second.fields, "token": world.token(STOP)}
    )

    assert made.status_code == 200
    (stop,) = world.store.stops()
    assert (stop.chain_id, stop.reason) == (EVERYTHING, WHY)


@pytest.mark.parametrize("network", ["*", "local"])
def test_every_page_shows_a_stop(world: World, network: str) -> None:
    refund = world.refund()
    values = {"network": network, "asset": "*", "reason": WHY}
    assert world.make(STOP, values).status_code == 200
    paths = [*PATHS, f"/console/refunds/{refund.id}", "/console/changes/approve"]

    for path in paths:
        page = world.browser.get(path).text
        assert "Signing is stopped for" in page, path
        assert "checked with &lt;b&gt;the&lt;/b&gt; gateway" in page
    assert "Signing is stopped" not in world.browser.get("/console/login").text


def test_a_stopped_wallet_does_not_look_as_if_it_paid(world: World) -> None:
    world.store.open_wallet(Wallet(31337, world.old.address, 0, 0))
    before = world.browser.get("/console/wallets").text
    world.make(STOP, {"network": "local", "asset": "*", "reason": WHY})
    after = world.browser.get("/console/wallets").text

    assert ">pays<" in before
    assert ">pays<" not in after
    assert ">stopped<" in after


def test_another_stop_is_not_ended_by_an_old_page(world: World) -> None:
    """Bob's stop came after the page was shown: alice looks at it first."""
    switch = world.container.holds
    switch.stop("local", CAROL.because("the first"))
    fields = world.confirm(RESUME, {"network": "local", "asset": "*", "reason": WHY})
    (stop,) = switch.stops()
    world.store.end_hold(name_of_chain(stop.chain_id), world.clock(), stop.version)
    switch.stop("local", BOB.because("the second"))
    answer = world.submit(RESUME, {**fields, "token": world.token(RESUME)})

    assert answer.status_code == 409
    assert "not as the page showed it" in answer.text
    assert [each.reason for each in switch.stops()] == ["the second"]
    assert world.container.approvals.list().approvals == []


def test_a_faster_stop_does_not_prevent_a_stop(world: World) -> None:
    fields = world.confirm(STOP, {"network": "local", "asset": "*", "reason": WHY})
    world.container.holds.stop("local", BOB.because("faster"))
    answer = world.submit(STOP, {**fields, "token": world.token(STOP)})

    assert answer.status_code == 200
    assert "already stopped" in answer.text


def test_a_chain_of_no_network_can_be_resumed(world: World) -> None:
    """Its network was removed from the file while it was stopped."""
    world.store.begin_hold(Hold.of_chain(5, world.clock(), "odd", "token:carol"))
    page = world.browser.get("/console/stops").text
    assert "/console/changes/resume?network=chain%3A5" in page
    values = {"network": "chain:5", "asset": "*", "reason": WHY}
    assert world.make(RESUME, values).status_code == 409
    world.approve_all()

    assert world.make(RESUME, values).status_code == 200
    assert world.container.holds.stops() == []


def test_a_stop_that_another_program_changed(world: World) -> None:
    """The page says what to do, and the change is refused with its code."""
    world.container.holds.stop("local", CAROL.because("odd"))
    forge(world.store, "UPDATE holds SET reason = '<b>no</b>', version = version + 1")
    page = world.browser.get("/console/stops").text
    answer = world.make(RESUME, {"network": "local", "asset": "*", "reason": WHY})

    assert "Stop again, then resume" in page
    assert "<b>no" not in page
    assert (answer.status_code, "row-not-authentic" in answer.text) == (503, True)


def test_nothing_to_end(world: World) -> None:
    resumed = world.make(RESUME, {"network": "local", "asset": "*", "reason": WHY})
    unblocked = world.make(UNBLOCK, {"tenant": SHOP, "reason": WHY})

    assert (resumed.status_code, "not stopped" in resumed.text) == (200, True)
    assert (unblocked.status_code, "not-blocked" in unblocked.text) == (200, True)


def test_what_a_rule_counted_is_shown(world: World) -> None:
    evidence = {"network": "local", "rule": "max_refunds", "tenants": {"<i>": "7"}}
    world.container.holds.stop("local", WORKER.because("automatic"), evidence=evidence)
    world.container.holds.block(SHOP, replace(WORKER, reason="many"), evidence)
    page = world.browser.get("/console/stops").text

    assert page.count("signing-stopped: <bdi>network local, rule max_refunds") == 2
    assert "worker</bdi>: <bdi>many</bdi>" in page
    assert "&lt;i&gt;" in page
    assert "<i>" not in page


def test_tenants_are_listed_with_their_blocks(world: World) -> None:
    world.container.holds.block(SHOP, CAROL)
    page = world.browser.get("/console/stops").text

    assert "blocked</span> since" in page
    assert f"/console/changes/unblock-tenant?tenant={SHOP}" in page
