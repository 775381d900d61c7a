"""Clocks that are wrong, that differ, and that somebody sets: none decides anything."""

from datetime import timedelta

import pytest

from signer.errors import StaleStateError
from signer.model.refund import HOLD, Status
from signer.refunds.transitions import RESEND_AFTER
from tests.support.refunds import CUSTOMER, REQUEST, World


HOUR = timedelta(hours=1)
AMOUNT = 12_500_000


@pytest.mark.parametrize("skew", [HOUR, -HOUR, timedelta(seconds=1), -HOLD])
def test_each_step_may_be_taken_by_another_clock(world: World, skew: timedelta) -> None:
    """Hosts an hour apart take turns, and the refund goes on as with one (R30)."""
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


def test_what_a_fast_clock_holds_is_free(world: World) -> None:
    """A refund that is due in an hour was dated wrongly, and is taken up now (R30)."""
    world.clock.now += HOUR
    refund = world.accepted()
    world.clock.now -= HOUR

    assert world.worker.work() == 3
    assert world.stored(refund).status is Status.BROADCAST


def test_a_clock_that_is_set_back_delays_nothing(world: World) -> None:
    """What waits for its next try, or to be sent again, does so no longer (R30)."""
    refund = world.broadcast()
    world.chain.forget()
    world.clock.now -= HOUR

    world.worker.work()

    assert len(world.chain.pool) == 1
    assert world.stored(refund).due_at == world.clock() + RESEND_AFTER


def test_a_slow_clock_takes_from_a_request_what_it_is_at(world: World) -> None:
    """The worker steals a refund that was just accepted; one of them is late (R30)."""
    refund = world.accepted()
    world.clock.now -= HOUR
    stolen = world.worker.work()
    world.clock.now += HOUR

    with pytest.raises(StaleStateError):
        world.step(refund)

    assert stolen == 3
    assert world.stored(refund).status is Status.BROADCAST
    assert len(world.chain.broadcasts) == 1


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_stuck_transaction_is_replaced_by_any_clock(
    world: World, step: timedelta
) -> None:
    """Whoever sent it an hour from now has waited long enough (R15, R30)."""
    refund = world.broadcast()
    world.clock.now += step

    world.worker.work()

    assert len(world.store.transactions(refund.id)) == 2
    assert world.stored(refund).status is Status.BROADCAST


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_request_that_died_is_answered_by_any_clock(
    world: World, step: timedelta
) -> None:
    """An answer that is missing since an hour, or for one, does not come (R30)."""
    first = world.service.submit(
        client="gateway", idempotency_key="key", request=REQUEST, request_id="req-1"
    )
    world.clock.now += step

    again = world.service.submit(
        client="gateway", idempotency_key="key", request=REQUEST, request_id="req-2"
    )

    assert (first.created, again.created, again.answer) == (True, False, None)
    assert again.refund == first.refund


def test_clocks_that_jump_pay_once(world: World) -> None:
    """Set forward and back before every pass, three refunds are paid in order (R30)."""
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
