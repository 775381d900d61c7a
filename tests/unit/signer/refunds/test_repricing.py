"""Signed transactions that the network rejects for good: signed again, same nonce."""

import itertools
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from signer.errors import BroadcastRejectedError
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME, Kind
from signer.ports.chain import Fees
from tests.support.refunds import AMOUNT, CUSTOMER, World, altered_chain


GWEI = 10**9
NORMAL_COST = 62_500 * 2_100_000_000
"""The largest cost of a refund at the scripted chain's gas and fees, in wei."""


def _signed(world: World) -> Refund:
    return world.step(world.accepted(), times=2)


def _confirmed(world: World, *refunds: Refund) -> None:
    """Require that all *refunds* are paid once, in the order of their nonces."""
    finished = world.finish(*refunds)
    assert [each.status for each in finished] == [Status.CONFIRMED] * len(refunds)
    assert [each.nonce for each in finished] == list(range(len(refunds)))
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * len(refunds)


def test_an_unaffordable_gas_limit_is_estimated_again(world: World) -> None:
    """Its nonce is not jammed once the estimate is honest again."""
    world.chain.coin = 2 * NORMAL_COST
    world.chain.gas = 1_500_000
    head, following = _signed(world), world.accepted()
    assert world.sent(head).gas_limit == 1_875_000
    world.chain.gas = 50_000

    _confirmed(world, head, following)

    first, second = world.store.transactions(head.id)
    assert (first.nonce, second.nonce) == (0, 0)
    assert (second.kind, second.attempt, second.gas_limit) == (Kind.TRANSFER, 1, 62_500)
    assert world.stored(head).gas_limit == 1_875_000
    assert len(world.store.transactions(following.id)) == 1


def test_an_unaffordable_fee_is_quoted_again(world: World) -> None:
    """The new fee is lower: no node has the rejected transaction."""
    world.chain.coin = 2 * NORMAL_COST
    world.chain.answers = Fees(30_000 * GWEI, 10_000 * GWEI)
    head, following = _signed(world), world.accepted()
    world.chain.answers = Fees(GWEI, GWEI // 10)

    _confirmed(world, head, following)

    first, second = world.store.transactions(head.id)
    assert first.max_fee_per_gas == world.network.max_fee_per_gas_gwei * GWEI
    assert second.max_fee_per_gas == 2_100_000_000


def test_more_gas_than_a_block_has_is_estimated_again(world: World) -> None:
    """Also if the node gives a reason that the service does not know."""
    world.chain.block_gas = 1_000_000
    world.chain.gas = 1_500_000
    head = _signed(world)
    world.chain.gas = 50_000

    _confirmed(world, head)

    assert [sent.gas_limit for sent in world.store.transactions(head.id)] == [
        1_875_000,
        62_500,
    ]


def test_too_little_gas_is_estimated_again(world: World) -> None:
    """A limit below today's estimate is replaced when a node rejects it."""
    world.chain.gas = 15_000
    head = _signed(world)
    world.chain.gas = 50_000
    error = BroadcastRejectedError("intrinsic gas too low", reason="other")
    world.chain.fail("broadcast", error, error)

    _confirmed(world, head)

    assert [sent.gas_limit for sent in world.store.transactions(head.id)] == [
        18_750,
        62_500,
    ]


def test_a_wallet_without_coin_waits(world: World) -> None:
    """It signs nothing meanwhile; the same bytes are sent after a top-up."""
    head, following = _signed(world), world.accepted()
    world.chain.coin = NORMAL_COST - 1

    for _ in range(5):
        world.work(after=timedelta(seconds=31))

    waiting = world.stored(head)
    assert (waiting.status, waiting.moving.blocked_by, waiting.moving.attempts) == (
        Status.SIGNED,
        "broadcast-rejected",
        5,
    )
    world.chain.coin = 10**18
    _confirmed(world, head, following)
    assert len(world.store.transactions(head.id)) == 1


@pytest.mark.parametrize(
    "reason", ["insufficient-funds", "underpriced", "nonce-too-high", "other"]
)
def test_the_word_of_a_node_signs_nothing(world: World, reason: str) -> None:
    """A rejected transaction that is affordable is sent again as it is."""
    signed = _signed(world)
    world.chain.fail("broadcast", *[BroadcastRejectedError("no", reason=reason)] * 2)

    _confirmed(world, signed)

    assert len(world.store.transactions(signed.id)) == 1
    assert len(set(world.chain.broadcasts)) == 1


def test_a_hidden_rejection_is_found_when_it_is_stuck(world: World) -> None:
    """A node that reports success for what it dropped jams no nonce."""
    world.chain.coin = 2 * NORMAL_COST
    world.chain.gas = 1_500_000
    world.client = altered_chain(world.chain, broadcast=lambda raw: None)
    head = world.broadcast()
    world.chain.gas = 50_000
    world.client = None

    world.clock.advance(seconds=world.network.stuck_after_seconds)
    replaced = world.step(head)

    assert (replaced.status, replaced.nonce) == (Status.SIGNED, 0)
    assert world.sent(replaced).gas_limit == 62_500
    _confirmed(world, replaced)


def test_a_rejected_rebroadcast_is_priced_again(world: World) -> None:
    """Nodes drop what the wallet cannot pay for any more."""
    world.chain.answers = Fees(100 * GWEI, GWEI)
    head = world.broadcast()
    world.chain.forget()
    world.chain.coin = 2 * NORMAL_COST
    world.chain.answers = Fees(GWEI, GWEI // 10)

    replaced = world.step(head)

    assert replaced.status is Status.SIGNED
    assert world.sent(replaced).max_fee_per_gas == 2_100_000_000
    _confirmed(world, replaced)


def test_an_unaffordable_replacement_is_not_signed(world: World) -> None:
    """The transaction that the wallet can pay for is sent again."""
    head = world.broadcast()
    world.chain.coin = NORMAL_COST
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    with capture_logs() as logs:
        after = world.step(head)

    assert after.status is Status.BROADCAST
    assert [entry["event"] for entry in logs] == ["refund-stuck-at-fee-cap"]
    assert len(world.store.transactions(head.id)) == 1


@pytest.mark.parametrize("problem", ["reverts", "lacks-tokens", "needs-too-much-gas"])
def test_gas_that_cannot_be_estimated_is_not_changed(
    world: World, problem: str
) -> None:
    """The fee alone is quoted again: the nonce must be used."""
    world.chain.coin = 2 * NORMAL_COST
    world.chain.answers = Fees(100 * GWEI, GWEI)
    signed = _signed(world)
    world.chain.answers = Fees(GWEI, GWEI // 10)
    world.chain.revert = None if problem == "needs-too-much-gas" else "no"
    world.chain.balance_left = 0 if problem == "lacks-tokens" else AMOUNT
    world.chain.gas = 3_000_000

    replaced = world.step(signed, times=2)

    assert replaced.status is Status.SIGNED
    assert world.sent(replaced).gas_limit == 62_500
    assert world.sent(replaced).max_fee_per_gas == 2_100_000_000


def test_a_node_that_rejects_everything_causes_few_signatures(world: World) -> None:
    """Its balance and fees ask for another signature each time; the delay grows."""
    prices = itertools.count(100 * GWEI, -GWEI)

    def fees() -> Fees:
        world.chain.answers = Fees(next(prices), 0)
        return world.chain.answers

    def balance(address: str) -> int:
        return 62_500 * (2 * int(world.chain.answers.base_fee or 0) + 1)

    error = BroadcastRejectedError("no", reason="insufficient-funds")
    world.client = altered_chain(
        world.chain, fees=fees, balance=balance, broadcast=error
    )
    refund = world.accepted()
    world.clock.now += CLAIM_TIME

    for _ in range(600):
        world.work(after=timedelta(seconds=1))

    assert 10 <= len(world.store.transactions(refund.id)) <= 30


def test_a_noop_keeps_its_gas(world: World) -> None:
    """A rejected cancellation is signed again at a fee that the wallet can pay."""
    reserved = world.step(world.accepted())
    world.clock.advance(seconds=60)
    world.chain.revert = "blocked"
    world.chain.answers = Fees(100 * GWEI, GWEI)
    signed = world.step(reserved)
    world.chain.coin = 2 * NORMAL_COST
    world.chain.answers = Fees(GWEI, GWEI // 10)

    (failed,) = world.finish(signed)

    assert (failed.status, failed.failure_code) == (Status.FAILED, "execution-reverted")
    sent = world.store.transactions(signed.id)
    assert [(each.kind, each.gas_limit) for each in sent] == [(Kind.NOOP, 21_000)] * 2
