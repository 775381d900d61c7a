"""A sweep signs no more than its address holds, or it ends and says why."""

from datetime import timedelta

import pytest

from signer.crypto.transactions import SignedBytes
from signer.errors import InsufficientFundsError
from signer.model.refund import COIN, Kind, Refund, Status
from signer.ports import Fees
from tests.support.refunds import World
from tests.support.sweeps import COINS, Left, settled, sweeper, swept


GWEI = 10**9


def _coin(world: World, left: Left) -> Refund:
    """Return an accepted sweep of the coin, which leaves three times its fee."""
    left.tokens = 0
    (row,) = swept(world)
    assert row.token == COIN
    return row


def _spent(world: World, row: Refund) -> int:
    """Return the most that what was signed last for *row* may take."""
    made = SignedBytes.decode(world.sent(row).raw).transaction
    return made.value + made.gas * made.max_fee_per_gas


def _risen(world: World, times: int) -> None:
    world.chain.answers = Fees(times * GWEI, 10**8)


def test_what_cannot_be_paid_gets_no_nonce(world: World, left: Left) -> None:
    """Fees have risen since: it ends, and the next one moves as much less."""
    row = _coin(world, left)
    _risen(world, 8)
    ended = world.step(row)
    (again,) = swept(world)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "sweep-unaffordable")
    assert ended.nonce is None
    assert again.amount < row.amount
    assert world.step(again).status is Status.RESERVED


@pytest.mark.parametrize("missing", [0, 1])
def test_what_can_just_be_paid_is(world: World, left: Left, missing: int) -> None:
    """To the last wei; with one less it is not signed."""
    row = _coin(world, left)
    _risen(world, 2)
    left.coins = row.amount + 21_000 * 41 * GWEI // 10 - missing
    row = world.step(row)
    if missing:
        assert row.failure_code == "sweep-unaffordable"
        return

    assert _spent(world, world.step(row)) == left.coins


def test_tokens_need_coin(world: World, left: Left) -> None:
    """Without gas they get no nonce either, which nothing could use up."""
    (row,) = swept(world)
    left.coins = GWEI
    ended = world.step(row)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "sweep-unaffordable")


def test_tokens_that_are_gone_are_not_waited_for(world: World, left: Left) -> None:
    """A refund waits for a top-up; a sweep moves what was there."""
    (row,) = swept(world)
    left.tokens = 1
    world.chain.revert = "balance too low"
    ended = world.step(row)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "execution-reverted")
    assert sweeper(world).plan(world.signer.address)[0].refund is None


def test_fees_may_rise_before_it_is_signed(world: World, left: Left) -> None:
    """Its nonce is used by a no-op, which the address can pay, and the key retires."""
    row = _coin(world, left)
    reserved = world.step(row)
    _risen(world, 8)
    signed = world.step(reserved)
    world.step(signed)
    settled(world)
    ended = world.stored(row)

    assert world.sent(row).kind is Kind.NOOP
    assert _spent(world, row) <= COINS
    assert (ended.status, ended.failure_code) == (Status.FAILED, "sweep-unaffordable")


def test_a_no_op_must_be_payable_too(world: World, left: Left) -> None:
    """Else its nonce would be used by nothing, ever: it waits for lower fees."""
    row = world.step(_coin(world, left))
    left.coins = GWEI
    with pytest.raises(InsufficientFundsError):
        world.step(row)
    left.coins = COINS

    assert world.step(row).status is Status.SIGNED


def test_it_is_raised_as_far_as_it_can_pay(world: World, left: Left) -> None:
    """A better offer is within the balance; past that, the same bytes are sent on."""
    row = _coin(world, left)
    world.step(row, times=3)
    offers = []
    for times in (2, 8):
        _risen(world, times)
        world.clock.advance(seconds=world.network.stuck_after_seconds)
        world.work(timedelta(0))
        offers.append(len(world.store.transactions(row.id)))

    assert offers == [2, 2]
    assert _spent(world, row) <= COINS
    assert world.stored(row).status is Status.BROADCAST


def test_explains_what_keeps_it_waiting(world: World, left: Left) -> None:
    """Before it has a nonce, it is the former key's wallet that counts."""
    (row,) = swept(world)
    found = world.explainer.explain(row)

    assert found.wallet_status is not None
    assert found.wallet_status.wallet.sender == world.signer.address
