"""A transaction that is sent and not mined: resent, replaced, or robbed."""

from datetime import timedelta

import coincurve
import pytest
from structlog.testing import capture_logs

from signer.chain.erc20 import transfer_calldata
from signer.crypto.transactions import LegacyTransaction, SignedBytes
from signer.errors import BroadcastRejectedError
from signer.model.refund import Kind, Status
from signer.model.wallet import Pause
from signer.ports import Fees
from signer.refunds.transaction_signer import calldata
from signer.refunds.transitions import RESEND_AFTER
from tests.fixtures.scripted_chain import Sent
from tests.support.devices import honest, signer_over
from tests.support.keys import key_at, made_active
from tests.support.refunds import CUSTOMER, World, altered


GWEI = 10**9
AMOUNT = 12_500_000


def test_what_nodes_forgot_is_sent_again(world: World) -> None:
    """After 30 s the same bytes go out again, and again, but in no storm (R11, R18)."""
    world.network = world.network.model_copy(update={"stuck_after_seconds": 3600})
    refund = world.broadcast()
    world.chain.forget()

    for _ in range(3):
        world.work(after=RESEND_AFTER)
        world.work(after=RESEND_AFTER - timedelta(seconds=1))
        world.clock.advance(seconds=1)

    assert len(world.chain.broadcasts) == 4
    assert len(set(world.chain.broadcasts)) == 1
    assert timedelta(seconds=30) == RESEND_AFTER
    world.chain.mine()
    assert world.tracked(refund).status is Status.MINED
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_resend_that_fails_is_tried_again_later(world: World) -> None:
    """A node that turns the bytes down does not move the refund back or on (R11)."""
    refund = world.broadcast()
    world.chain.fail("broadcast", BroadcastRejectedError("no", reason="nonce-too-high"))

    world.work(after=RESEND_AFTER)

    stored = world.stored(refund)
    assert stored.status is Status.BROADCAST
    assert (stored.attempts, stored.blocked_by) == (1, "broadcast-rejected")
    world.work()
    assert world.stored(refund).blocked_by is None
    assert len(set(world.chain.broadcasts)) == 1


def test_a_stuck_transaction_is_replaced(world: World) -> None:
    """The same nonce and payment, both fees an eighth up, both hashes kept (R15)."""
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
    world.mine_deep()
    world.tracker.track()
    assert world.tracked(refund).tx_hash == replaced.tx_hash
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_patience_is_the_networks(world: World) -> None:
    """One second before it is over, the same bytes are sent again, and no others."""
    refund = world.broadcast()
    world.clock.advance(seconds=world.network.stuck_after_seconds - 1)

    after = world.step(refund)

    assert after.status is Status.BROADCAST
    assert after.due_at == world.clock() + RESEND_AFTER
    assert len(world.store.transactions(refund.id)) == 1
    assert len(world.chain.broadcasts) == 2


def test_a_replacement_pays_what_the_chain_asks(world: World) -> None:
    """Where fees have tripled, an eighth more would be stuck as well (R15)."""
    refund = world.broadcast()
    world.chain.answers = Fees(3 * GWEI, 3 * 10**8)
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    replaced = world.sent(world.step(refund))

    assert (replaced.max_fee_per_gas, replaced.max_priority_fee_per_gas) == (
        6 * GWEI + 3 * 10**8,
        3 * 10**8,
    )


def test_a_second_replacement_outbids_the_first(world: World) -> None:
    """It is reckoned from the last offer, not from the first (R15)."""
    refund = world.broadcast()

    for _ in range(2):
        world.clock.advance(seconds=world.network.stuck_after_seconds)
        refund = world.step(refund, times=2)

    first, second, third = world.store.transactions(refund.id)
    assert [first.attempt, second.attempt, third.attempt] == [0, 1, 2]
    assert Sent.read(second.raw).outbids(Sent.read(first.raw))
    assert Sent.read(third.raw).outbids(Sent.read(second.raw))
    assert list(world.chain.pool) == [third.tx_hash]


def test_at_the_cap_the_same_bytes_go_on(world: World) -> None:
    """Somebody is told, no offer passes the cap, and no other nonce is used (R17)."""
    world.chain.answers = Fees(240 * GWEI, 10 * GWEI)
    refund = world.broadcast()
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    with capture_logs() as logs:
        after = world.step(refund)

    assert after.status is Status.BROADCAST
    assert after.due_at == world.clock() + RESEND_AFTER
    assert [(entry["event"], entry["log_level"], entry["nonce"]) for entry in logs] == [
        ("refund-stuck-at-fee-cap", "error", 0)
    ]
    assert len(world.chain.broadcasts) == 2
    assert len(set(world.chain.broadcasts)) == 1


def test_a_queue_is_not_outbid(world: World) -> None:
    """What waits for the nonce before it is sent again at the price that it has."""
    first, second = world.broadcast(), world.broadcast()
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    replaced, waiting = world.step(first), world.step(second)

    assert replaced.status is Status.SIGNED
    assert waiting.status is Status.BROADCAST
    assert len(world.store.transactions(second.id)) == 1


@pytest.mark.parametrize(
    ("base_fee", "offers"), [(2_100_000_000, 1), (2_100_000_001, 2)]
)
def test_a_queue_that_is_priced_out_is(
    world: World, base_fee: int, offers: int
) -> None:
    """An offer below the base fee is no use, wherever it waits; nodes drop it."""
    _, second = world.broadcast(), world.broadcast()
    world.chain.answers = Fees(base_fee, 10**8)
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    world.step(second)

    assert len(world.store.transactions(second.id)) == offers


def test_a_chain_without_base_fee_has_a_queue_as_well(world: World) -> None:
    """Its head pays a higher gas price, and nothing behind it is priced out (R15)."""
    world.chain.answers = Fees(None, 5 * GWEI)
    # The scripted node reads no legacy transactions.
    world.client = altered(world.chain, broadcast=lambda raw: None)
    first, second = world.broadcast(), world.broadcast()
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    replaced, waiting = world.step(first), world.step(second)

    record = world.sent(replaced)
    assert isinstance(SignedBytes.decode(record.raw).transaction, LegacyTransaction)
    assert record.max_fee_per_gas == record.max_priority_fee_per_gas == 5_625_000_000
    assert waiting.status is Status.BROADCAST
    assert len(world.store.transactions(second.id)) == 1


def test_what_a_former_key_has_signed_is_replaced_by_it(world: World) -> None:
    """A nonce keeps its key, also when the offer is raised after a rotation (O4)."""
    refund = world.broadcast()
    former = world.signer.address
    world.others = (signer_over(honest(coincurve.PrivateKey.from_int(99))),)
    made_active(world.store, key_at(world.others[0].address))
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    after = world.step(refund, times=2)

    first, second = world.store.transactions(refund.id)
    assert after.status is Status.BROADCAST
    assert second.max_fee_per_gas > first.max_fee_per_gas
    assert (first.sender, second.sender) == (former, former)


def test_a_stuck_noop_is_replaced_by_a_noop(world: World) -> None:
    """What can never be paid is not paid by the replacement of its no-op (R14, R15)."""
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
    world.mine_deep()
    world.tracker.track()
    failed = world.tracked(refund)
    assert (failed.status, failed.failure_code) == (
        Status.FAILED,
        "execution-reverted",
    )
    assert world.chain.payouts() == []


def test_a_nonce_that_is_used_is_not_signed_for_again(world: World) -> None:
    """Nothing is resent or replaced once our own transaction has the nonce (R9)."""
    refund = world.broadcast()
    world.chain.mine()
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    after = world.step(refund)

    assert after.status is Status.BROADCAST
    assert after.due_at == world.clock() + RESEND_AFTER
    assert len(world.chain.broadcasts) == 1
    assert len(world.store.transactions(refund.id)) == 1
    assert world.tracked(refund).status is Status.MINED


def test_a_used_nonce_without_a_transaction_proves_nothing(world: World) -> None:
    """For 45 minutes no node finds it: the refund waits, and is then mined (R10)."""
    refund = world.broadcast()
    world.chain.mine()
    world.client = altered(
        world.chain,
        find_transaction=lambda sender, nonce: None,
        receipts=lambda tx_hashes: {},
    )

    for _ in range(90):
        world.work(after=RESEND_AFTER)

    after = world.stored(refund)
    assert after.status is Status.BROADCAST
    assert (after.nonce, after.tx_hash) == (0, refund.tx_hash)
    assert len(world.chain.broadcasts) == 1
    world.client = None
    assert world.tracked(refund).status is Status.MINED


def test_a_foreign_transaction_takes_a_nonce_once_it_is_final(world: World) -> None:
    """Before, nothing is failed; then the refund is, and the wallet pauses (R10)."""
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
    wallet = world.watched().wallet
    assert wallet.paused_by is Pause.FOREIGN_TRANSACTION
    assert world.chain.payouts() == []


@pytest.mark.parametrize(
    "data",
    [
        transfer_calldata(CUSTOMER, AMOUNT),
        transfer_calldata(CUSTOMER, AMOUNT, bytes(16)),
    ],
    ids=["no mark", "another mark"],
)
def test_somebody_elses_payment_is_not_the_refunds(world: World, data: bytes) -> None:
    """The same amount to the same customer, without the mark, has paid nothing."""
    refund = world.broadcast()
    world.chain.mine_foreign(world.signer.address, data)
    world.chain.mine_empty(2)

    assert world.step(refund).failure_code == "nonce-taken"


def test_a_mark_that_did_nothing_has_not_paid(world: World) -> None:
    """The refund's calldata, sent anywhere but to its token, is a foreign thing."""
    refund = world.broadcast()
    world.chain.mine_foreign(world.signer.address, calldata(refund))
    world.chain.mine_empty(2)

    assert world.step(refund).failure_code == "nonce-taken"


def test_a_nonce_is_looked_at_before_it_is_signed_for(world: World) -> None:
    """A reserved refund whose nonce is gone is not signed, and fails when final."""
    reserved = world.step(world.accepted())
    world.chain.mine_foreign(world.signer.address)
    world.clock.advance(seconds=60)

    waiting = world.step(reserved)
    world.chain.mine_empty(2)
    failed = world.step(waiting)

    assert waiting.status is Status.RESERVED
    assert failed.failure_code == "nonce-taken"
    assert world.store.transactions(reserved.id) == ()
