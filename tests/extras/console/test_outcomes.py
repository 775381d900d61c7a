"""Changes that are refused, or not finished: the page says so, and what to do next."""

from api.actions.catalogue import FORMS
from signer.errors import ChainUnavailableError
from signer.refunds.wallet_reconciliation import WalletReconciler
from tests.extras.console.worlds import SHOP, WHY, World
from tests.fixtures.ledger import broadcast
from tests.fixtures.scripted_chain import CHAIN_ID
from tests.support.ring import NEW


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
