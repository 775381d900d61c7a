"""A restore with a log gives a batch its nonce back, if it has all of its refunds."""

from datetime import timedelta

import pytest

from api.extras.restore.plan import LostBatch, LostChanges
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME, TransactionKind, compose
from tests.fixtures.scripted_chain import TOKEN
from tests.fixtures.scripted_vault import ScriptedVault
from tests.support.refunds import AMOUNT
from tests.support.restores import Restored, plan_of, requested


VAULT = "0x0165878A594ca255338adfa4d48449f69242Eb8F"


@pytest.fixture
def world(world: Restored) -> Restored:
    """Return a process of the service, with a vault that holds the tokens."""
    own = {world.signer.address}
    world.chain.vaults[VAULT] = ScriptedVault(VAULT, TOKEN, own)
    world.network = world.network.model_copy(update={"vault": VAULT})
    world.compile_policy()
    return world


def _requested(world: Restored, *references: str) -> list[Refund]:
    refunds = [requested(world, each) for each in references]
    world.clock.now += CLAIM_TIME
    return refunds


def _lost(world: Restored, *, known: int, mined: bool = True) -> list[Refund]:
    """Return three refunds of a lost batch, of which the backup has *known*."""
    names = ("one", "two", "three")
    refunds = _requested(world, *names[:known])
    copy = world.backup()
    refunds += _requested(world, *names[known:])
    world.work()
    batch = world.found(0)
    assert {*batch.payment_ids} == {each.id for each in refunds}
    if mined:
        world.mine_deep()
    world.store = copy
    world.ring.active()
    return [*batch.payments]


def _paid(world: Restored) -> int:
    vault = world.chain.vaults[VAULT]
    receipts = [receipt.logs for _, receipt in world.chain._mined.values()]
    return vault.spent(receipts) // AMOUNT


@pytest.mark.parametrize("mined", [True, False])
@pytest.mark.parametrize("known", [0, 1, 3])
def test_a_lost_batch_gets_its_nonce_and_all_of_its_refunds(
    world: Restored, known: int, mined: bool
) -> None:
    """In the order that it had, so that the same bytes pay them (R24)."""
    refunds = _lost(world, known=known, mined=mined)

    plan = world.restore(list(world.log))
    held = world.found(0)
    new = _requested(world, "new")
    ended = world.finish(*refunds, *new)

    assert [each.nonce for each in plan.refunds] == [0, 0, 0]
    assert [wallet.fillers for wallet in plan.wallets] == [[]]
    assert (held.kind, held.vault) == (TransactionKind.BATCH, VAULT)
    assert held.payment_ids == tuple(each.id for each in refunds)
    assert held.composition == compose(each.id for each in refunds)
    assert {each.status for each in ended} == {Status.CONFIRMED}
    assert [each.nonce for each in ended] == [0, 0, 0, 1]
    assert _paid(world) == 4
    assert not world.wallet.is_paused
    assert plan_of(world, world.log).is_empty


@pytest.mark.parametrize("mined", [True, False])
def test_a_batch_with_a_refund_that_cannot_be_created(
    world: Restored, mined: bool
) -> None:
    """Its nonce is held for none, until its gateway requests it again (R24)."""
    refunds = _lost(world, known=2, mined=mined)
    (unknown,) = (each for each in refunds if each.reference == "three")
    refunds.remove(unknown)
    if not mined:
        world.chain.forget()
    kept = [
        each
        for each in world.log
        if "refund-accept" not in each.body or unknown.id not in each.body
    ]

    plan = world.restore(kept)
    again = _requested(world, "three")
    ended = world.finish(*refunds, *again)

    assert plan.incomplete == [unknown.id]
    assert [each.nonce for each in plan.refunds] == []
    assert [list(wallet.fillers) for wallet in plan.wallets] == [[] if mined else [0]]
    assert {each.status for each in ended} == {Status.CONFIRMED}
    assert _paid(world) == 3
    assert not world.wallet.is_paused


def test_a_restore_of_a_batch_that_was_interrupted(world: Restored) -> None:
    """A second one with the same log changes nothing more."""
    refunds = _lost(world, known=1)
    plan = world.planner.plan(list(world.log), {}, [], has_log=True)
    for planned in plan.refunds:
        world.restorer._restore_refund(planned)
    again = world.planner.plan(list(world.log), {}, [], has_log=True)
    batches = {each.batch for each in again.refunds}
    assert batches == {LostBatch(tuple(each.id for each in refunds), VAULT)}
    world.restore(list(world.log))

    world.restorer._hold_batch(again.refunds[0])

    assert [each.nonce for each in map(world.stored, refunds)] == [0, 0, 0]
    assert [each.status for each in world.finish(*refunds)] == [Status.CONFIRMED] * 3


def test_a_refund_that_a_vault_skipped_has_its_later_nonce(world: Restored) -> None:
    """Its first batch is not composed without it, and the chain has the end (R24)."""
    copy = world.backup()
    _requested(world, "one", "two", "three")
    world.work()
    refunds = [*world.found(0).payments]
    world.chain.vaults[VAULT].per_day = 2 * AMOUNT
    world.mine_deep()
    world.chain.vaults[VAULT].per_day = 9 * AMOUNT
    while world.stored(refunds[2]).nonce != 1:
        world.work(after=timedelta(seconds=31))
    world.mine_deep()
    world.store = copy
    world.ring.active()

    plan = world.restore(list(world.log))
    ended = world.finish(*refunds)

    nonces = {each.refund.id: each.nonce for each in plan.refunds}
    assert [nonces[each.id] for each in refunds] == [None, None, 1]
    assert [each.failure_code for each in ended] == ["already-paid"] * 2 + [None]
    assert ended[2].status is Status.CONFIRMED
    assert _paid(world) == 3


def test_the_order_of_records_does_not_say_which_nonce_is_later() -> None:
    """Clocks of hosts differ: a refund gets a higher nonce each time."""
    lost = LostChanges([])
    fields = {"address": "0xA", "operation": "transaction-signing"}
    for nonce in (7, 5):
        details = {"chain_id": 1, "nonce": nonce, "payments": ["rf_1"], "vault": VAULT}
        lost._sign(fields, details)

    assert lost.refunds["rf_1"].nonces == {(1, "0xA"): 7}
    assert lost.batches[(1, "0xA"), 5] == LostBatch(("rf_1",), VAULT)
    assert lost.high_water((1, "0xA")) == 8
