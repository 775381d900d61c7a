"""Transactions that are not mined: resent, replaced, priced again, nonce taken."""

import itertools
from collections.abc import Callable
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from signer.chain.erc20 import encode_transfer
from signer.crypto.transactions import LegacyTransaction, SignedBytes
from signer.errors import BroadcastRejectedError
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME, Kind, TransactionStatus
from signer.model.wallet import Pause
from signer.ports.chain import Fees
from signer.refunds.payload import transfer_of
from signer.refunds.saved_steps import REBROADCAST_AFTER
from tests.fixtures.scripted_chain import Sent
from tests.support.refunds import AMOUNT, CUSTOMER, World, altered, altered_chain


GWEI = 10**9


def test_a_dropped_transaction_is_broadcast_again(world: World) -> None:
    """The same bytes are sent again every 30 s, and not more often (R11, R18)."""
    world.network = world.network.model_copy(update={"stuck_after_seconds": 3600})
    refund = world.broadcast()
    world.chain.forget()

    for _ in range(3):
        world.work(after=REBROADCAST_AFTER)
        world.work(after=REBROADCAST_AFTER - timedelta(seconds=1))
        world.clock.advance(seconds=1)

    assert len(world.chain.broadcasts) == 4
    assert len(set(world.chain.broadcasts)) == 1
    assert timedelta(seconds=30) == REBROADCAST_AFTER
    world.chain.mine()
    assert world.tracked(refund).status is Status.MINED
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_stuck_transaction_is_replaced(world: World) -> None:
    """Same nonce and payment, both fees raised by an eighth, both hashes kept (R15)."""
    refund = world.broadcast()
    original = world.sent(refund)
    world.clock.advance(seconds=world.network.stuck_after_seconds - 1)
    refund = world.step(refund)
    assert refund.status is Status.BROADCAST
    assert refund.moving.due_at == world.clock() + REBROADCAST_AFTER
    assert len(world.chain.broadcasts) == 2  # The same bytes, one second earlier.
    world.clock.advance(seconds=1)

    signed = world.step(refund)
    replaced = world.sent(signed)
    broadcast = world.step(signed)

    assert (signed.status, broadcast.status) == (Status.SIGNED, Status.BROADCAST)
    assert signed.tx_hash == replaced.tx_hash != original.tx_hash
    assert (replaced.nonce, replaced.attempt, replaced.kind) == (0, 1, "transfer")
    assert replaced.max_fee_per_gas * 8 >= original.max_fee_per_gas * 9
    assert (
        replaced.max_priority_fee_per_gas * 8 >= original.max_priority_fee_per_gas * 9
    )
    assert Sent.read(replaced.raw).data == Sent.read(original.raw).data
    assert world.store.transactions(refund.id) == (original, replaced)
    assert list(world.chain.pool) == [replaced.tx_hash]
    world.settle()
    assert world.stored(refund).tx_hash == replaced.tx_hash
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_second_replacement_raises_the_first(world: World) -> None:
    """
    It starts from the latest fees, not from the first.

    If fees have tripled, an eighth more would be stuck as well (R15).
    """
    refund = world.broadcast()

    for fees in (Fees(GWEI, 10**8), Fees(3 * GWEI, 3 * 10**8)):
        world.chain.answers = fees
        world.clock.advance(seconds=world.network.stuck_after_seconds)
        refund = world.step(refund, times=2)

    first, second, third = world.store.transactions(refund.id)
    assert third.max_fee_per_gas == 6 * GWEI + 3 * 10**8
    assert third.max_priority_fee_per_gas == 3 * 10**8
    assert [first.attempt, second.attempt, third.attempt] == [0, 1, 2]
    assert Sent.read(second.raw).outbids(Sent.read(first.raw))
    assert Sent.read(third.raw).outbids(Sent.read(second.raw))
    assert list(world.chain.pool) == [third.tx_hash]


def test_at_the_cap_the_same_bytes_are_sent_again(world: World) -> None:
    """An error is logged, and no fee exceeds the cap (R17)."""
    world.chain.answers = Fees(240 * GWEI, 10 * GWEI)
    refund = world.broadcast()
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    with capture_logs() as logs:
        after = world.step(refund)

    assert after.status is Status.BROADCAST
    assert after.moving.due_at == world.clock() + REBROADCAST_AFTER
    assert [entry["event"] for entry in logs] == ["refund-stuck-at-fee-cap"]
    assert len(world.chain.broadcasts) == 2
    assert len(set(world.chain.broadcasts)) == 1


@pytest.mark.parametrize(
    ("base_fee", "count"), [(2_100_000_000, 1), (2_100_000_001, 2)]
)
def test_a_transaction_below_the_base_fee_is_replaced(
    world: World, base_fee: int, count: int
) -> None:
    """Nodes would drop it, also if it waits for a lower nonce."""
    _, second = world.broadcast(), world.broadcast()
    world.chain.answers = Fees(base_fee, 10**8)
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    world.step(second)

    assert len(world.store.transactions(second.id)) == count


def test_a_legacy_queue_raises_its_first_transaction_only(world: World) -> None:
    """The next nonce gets a higher gas price; higher nonces wait (R15)."""
    world.chain.answers = Fees(None, 5 * GWEI)
    # The scripted node reads no legacy transactions.
    world.client = altered_chain(world.chain, broadcast=lambda raw: None)
    first, second = world.broadcast(), world.broadcast()
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    replaced, waiting = world.step(first), world.step(second)

    record = world.sent(replaced)
    assert isinstance(SignedBytes.decode(record.raw).transaction, LegacyTransaction)
    assert record.max_fee_per_gas == record.max_priority_fee_per_gas == 5_625_000_000
    assert waiting.status is Status.BROADCAST
    assert len(world.store.transactions(second.id)) == 1


def test_a_former_key_signs_its_own_replacements(world: World) -> None:
    """A nonce keeps its key after a rotation (O4)."""
    refund = world.broadcast()
    former = world.signer.address
    world.rotate()
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    after = world.step(refund, times=2)

    first, second = world.store.transactions(refund.id)
    assert after.status is Status.BROADCAST
    assert second.max_fee_per_gas > first.max_fee_per_gas
    assert (first.sender, second.sender) == (former, former)


def test_a_stuck_noop_is_replaced_by_a_noop(world: World) -> None:
    """The replacement of a no-op does not pay the refund (R14, R15)."""
    reserved = world.step(world.accepted())
    world.clock.advance(seconds=60)
    world.chain.revert = "blocked"
    refund = world.step(reserved, times=2)
    world.chain.revert = None
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    refund = world.step(refund, times=2)

    assert [sent.kind for sent in world.store.transactions(refund.id)] == [
        Kind.NOOP,
        Kind.NOOP,
    ]
    world.settle()
    failed = world.stored(refund)
    assert (failed.status, failed.failure_code) == (Status.FAILED, "execution-reverted")
    assert world.chain.payouts() == []


def test_a_used_nonce_is_not_signed_again(world: World) -> None:
    """Nothing is sent once our own transaction has the nonce (R9)."""
    refund = world.broadcast()
    world.chain.mine()
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    after = world.step(refund)

    assert after.status is Status.BROADCAST
    assert after.moving.due_at == world.clock() + REBROADCAST_AFTER
    assert len(world.chain.broadcasts) == 1
    assert len(world.store.transactions(refund.id)) == 1
    assert world.tracked(refund).status is Status.MINED


def test_a_used_nonce_without_a_transaction_changes_nothing(world: World) -> None:
    """While no node finds it, the refund waits; then it is mined (R10)."""
    refund = world.broadcast()
    world.chain.mine()
    world.client = altered(
        world.chain, find_transaction=lambda sender, nonce: None, receipts=lambda *_: {}
    )

    for _ in range(9):
        world.work(after=REBROADCAST_AFTER)

    after = world.stored(refund)
    assert after.status is Status.BROADCAST
    assert (after.nonce, after.tx_hash) == (0, refund.tx_hash)
    assert len(world.chain.broadcasts) == 1
    world.client = None
    assert world.tracked(refund).status is Status.MINED


def test_a_foreign_transaction_takes_a_nonce_once_it_is_final(world: World) -> None:
    """Only then the refund fails and the wallet is paused (R10)."""
    refund = world.broadcast()
    foreign = world.chain.mine_foreign(world.signer.address)
    world.chain.mine_empty(1)

    waiting = world.step(refund)
    world.chain.mine_empty(1)
    failed = world.step(waiting)

    assert waiting.status is Status.BROADCAST
    assert (failed.status, failed.failure_code) == (Status.FAILED, "nonce-taken")
    assert foreign in str(failed.failure_detail)
    assert world.wallet.paused_by is Pause.FOREIGN_TRANSACTION
    assert world.chain.payouts() == []


@pytest.mark.parametrize(
    "encode",
    [
        lambda refund: encode_transfer(CUSTOMER, AMOUNT),
        lambda refund: encode_transfer(CUSTOMER, AMOUNT, bytes(16)),
        lambda refund: (
            transfer_of(refund).data
        ),  # Foreign transactions call another contract.
    ],
    ids=["no memo", "another memo", "another contract"],
)
def test_similar_calldata_is_not_the_refund(
    world: World, encode: Callable[[Refund], bytes]
) -> None:
    """Only a call of the refund's token with its memo pays it."""
    refund = world.broadcast()
    world.chain.mine_foreign(world.signer.address, encode(refund))
    world.chain.mine_empty(2)

    assert world.step(refund).failure_code == "nonce-taken"


def test_the_nonce_is_checked_before_signing(world: World) -> None:
    """A reserved refund whose nonce is used is not signed, and fails when final."""
    reserved = world.step(world.accepted())
    world.chain.mine_foreign(world.signer.address)
    world.clock.advance(seconds=60)

    waiting = world.step(reserved)
    world.chain.mine_empty(2)
    failed = world.step(waiting)

    assert waiting.status is Status.RESERVED
    assert failed.failure_code == "nonce-taken"
    assert world.store.transactions(reserved.id) == ()


@pytest.mark.parametrize("is_filler", [False, True])
def test_a_transaction_is_not_stuck_just_after_the_nonce_below_was_mined(
    world: World, *, is_filler: bool
) -> None:
    """Its fees are raised once it has been the next one for long enough."""
    if is_filler:
        world.ring.active()
        world.wallets.get_or_open(world.chains["local"], world.signer.address, 0)
        world.move(world.fill(0), times=2)
    else:
        world.broadcast()
    second = world.broadcast()
    del world.chain.pool[world.sent(second).tx_hash]
    world.clock.advance(seconds=80)
    world.chain.mine()
    world.confirmation_tracker.track()
    assert world.found(0).status is TransactionStatus.MINED

    world.clock.advance(seconds=31)
    again = world.step(world.stored(second))
    assert len(world.store.transactions(second.id)) == 1
    world.chain.forget()
    world.clock.advance(seconds=60)
    world.step(again)
    assert len(world.store.transactions(second.id)) == 2


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

    for _ in range(120):
        world.work(after=timedelta(seconds=5))

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
