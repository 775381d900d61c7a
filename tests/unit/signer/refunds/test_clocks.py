"""Wrong, differing and changed clocks do not affect what is paid."""

from datetime import timedelta

import pytest

from signer.errors import StaleStateError
from signer.model.refund import Status
from signer.model.transaction import CLAIM_TIME
from signer.refunds.saved_steps import REBROADCAST_AFTER
from tests.fixtures.ledger import claimed as claimed_from
from tests.support.refunds import ACTOR, AMOUNT, CUSTOMER, World


HOUR = timedelta(hours=1)


@pytest.mark.parametrize("skew", [HOUR, -HOUR, timedelta(seconds=1), -CLAIM_TIME])
def test_hosts_with_different_clocks_take_turns(world: World, skew: timedelta) -> None:
    """Hosts an hour apart process one refund as a single host would (R30)."""
    refund = world.accepted()

    for number in range(3):
        world.clock.now += skew if number % 2 else -skew
        refund = world.step(refund)
    world.mine_deep()
    world.clock.now += skew
    refund = world.tracked(refund)
    world.clock.now -= skew

    assert world.tracked(refund).status is Status.CONFIRMED
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_due_date_of_a_fast_clock_is_ignored(world: World) -> None:
    """A refund that a wrong clock dated an hour ahead is claimed (R30)."""
    world.clock.now += HOUR
    refund = world.accepted()
    world.clock.now -= HOUR

    assert world.worker.work() == 3
    assert world.stored(refund).status is Status.BROADCAST


def test_a_clock_that_is_set_back_delays_nothing(world: World) -> None:
    """A refund that waits for a retry or a rebroadcast is due at once (R30)."""
    refund = world.broadcast()
    world.chain.forget()
    world.clock.now -= HOUR

    world.worker.work()

    assert len(world.chain.pool) == 1
    assert world.stored(refund).moving.due_at == world.clock() + REBROADCAST_AFTER


def test_workers_with_different_clocks_pay_once(world: World) -> None:
    """If a worker claims a refund too early, the step of another is stale (R30)."""
    refund = world.accepted()
    (claimed,) = claimed_from(world.store, world.clock(), world.clock() + CLAIM_TIME, 1)
    assert claimed.id == refund.id
    world.clock.now -= HOUR
    stolen = world.worker.work()
    world.clock.now += HOUR

    with pytest.raises(StaleStateError):
        world.step(claimed)

    assert stolen == 3
    assert world.stored(refund).status is Status.BROADCAST
    assert len(world.chain.broadcasts) == 1


@pytest.mark.parametrize("skew", [-HOUR, timedelta(seconds=-1), HOUR])
def test_an_accepted_refund_is_due_on_every_host(world: World, skew: timedelta) -> None:
    """A worker whose clock differs from that of the API finds it at once (R30)."""
    refund = world.accepted()
    world.clock.now += skew

    assert world.worker.advance() == 3
    assert world.stored(refund).status is Status.BROADCAST


@pytest.mark.parametrize("skew", [HOUR, -HOUR])
def test_a_request_to_cancel_of_a_host_with_another_clock(
    world: World, skew: timedelta
) -> None:
    """Its time is a fact for an operator, and no condition (R26, R30)."""
    refund = world.accepted()
    world.clock.now += skew
    asked = world.service.request_cancellation("gateway", refund.id, ACTOR)
    world.clock.now -= skew

    assert world.worker.advance() == 1
    cancelled = world.stored(asked)
    assert cancelled.status is Status.CANCELLED
    assert cancelled.cancel_requested_at == world.clock() + skew


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_broadcast_dated_in_the_future_is_replaced(
    world: World, step: timedelta
) -> None:
    """A transaction that was sent an hour from now counts as stuck (R15, R30)."""
    refund = world.broadcast()
    world.clock.now += step

    world.worker.work()

    assert len(world.store.transactions(refund.id)) == 2
    assert world.stored(refund).status is Status.BROADCAST


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_repeated_request_is_answered_by_any_clock(
    world: World, step: timedelta
) -> None:
    """A refund that seems to be an hour old, or to be of the future (R30)."""
    first = world.submit()
    world.clock.now += step

    again = world.submit()

    assert (first.created, again.created) == (True, False)
    assert again.refund == first.refund


def test_clocks_that_jump_pay_once(world: World) -> None:
    """The clock jumps before every pass; three refunds are paid in order (R30)."""
    refunds = [world.accepted() for _ in range(3)]

    for hours in (1, -2, 3, -1, 0, -1, 1, 1, -2, 2, -1, -1):
        world.work(after=hours * HOUR)
        world.chain.mine()
        world.chain.mine_empty(1)

    assert [world.stored(refund).status for refund in refunds] == [Status.CONFIRMED] * 3
    assert [world.stored(refund).nonce for refund in refunds] == [0, 1, 2]
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 3
    for refund in refunds:
        versions = [move.version for move in world.store.history(refund.id)]
        assert versions == sorted(versions)
