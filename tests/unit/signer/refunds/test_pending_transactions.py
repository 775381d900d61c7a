"""Broadcast transactions that are not mined: resent, replaced, nonce taken."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from signer.chain.erc20 import encode_transfer
from signer.crypto.transactions import LegacyTransaction, SignedBytes
from signer.errors import BroadcastRejectedError
from signer.model.refund import Refund, Status
from signer.model.transaction import Kind
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


def test_a_failed_rebroadcast_is_repeated_later(world: World) -> None:
    """A rejection does not change the refund's status (R11)."""
    refund = world.broadcast()
    world.chain.fail("broadcast", BroadcastRejectedError("no", reason="nonce-too-high"))

    world.work(after=REBROADCAST_AFTER)

    stored = world.stored(refund)
    assert stored.status is Status.BROADCAST
    assert (stored.moving.attempts, stored.moving.blocked_by) == (
        1,
        "broadcast-rejected",
    )
    world.work()
    assert world.stored(refund).moving.blocked_by is None
    assert len(set(world.chain.broadcasts)) == 1


def test_a_stuck_transaction_is_replaced(world: World) -> None:
    """Same nonce and payment, both fees raised by an eighth, both hashes kept (R15)."""
    refund = world.broadcast()
    original = world.sent(refund)
    world.clock.advance(seconds=world.network.stuck_after_seconds)

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


def test_the_network_configures_when_to_replace(world: World) -> None:
    """One second earlier, the same bytes are sent again."""
    refund = world.broadcast()
    world.clock.advance(seconds=world.network.stuck_after_seconds - 1)

    after = world.step(refund)

    assert after.status is Status.BROADCAST
    assert after.moving.due_at == world.clock() + REBROADCAST_AFTER
    assert len(world.store.transactions(refund.id)) == 1
    assert len(world.chain.broadcasts) == 2


def test_a_replacement_pays_what_the_chain_asks(world: World) -> None:
    """If fees have tripled, an eighth more would be stuck as well (R15)."""
    refund = world.broadcast()
    world.chain.answers = Fees(3 * GWEI, 3 * 10**8)
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    replaced = world.sent(world.step(refund))

    assert (replaced.max_fee_per_gas, replaced.max_priority_fee_per_gas) == (
        6 * GWEI + 3 * 10**8,
        3 * 10**8,
    )


def test_a_second_replacement_raises_the_first(world: World) -> None:
    """It starts from the latest fees, not from the first (R15)."""
    refund = world.broadcast()

    for _ in range(2):
        world.clock.advance(seconds=world.network.stuck_after_seconds)
        refund = world.step(refund, times=2)

    first, second, third = world.store.transactions(refund.id)
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
    assert [(entry["event"], entry["log_level"], entry["nonce"]) for entry in logs] == [
        ("refund-stuck-at-fee-cap", "error", 0)
    ]
    assert len(world.chain.broadcasts) == 2
    assert len(set(world.chain.broadcasts)) == 1


def test_a_transaction_behind_a_lower_nonce_is_not_replaced(world: World) -> None:
    """It is broadcast again at the same fees."""
    first, second = world.broadcast(), world.broadcast()
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    replaced, waiting = world.step(first), world.step(second)

    assert replaced.status is Status.SIGNED
    assert waiting.status is Status.BROADCAST
    assert len(world.store.transactions(second.id)) == 1


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
    """No node finds it for 45 minutes: the refund waits, and is then mined (R10)."""
    refund = world.broadcast()
    world.chain.mine()
    world.client = altered(
        world.chain,
        find_transaction=lambda sender, nonce: None,
        receipts=lambda *_: {},
    )

    for _ in range(90):
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
    with capture_logs() as logs:
        failed = world.step(waiting)

    assert waiting.status is Status.BROADCAST
    assert failed.status is Status.FAILED
    assert failed.failure_code == "nonce-taken"
    assert foreign in str(failed.failure_detail)
    assert [entry["event"] for entry in logs] == ["wallet-paused", "refund-ended"]
    wallet = world.reconcile().wallet
    assert wallet.paused_by is Pause.FOREIGN_TRANSACTION
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


def test_a_transaction_is_not_stuck_just_after_the_nonce_below_was_mined(
    world: World,
) -> None:
    """Its fees are raised once it has been the next one for long enough."""
    first, second = world.broadcast(), world.broadcast()
    del world.chain.pool[world.sent(second).tx_hash]
    world.clock.advance(seconds=80)
    world.chain.mine()
    world.confirmation_tracker.track()
    assert world.stored(first).status is Status.MINED

    world.clock.advance(seconds=31)
    again = world.step(world.stored(second))
    assert len(world.store.transactions(second.id)) == 1
    world.chain.forget()
    world.clock.advance(seconds=60)
    world.step(again)
    assert len(world.store.transactions(second.id)) == 2
