"""Sweeps end with a code when their address cannot pay the fees."""

from datetime import timedelta

import pytest

from signer.crypto.transactions import SignedBytes
from signer.errors import InsufficientFundsError
from signer.model.refund import COIN, Refund, Status
from signer.model.transaction import Kind
from signer.ports.chain import Fees
from tests.support.other_payments import COINS, Left, sweeper, swept
from tests.support.refunds import THIRD, World


GWEI = 10**9


def _coin_sweep(world: World, left: Left) -> Refund:
    """Return an accepted coin sweep, which leaves three times its fee."""
    left.tokens = 0
    (row,) = swept(world)
    assert row.token == COIN
    return row


def _maximum_cost(world: World, row: Refund) -> int:
    """Return the most that the latest transaction of *row* may cost."""
    made = SignedBytes.decode(world.sent(row).raw).transaction
    return made.value + made.gas * made.max_fee_per_gas


def _raise_base_fee(world: World, times: int) -> None:
    world.chain.answers = Fees(times * GWEI, 10**8)


def test_an_unaffordable_sweep_gets_no_nonce(world: World, left: Left) -> None:
    """Fees have risen: it ends, and the next one moves less."""
    row = _coin_sweep(world, left)
    _raise_base_fee(world, 8)
    ended = world.step(row)
    (again,) = swept(world)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "sweep-unaffordable")
    assert ended.nonce is None
    assert again.amount < row.amount
    assert world.step(again).status is Status.RESERVED


@pytest.mark.parametrize("missing", [0, 1])
def test_a_sweep_may_spend_the_whole_balance(
    world: World, left: Left, missing: int
) -> None:
    """With one wei less, it is not signed."""
    row = _coin_sweep(world, left)
    _raise_base_fee(world, 2)
    left.coins = row.amount + 21_000 * 41 * GWEI // 10 - missing
    row = world.step(row)
    if missing:
        assert row.failure_code == "sweep-unaffordable"
        return

    assert _maximum_cost(world, world.step(row)) == left.coins


def test_a_token_sweep_needs_coin_for_gas(world: World, left: Left) -> None:
    """Without it, it gets no nonce, which nothing could use."""
    (row,) = swept(world)
    left.coins = GWEI
    ended = world.step(row)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "sweep-unaffordable")


def test_a_token_sweep_does_not_wait_for_a_top_up(world: World, left: Left) -> None:
    """A refund waits for one; a sweep moves what was there."""
    (row,) = swept(world)
    left.tokens = 1
    world.chain.revert = "balance too low"
    ended = world.step(row)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "execution-reverted")
    assert sweeper(world).plan(world.signer.address)[0].refund is None


def test_an_unaffordable_reserved_sweep_becomes_a_noop(
    world: World, left: Left
) -> None:
    """The address can pay for the no-op, and the key is retired."""
    row = _coin_sweep(world, left)
    reserved = world.step(row)
    _raise_base_fee(world, 8)
    signed = world.step(reserved)
    world.step(signed)
    world.settle()
    ended = world.stored(row)

    assert world.sent(row).kind is Kind.NOOP
    assert _maximum_cost(world, row) <= COINS
    assert (ended.status, ended.failure_code) == (Status.FAILED, "sweep-unaffordable")


def test_a_noop_must_be_affordable_too(world: World, left: Left) -> None:
    """Otherwise nothing could use the nonce: the sweep waits for lower fees."""
    row = world.step(_coin_sweep(world, left))
    left.coins = GWEI
    with pytest.raises(InsufficientFundsError):
        world.step(row)
    left.coins = COINS

    assert world.step(row).status is Status.SIGNED


def test_a_noop_for_another_reason_must_be_affordable_too(
    world: World, left: Left
) -> None:
    """A node would reject it, so the sweep waits for lower fees."""
    row = world.step(_coin_sweep(world, left))
    world.rotate(THIRD)  # The sweep may only pay the active key.
    left.coins = GWEI

    with pytest.raises(InsufficientFundsError):
        world.step(row)
    assert world.store.transactions(row.id) == ()
    left.coins = COINS

    assert world.step(row).status is Status.SIGNED
    assert world.sent(row).kind is Kind.NOOP


def test_fees_are_raised_within_the_balance(world: World, left: Left) -> None:
    """Beyond the balance, the same bytes are sent again."""
    row = _coin_sweep(world, left)
    world.step(row, times=3)
    transactions = []
    for times in (2, 8):
        _raise_base_fee(world, times)
        world.clock.advance(seconds=world.network.stuck_after_seconds)
        world.work(timedelta(0))
        transactions.append(len(world.store.transactions(row.id)))

    assert transactions == [2, 2]
    assert _maximum_cost(world, row) <= COINS
    assert world.stored(row).status is Status.BROADCAST


def test_a_waiting_sweep_is_explained(world: World, left: Left) -> None:
    """Before it has a nonce, the former key's wallet is reported."""
    (row,) = swept(world)
    found = world.explainer.explain(row)

    assert found.wallet_status is not None
    assert found.wallet_status.wallet.sender == world.signer.address
