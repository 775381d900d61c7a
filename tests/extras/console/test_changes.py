"""Changes: stops, refusals, attacks, and the database role of administrators."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest
from falcon.testing import Result, TestClient

from api.actions.action import Action
from api.actions.catalogue import FORMS
from api.extras.console.sessions import SESSION_LIFETIME
from api.http.app import create_app
from signer.errors import ChainUnavailableError
from signer.model.audit_record import WORKER
from signer.model.hold import EVERYTHING, Hold, name_of_chain
from signer.model.wallet import Wallet
from signer.refunds.wallet_reconciliation import WalletReconciler
from tests.api.actions.cases import prepared
from tests.api.administrators import authorized
from tests.api.browser import PATHS, Browser, build_console, new_token
from tests.api.forms import find_form
from tests.api.support import SettableClock
from tests.extras.console.worlds import BOB, CAROL, SHOP, WHY, World
from tests.fixtures.ledger import accepted, broadcast, forge
from tests.fixtures.roles import Processes
from tests.fixtures.scripted_chain import CHAIN_ID
from tests.support.ring import NEW


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


# Changes that are refused, or not finished: the page says so, and what to do next.

REPAIR, REHEARSE, ROTATE = (
    next(each for each in FORMS if each.name == name)
    for name in ("repair-nonces", "rehearse-rotation", "rotate-key")
)

_FLAGS = ("compromised", "without_funds")


def _rotation(world: World, *flags: str) -> dict[str, str]:
    given = {name: "yes" if name in flags else "" for name in _FLAGS}
    address = world.old.address
    return {"key_id": NEW, "active_address": address, "reason": WHY, **given}


def _foreign(world: World) -> str:
    """Return the hash of a transaction that another program sent with the key."""
    tx_hash = world.node.mine_foreign(world.old.address)
    world.node.mine_empty(200)
    reconciler = WalletReconciler(world.store, world.clock)
    reconciler.reconcile(world.container.chains["local"], world.old.address)
    return tx_hash


def test_a_repair_shows_what_it_would_accept(world: World) -> None:
    """With a foreign transaction it needs two persons; the page says so before."""
    world.paused(world.old.address)
    foreign = _foreign(world)
    values = {"network": "local", "reason": WHY}
    given = {"form": world.browser.form_token(), **values}
    page = world.browser.submit("/console/changes/repair-nonces/confirm", given).text
    answer = world.make(REPAIR, values)

    for text in (foreign, "accept nonce 0", "chain-ahead", "second person"):
        assert text in page
    assert answer.status_code == 200
    assert "Repair wallets: not finished" in answer.text
    assert "approval-required" in answer.text
    assert 'href="/console/approvals"' in answer.text

    waiting = world.browser.get("/console/wallets").text
    assert f"accept {foreign} (nonce 0)" in waiting
    world.approve_all()
    assert "Repair wallets: done" in world.make(REPAIR, values).text
    wallet = world.store.wallet(CHAIN_ID, world.old.address)
    assert wallet is not None
    assert not wallet.is_paused


def test_a_further_foreign_transaction_is_shown_first(world: World) -> None:
    world.paused(world.old.address)
    values = {"network": "local", "reason": WHY}
    fields = world.confirm(REPAIR, values)
    _foreign(world)
    answer = world.submit(REPAIR, {**fields, "token": world.token(REPAIR)})

    assert (answer.status_code, "conflict" in answer.text) == (409, True)


def test_a_repair_needs_an_answer_of_the_nodes(world: World) -> None:
    """Without it the page could not show what would be done."""
    world.paused(world.old.address)
    world.node.fail("pending_count", ChainUnavailableError("no answer"))
    given = {"form": world.browser.form_token(), "network": "local", "reason": WHY}
    answer = world.browser.submit("/console/changes/repair-nonces/confirm", given)

    assert answer.status_code == 503
    assert "What to do" in answer.text


def test_a_compromised_key_needs_two_persons(world: World) -> None:
    values = _rotation(world, "compromised", "without_funds")
    first = world.make(ROTATE, values)
    keys = world.browser.get("/console/keys").text
    (approval,) = world.container.approvals.list().approvals
    world.approve_all()
    proposal = world.browser.get(f"/console/approvals/{approval.digest}").text
    second = world.make(ROTATE, values)

    assert first.status_code == 409
    assert f"revoke the key of {world.old.address} as compromised" in keys
    assert "without_funds=yes" in proposal
    assert "rotated: " in second.text
    assert "requested by" in world.browser.get("/console/keys").text


def test_keys_show_what_drains(world: World) -> None:
    address = world.replaced().address
    page = world.browser.get("/console/keys").text

    assert "a worker retires it when its last transaction is final" in page
    assert f"/console/changes/revoke-key?address={address}" in page


_STOP = {"network": "local", "asset": "*"}

REFUSED: list[tuple[str, dict[str, str], str]] = [
    ("stop", {**_STOP, "reason": " "}, "invalid-input"),
    ("stop", {**_STOP, "reason": "x" * 201}, "invalid-input"),
    ("stop", {**_STOP, "reason": "a\nb"}, "invalid-input"),
    ("block-tenant", {"tenant": "", "reason": WHY}, "invalid-input"),
    ("block-tenant", {"tenant": "x" * 129, "reason": WHY}, "invalid-input"),
    ("replay-dead", {"tenant": SHOP, "reason": WHY}, "not-found"),
]


def test_refused_confirmations(world: World) -> None:
    """No token is asked for, and nothing was changed."""
    for name, values, code in REFUSED:
        given = {"form": world.browser.form_token(), **values}
        answer = world.browser.submit(f"/console/changes/{name}/confirm", given)

        assert answer.status_code in {400, 404}, values
        assert code in answer.text
        assert "Nothing was changed" in answer.text
        assert 'name="token"' not in answer.text


def test_a_refund_with_a_nonce_is_not_cancelled(world: World) -> None:
    """The page of such a refund does not offer it either."""
    waiting = world.browser.get(f"/console/refunds/{world.refund().id}").text
    refund = broadcast(world.store, tenant=SHOP, reference="sent")
    path = f"/console/refunds/{refund.id}"
    given = {"form": world.browser.form_token(), "refund_id": refund.id, "reason": WHY}
    answer = world.browser.submit("/console/changes/cancel-refund/confirm", given)

    assert (answer.status_code, "not-cancellable" in answer.text) == (409, True)
    assert "/console/changes/cancel-refund?" in waiting
    assert "/console/changes/cancel-refund?" not in world.browser.get(path).text


def test_links_fill_the_forms_in(world: World) -> None:
    page = world.browser.get("/console/changes/block-tenant?tenant=shop").text
    wrong = world.browser.get("/console/changes/block-tenant?tenants=x")

    assert 'value="shop"' in page
    assert wrong.status_code == 400


# Attacks on every declared change: none of them changes anything, or is silent.

Fields = Mapping[str, str]


@dataclass(frozen=True)
class Attempt:
    """What an attacker sends in place of the last form, and how it is answered."""

    send: Callable[[World, Action, Fields], Result]
    status: int
    code: str = ""
    is_recorded: bool = True


def _with(**changes: str) -> Callable[[World, Action, Fields], Result]:
    return lambda world, change, fields: world.submit(change, {**fields, **changes})


def _without(name: str) -> Callable[[World, Action, Fields], Result]:
    return lambda world, change, fields: world.submit(
        change, {each: text for each, text in fields.items() if each != name}
    )


def _with_token(**claims: object) -> Callable[[World, Action, Fields], Result]:
    return lambda world, change, fields: world.submit(
        change, {**fields, "token": world.token(change, **claims)}
    )


def _without_session(world: World, change: Action, fields: Fields) -> Result:
    stranger = Browser(world.client)
    return stranger.submit(f"/console/changes/{change.name}/make", fields)


def _with_another_session(world: World, change: Action, fields: Fields) -> Result:
    """Mallory's session, with the form and the token of alice."""
    mallory = Browser(world.client)
    mallory.log_in(sub="mallory", now=world.clock())
    return mallory.submit(f"/console/changes/{change.name}/make", fields)


def _with_his_own_form(world: World, change: Action, fields: Fields) -> Result:
    """Mallory's session and form, with a token of alice."""
    mallory = Browser(world.client)
    mallory.log_in(sub="mallory", now=world.clock())
    return mallory.submit(
        f"/console/changes/{change.name}/make", {**fields, "form": mallory.form_token()}
    )


def _from_another_site(world: World, change: Action, fields: Fields) -> Result:
    return world.browser.submit(
        f"/console/changes/{change.name}/make",
        fields,
        **{"Sec-Fetch-Site": "cross-site"},
    )


def _with_a_used_token(world: World, change: Action, fields: Fields) -> Result:
    used = world.token(change, scope=f"console:read {change.scope}")
    assert Browser(world.client).submit("/console/login", {"token": used})
    return world.submit(change, {**fields, "token": used})


def _with_a_link(world: World, change: Action, fields: Fields) -> Result:
    return world.browser.get(f"/console/changes/{change.name}/make")


ATTEMPTS: Mapping[str, Attempt] = {
    "no session": Attempt(_without_session, 303, is_recorded=False),
    "another session": Attempt(_with_another_session, 403, "forbidden"),
    "another subject": Attempt(_with_his_own_form, 403, "forbidden"),
    "another site": Attempt(_from_another_site, 403, "forbidden"),
    "no form token": Attempt(_without("form"), 400, is_recorded=False),
    "a wrong form token": Attempt(_with(form="x"), 403, "forbidden"),
    "an unknown field": Attempt(_with(more="x"), 400, is_recorded=False),
    "no confirmation": Attempt(_without("confirmed"), 400, is_recorded=False),
    "another confirmation": Attempt(_with(confirmed="0" * 64), 409, is_recorded=False),
    "no token": Attempt(_with(token=""), 401, "unauthenticated"),
    "no JWT": Attempt(_with(token="a.b.c"), 401, "unauthenticated"),
    "a used token": Attempt(_with_a_used_token, 401, "unauthenticated"),
    "an old token": Attempt(
        _with_token(exp=0, iat=-100, nbf=-100), 401, "unauthenticated"
    ),
    "the role of tenants": Attempt(_with_token(roles=["merchant"]), 403, "forbidden"),
    "no role": Attempt(_with_token(roles=[]), 403, "forbidden"),
    "no scope": Attempt(_with_token(scope=...), 403, "forbidden"),
    "the scope of reading": Attempt(
        _with_token(scope="console:read"), 403, "forbidden"
    ),
    "another scope": Attempt(_with_token(scope="metrics:read"), 403, "forbidden"),
    "a link": Attempt(_with_a_link, 405, is_recorded=False),
}


@pytest.mark.parametrize("change", FORMS, ids=lambda each: each.name)
def test_only_the_right_request_changes_something(world: World, change: Action) -> None:
    """
    After all attempts, and in a new session, the same form makes the change, once.

    The form of an expired session is of no use, also in a session that began later.
    """
    case, values = prepared(world, change)
    expired = world.confirm(change, values)
    before, known = case.state(world), len(world.records())
    world.clock.advance(SESSION_LIFETIME.total_seconds())
    late = world.submit(change, {**expired, "token": world.token(change)})
    world.browser.log_in(now=world.clock())
    later = world.submit(change, {**expired, "token": world.token(change)})
    assert (late.status_code, late.headers["location"]) == (303, "/console/login")
    assert later.status_code == 403
    assert case.state(world) == before

    fields = {**world.confirm(change, values), "token": world.token(change)}
    for name, attempt in ATTEMPTS.items():
        refused = world.refusals()
        answer = attempt.send(world, change, fields)
        assert answer.status_code == attempt.status, name
        assert attempt.code in answer.text, name
        assert case.state(world) == before, name
        assert world.refusals() - refused == attempt.is_recorded, name
    assert len(world.records()) == known

    assert world.submit(change, fields).status_code == 200
    made = case.state(world)
    again = world.submit(change, fields)
    assert again.status_code in {401, 404, 409}
    assert case.state(world) == made


def test_forms_and_confirmations_need_the_session_too(world: World) -> None:
    stranger = Browser(world.client)
    for change in FORMS:
        path = f"/console/changes/{change.name}"
        fields = {"form": "x", **{each.name: "x" for each in change.form}}

        assert stranger.get(path).status_code == 303
        assert stranger.submit(f"{path}/confirm", fields).status_code == 303
        assert world.browser.submit(f"{path}/confirm", fields).status_code == 403
        assert world.browser.submit(path, fields).status_code == 405


def test_a_repeated_post_says_what_to_do(world: World) -> None:
    """The answer to the second one is that the token was used."""
    change = next(each for each in FORMS if each.name == "stop")
    fields = world.confirm(
        change, {"network": "*", "asset": "*", "reason": "odd refunds"}
    )
    fields = {**fields, "token": world.token(change)}
    first, second = world.submit(change, fields), world.submit(change, fields)

    assert (first.status_code, second.status_code) == (200, 401)
    assert "one that was used before is refused" in second.text
    assert "Log in with another token" not in second.text
    assert world.browser.get("/console/keys").status_code == 200


def test_a_token_makes_one_change(world: World) -> None:
    """Not even another one, and not one in the API."""
    stop = next(each for each in FORMS if each.name == "stop")
    used = new_token(scope="signing:stop")
    fields = world.confirm(
        stop, {"network": "local", "asset": "*", "reason": "odd refunds"}
    )
    assert world.submit(stop, {**fields, "token": used}).status_code == 200
    fields = world.confirm(
        stop, {"network": "*", "asset": "*", "reason": "odd refunds"}
    )
    again = world.submit(stop, {**fields, "token": used})
    api = world.client.simulate_post(
        "/v1/admin/stop",
        json={"reason": "odd refunds"},
        headers={"Authorization": f"Bearer {used}"},
    )

    assert (again.status_code, api.status_code) == (401, 401)
    assert len(world.container.holds.stops()) == 1


# The console with the database role of administrators, as in production.


def test_the_role_suffices(processes: Processes, clock: SettableClock) -> None:
    """Every page, a decision and a cancellation: it needs no grant of its own."""
    refund = accepted(processes.stores["refunds"])
    client = TestClient(create_app(build_console(processes.stores["admin"], clock)))
    for path in ("stop", "resume"):
        answer = client.simulate_post(
            f"/v1/admin/{path}",
            json={"reason": "a test"},
            headers=authorized(scope="signing:stop", sub="carol"),
        )
    browser = Browser(client)
    browser.log_in()
    paths = (*PATHS, f"/console/refunds/{refund.id}", "/console/refunds?q=order")
    shown = {browser.get(path).status_code for path in paths}

    def made(name: str, scope: str, **values: str) -> int:
        path = f"/console/changes/{name}"
        given = {"form": browser.form_token(), "reason": "checked", **values}
        confirmed = browser.submit(f"{path}/confirm", given)
        fields = find_form(confirmed.text, f"{path}/make").fields
        fields["token"] = new_token(scope=scope)
        return browser.submit(f"{path}/make", fields).status_code

    decision = {"digest": answer.json["digest"], "signature": ""}
    assert shown == {200}
    assert made("approve", "approvals:decide", **decision) == 200
    assert made("cancel-refund", "refunds:write", refund_id=refund.id) == 200
    cancelled = processes.stores["admin"].get(refund.id)
    assert cancelled is not None
    assert cancelled.cancel_requested_at is not None
