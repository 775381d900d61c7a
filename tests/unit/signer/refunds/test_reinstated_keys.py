"""Refunds whose key was revoked by mistake, and reinstated (O8)."""

from datetime import timedelta

from signer.model.key import KeyState
from signer.model.refund import Refund, Status
from signer.model.wallet import Pause
from tests.support.refunds import AMOUNT, CUSTOMER, SECOND, World


def _work(world: World, passes: int = 8) -> None:
    worker = world.worker
    for _ in range(passes):
        world.clock.now += timedelta(seconds=100)
        worker.work()
        world.mine_deep()


def _revoked(world: World) -> None:
    """Revoke the active key, and let workers notice."""
    world.rotate(SECOND, block=True)
    _work(world, 3)


def test_a_stranded_refund_is_finished(world: World) -> None:
    """Its bytes are replaced and mined; before, nothing could be sent for it."""
    stranded = world.broadcast()
    world.chain.forget()
    _revoked(world)
    before = world.stored(stranded)
    world.reinstate()
    _work(world)
    after = world.stored(stranded)

    assert (before.status, before.moving.blocked_by) == (
        Status.BROADCAST,
        "key-unusable",
    )
    assert (after.status, after.nonce) == (Status.CONFIRMED, stranded.nonce)
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert world.key.state is KeyState.RETIRED


def test_a_refund_that_lost_its_nonce_is_paid_once(world: World) -> None:
    """The active key pays it, whether before the reinstatement or after."""
    lost = world.step(world.accepted())
    _revoked(world)
    world.reinstate()
    late = world.accepted()
    _work(world)

    paid = [world.stored(each) for each in (lost, late)]
    assert [each.status for each in paid] == [Status.CONFIRMED] * 2
    assert {each.sender for each in paid} == {SECOND.address}
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def _stranded_above_a_gap(world: World) -> Refund:
    """Return a refund that is sent, above a nonce that a revocation took back."""
    lost = world.step(world.accepted())
    stranded = world.broadcast()
    assert lost.nonce is not None
    assert stranded.nonce == lost.nonce + 1
    return stranded


def test_a_gap_below_a_stranded_refund_delays_no_other(world: World) -> None:
    """It waits for the gap, and keeps its key from being retired."""
    stranded = _stranded_above_a_gap(world)
    _revoked(world)
    world.reinstate()
    other = world.accepted()
    _work(world)

    assert world.stored(stranded).status is Status.BROADCAST
    assert world.stored(other).status is Status.CONFIRMED
    assert world.key.state is KeyState.DRAINING
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def test_foreign_transactions_of_the_time_between(world: World) -> None:
    """
    They were of no interest while the key was revoked; now an operator looks at them.

    Refunds of the active key wait only until they are recorded.
    """
    world.finish(world.accepted())
    _revoked(world)
    world.chain.mine_foreign(world.signer.address)
    world.mine_deep()
    _work(world)
    world.reinstate()
    refund = world.accepted()
    _work(world)

    chain_id = world.network.chain_id
    found = world.store.foreign_transactions(chain_id, world.signer.address)
    assert len(found) == 1
    assert world.wallet.paused_by is Pause.CHAIN_AHEAD
    assert world.key.state is KeyState.DRAINING
    assert world.stored(refund).status is Status.CONFIRMED
