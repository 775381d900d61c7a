"""One refund, one step at a time, on a chain that may do anything."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import coincurve
import pytest
from eth_abi.abi import encode
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.audit import Purpose
from signer.errors import (
    BackendUnavailableError,
    BroadcastRejectedError,
    ChainUnavailableError,
    ConfigurationError,
    ExecutionRevertedError,
    HotWalletError,
    InsufficientFundsError,
    KeyUnusableError,
    PolicyViolationError,
    RecoveryError,
    StaleStateError,
)
from signer.ports import Fees, Receipt, Store
from signer.refunds.lifecycle import REBROADCAST_AFTER, Lifecycle
from signer.refunds.refund import Refund, Status
from signer.secp256k1 import Signature
from signer.signing import Signer
from signer.transactions import MAX_GAS, LegacyTransaction, SignedBytes
from tests.fixtures.scripted_chain import Sent
from tests.support.devices import honest, planted, point, recording, signer_over
from tests.support.refunds import ACTOR, CUSTOMER, KEY, World


AMOUNT = 12_500_000


@pytest.fixture
def world(sqlite_store: Store) -> World:
    """A service over SQLite and a scripted chain."""
    return World(sqlite_store)


@pytest.fixture
def other_store(empty_sqlite_url: str) -> Iterator[Store]:
    """Return a second, empty ledger: a backup from before everything."""
    store = SQLStore(empty_sqlite_url)
    store.migrate()
    yield store
    store.close()


def _broadcast(world: World) -> Refund:
    """Return a refund whose transaction is in the node's pool."""
    return world.step(world.accepted(), times=3)


def _mined(world: World) -> Refund:
    refund = _broadcast(world)
    world.chain.mine()
    return world.step(refund)


def test_a_refund_is_paid_once_in_five_steps(world: World) -> None:
    """Reserved, signed, broadcast, mined, confirmed: with all that belongs to it."""
    refund = world.accepted()

    reserved = world.step(refund)
    signed = world.step(reserved)
    broadcast = world.step(signed)
    world.chain.mine()
    mined = world.step(broadcast)
    world.chain.mine_empty(2)
    confirmed = world.step(mined)

    assert reserved.status is Status.RESERVED
    assert (reserved.sender, reserved.nonce) == (world.signer.address, 0)
    assert (reserved.key_id, reserved.gas_limit) == (world.signer.key_id, 62_500)
    assert signed.status is Status.SIGNED
    assert broadcast.status is Status.BROADCAST
    assert mined.status is Status.MINED
    assert (mined.block_number, mined.block_hash) == (
        1,
        world.chain.receipt(str(mined.tx_hash)).block.hash,  # type: ignore[union-attr]
    )
    assert confirmed.status is Status.CONFIRMED
    assert confirmed.tx_hash == signed.tx_hash
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert [move.status for move in world.store.history(refund.id)] == [
        Status.QUEUED,
        Status.RESERVED,
        Status.SIGNED,
        Status.BROADCAST,
        Status.MINED,
        Status.CONFIRMED,
    ]


def test_the_bytes_are_stored_before_they_are_sent(world: World) -> None:
    """A signed refund has its raw transaction in the store, and the node has none."""
    signed = world.step(world.accepted(), times=2)

    (record,) = world.store.transactions(signed.id)
    sent = Sent.read(record.raw)

    assert world.chain.broadcasts == []
    assert (sent.hash, sent.nonce, sent.sender) == (
        record.tx_hash,
        record.nonce,
        record.sender,
    )
    assert (sent.recipient, sent.amount) == (CUSTOMER, AMOUNT)
    assert signed.tx_hash == record.tx_hash
    assert (record.attempt, record.kind) == (0, "transfer")
    assert (record.max_fee_per_gas, record.max_priority_fee_per_gas) == (
        2 * 10**9 + 10**8,
        10**8,
    )


def test_the_audit_log_says_for_which_refund(world: World) -> None:
    """Network, actor, request and refund stand in the event of the signature."""
    audit, events = recording()
    world.signer = signer_over(honest(KEY), audit)

    refund = world.step(world.accepted(), times=2)

    assert {
        (event["operation"], event["network"], event["actor"]) for event in events
    } == {("transaction-signing", "local", "gateway")}
    assert {(event["request_id"], event["refund_id"]) for event in events} == {
        ("req-1", refund.id)
    }


def test_nonces_follow_each_other(world: World) -> None:
    """Each refund has its own nonce, from what the chain counts, without gaps."""
    first = _broadcast(world)
    world.chain.mine()
    others = [world.step(world.accepted()) for _ in range(3)]

    assert first.nonce == 0
    assert [refund.nonce for refund in others] == [1, 2, 3]


def test_the_chain_may_be_ahead_of_the_store(world: World, other_store: Store) -> None:
    """A nonce that somebody else used is not given out (R24)."""
    signed = world.step(world.accepted(), times=2)
    (record,) = world.store.transactions(signed.id)
    elsewhere = World(other_store, chain=world.chain)
    world.chain.broadcast(record.raw)
    world.chain.mine()

    assert elsewhere.step(elsewhere.accepted()).nonce == 1


def test_a_transfer_that_would_revert_costs_no_nonce(world: World) -> None:
    """It is refused with the contract's reason, before anything is reserved."""
    world.chain.fail("estimate_gas", ExecutionRevertedError("Pausable: paused"))

    refused = world.step(world.accepted())

    assert refused.status is Status.REFUSED
    assert (refused.failure_code, refused.failure_detail) == (
        "execution-reverted",
        "Pausable: paused",
    )
    assert refused.nonce is None
    assert world.step(world.accepted()).nonce == 0


def test_an_empty_wallet_is_no_refusal(world: World) -> None:
    """Without the tokens to pay it, a refund waits; filling the wallet is enough."""
    refund = world.accepted()
    world.chain.balance_left = refund.amount - 1
    world.chain.fail("estimate_gas", ExecutionRevertedError("balance too low"))

    with pytest.raises(InsufficientFundsError):
        world.step(refund)
    world.chain.balance_left = refund.amount

    assert world.store.get(refund.id) == refund
    assert world.step(refund).status is Status.RESERVED


def test_a_chain_without_base_fee_gets_a_legacy_transaction(world: World) -> None:
    """Its price is what the chain asks, and its signature is bound to the chain."""
    world.chain.answers = Fees(base_fee=None, priority_fee=5 * 10**9)

    refund = world.step(world.accepted(), times=2)
    (stored,) = world.store.transactions(refund.id)

    sent = SignedBytes.decode(stored.raw).transaction
    assert isinstance(sent, LegacyTransaction)
    assert (sent.gas_price, sent.chain_id) == (5 * 10**9, refund.chain_id)
    assert stored.max_fee_per_gas == stored.max_priority_fee_per_gas == 5 * 10**9


def test_the_end_is_told(world: World) -> None:
    """A refund that failed is an error in the log, for somebody to look at."""
    world.chain.fail("estimate_gas", ExecutionRevertedError("Pausable: paused"))
    refused = world.accepted()

    with capture_logs() as logs:
        world.step(refused)

    assert logs == [
        {
            "event": "refund-ended",
            "log_level": "info",
            "refund_id": refused.id,
            "status": "refused",
            "code": "execution-reverted",
        }
    ]


def test_a_greedy_token_can_still_be_signed(world: World) -> None:
    """A gas estimate past the limit does not leave a nonce that nothing can use."""
    world.chain.gas = MAX_GAS

    assert world.step(world.accepted(), times=2).status is Status.SIGNED


@pytest.mark.parametrize(
    ("steps", "method"),
    [
        (0, "estimate_gas"),
        (0, "transaction_count"),
        (1, "fees"),
        (2, "broadcast"),
        (3, "receipt"),
        (4, "receipt"),
        (4, "latest_block"),
        (4, "block"),
    ],
)
def test_a_silent_node_changes_nothing(world: World, steps: int, method: str) -> None:
    """The refund stays where it was, and the next try goes on from there."""
    refund = world.step(world.accepted(), times=min(steps, 3))
    world.chain.mine()
    refund = world.step(refund, times=steps - min(steps, 3))
    world.chain.mine_empty(5)
    world.chain.fail(method, ChainUnavailableError("no node answered"))

    with pytest.raises(ChainUnavailableError):
        world.step(refund)

    assert world.store.get(refund.id) == refund
    assert world.step(refund).version == refund.version + 1


@pytest.mark.parametrize(
    "error", [BackendUnavailableError("no answer"), KeyUnusableError("disabled")]
)
def test_a_silent_device_keeps_the_nonce(world: World, error: HotWalletError) -> None:
    """The refund keeps its nonce for life, and is signed when the device is back."""
    reserved = world.step(world.accepted())
    world.signer = signer_over(planted(point(KEY), error))

    with pytest.raises(type(error)):
        world.step(reserved)

    world.signer = signer_over(honest(KEY))
    assert world.step(reserved).nonce == reserved.nonce


def test_another_key_does_not_sign_for_this_ones_nonce(world: World) -> None:
    """A nonce belongs to an address; the new one has its own (O4)."""
    reserved = world.step(world.accepted())
    world.signer = signer_over(honest(coincurve.PrivateKey.from_int(99)))

    with pytest.raises(KeyUnusableError):
        world.step(reserved)

    assert world.store.get(reserved.id) == reserved


def test_a_row_that_was_changed_is_not_signed(world: World) -> None:
    """What the policy does not find in the refund does not reach the device (T8)."""
    reserved = world.step(world.accepted())
    device = honest(KEY)
    world.signer = signer_over(device)
    tampered = replace(reserved, chain_id=1)

    with pytest.raises(PolicyViolationError, match="chain-id"):
        world.lifecycle.step(tampered, ACTOR)

    assert device.calls == 0


def test_a_reservation_without_a_nonce_is_a_bug(world: World) -> None:
    """A row that no reservation made does not reach the device."""
    reserved = world.step(world.accepted())
    device = honest(KEY)
    world.signer = signer_over(device)

    with pytest.raises(ValueError, match="not reserved"):
        world.lifecycle.step(replace(reserved, nonce=None), ACTOR)

    assert device.calls == 0


class Swapping(Signer):
    """A signer whose answer is a signature over something else."""

    def sign_digest(self, digest: bytes, purpose: Purpose) -> Signature:
        """Return a valid signature that has nothing to do with *digest*."""
        return super().sign_digest(bytes(reversed(digest)), purpose)


def test_the_bytes_that_leave_are_the_wallets(world: World) -> None:
    """Serialised bytes that do not recover to the wallet are dropped (T11)."""
    reserved = world.step(world.accepted())
    opened = world.signer
    audit, _ = recording()
    world.signer = Swapping(honest(KEY), opened.key_id, opened.public_key, audit)

    with pytest.raises(RecoveryError):
        world.lifecycle.step(reserved, ACTOR)

    assert world.store.get(reserved.id) == reserved
    assert world.store.transactions(reserved.id) == ()


def test_a_network_that_was_removed_stops_its_refunds_only(world: World) -> None:
    """Its refunds wait for the operator, and say why."""
    refund = world.accepted()
    lifecycle = Lifecycle(world.store, {}, world.signer, world.clock)

    with pytest.raises(ConfigurationError, match="network"):
        lifecycle.step(refund, ACTOR)

    assert world.store.get(refund.id) == refund


def test_two_who_take_one_step_pay_once(world: World) -> None:
    """The second reservation, signature and move are stale, and change nothing (R6)."""
    refund = world.accepted()

    for _ in range(3):
        after = world.step(refund)
        with pytest.raises(StaleStateError):
            world.lifecycle.step(refund, ACTOR)

        assert world.store.get(refund.id) == after
        refund = after

    world.chain.mine()
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_reply_that_was_lost_is_not_a_failure(world: World) -> None:
    """The node took the bytes and said nothing; the same bytes are sent again (R7)."""
    signed = world.step(world.accepted(), times=2)

    world.chain.lose_reply(ChainUnavailableError("no answer"))

    with pytest.raises(ChainUnavailableError):
        world.step(signed)
    broadcast = world.step(signed)

    assert broadcast.status is Status.BROADCAST
    assert len(world.chain.broadcasts) == 2
    assert len(set(world.chain.broadcasts)) == 1
    world.chain.mine()
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_bytes_that_are_mined_already_are_not_rejected(world: World) -> None:
    """Nonce too low may mean that our own transaction is in a block (R9)."""
    signed = world.step(world.accepted(), times=2)
    world.chain.broadcast(world.store.transactions(signed.id)[0].raw)
    world.chain.mine()

    mined = world.step(signed)

    assert mined.status is Status.MINED
    assert mined.tx_hash == signed.tx_hash


@pytest.mark.parametrize(
    "reason",
    ["nonce-too-low", "nonce-too-high", "underpriced", "insufficient-funds", "other"],
)
def test_a_rejection_is_an_error_and_no_failure(world: World, reason: str) -> None:
    """The refund stays signed, with its nonce, until the node takes the bytes (R13)."""
    signed = world.step(world.accepted(), times=2)
    world.chain.fail("broadcast", BroadcastRejectedError("no", reason=reason))

    with pytest.raises(BroadcastRejectedError):
        world.step(signed)

    assert world.store.get(signed.id) == signed
    assert world.step(signed).status is Status.BROADCAST


def test_what_is_not_mined_yet_waits(world: World) -> None:
    """No receipt proves nothing: the same refund comes back, unchanged (R10)."""
    broadcast = _broadcast(world)

    world.clock.advance(seconds=29)

    assert world.lifecycle.step(broadcast, ACTOR) is broadcast
    assert len(world.chain.broadcasts) == 1


def test_what_nodes_forgot_is_sent_again(world: World) -> None:
    """After 30 s the same bytes go out again, and again, but in no storm (R11, R18)."""
    refund = _broadcast(world)
    world.chain.forget()

    for _ in range(3):
        world.clock.advance(seconds=REBROADCAST_AFTER.total_seconds())
        refund = world.step(refund)
        world.clock.advance(seconds=REBROADCAST_AFTER.total_seconds() - 1)

        assert refund.status is Status.BROADCAST
        assert world.lifecycle.step(refund, ACTOR) is refund

    assert len(world.chain.broadcasts) == 4
    assert len(set(world.chain.broadcasts)) == 1
    world.chain.mine()
    assert world.step(refund).status is Status.MINED
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_resend_that_fails_is_tried_again_later(world: World) -> None:
    """A node that rejects the resent bytes does not move the refund back or on."""
    refund = _broadcast(world)
    world.clock.advance(seconds=30)
    world.chain.fail("broadcast", BroadcastRejectedError("no", reason="other"))

    with pytest.raises(BroadcastRejectedError):
        world.lifecycle.step(refund, ACTOR)

    stored = world.store.get(refund.id)
    assert stored is not None
    assert stored.status is Status.BROADCAST
    assert world.lifecycle.step(stored, ACTOR) is stored


def test_nothing_is_confirmed_before_its_depth(world: World) -> None:
    """Three confirmations are the receipt's own block and two more."""
    mined = _mined(world)
    world.chain.mine_empty(1)

    assert world.lifecycle.step(mined, ACTOR) is mined

    world.chain.mine_empty(1)

    assert world.step(mined).status is Status.CONFIRMED


@pytest.mark.parametrize("keep", [True, False])
def test_a_reorganisation_takes_the_refund_back(world: World, keep: bool) -> None:
    """Mined goes back to broadcast, and the same bytes are mined again (R19)."""
    mined = _mined(world)
    world.chain.mine_empty(5)
    world.chain.reorganise(keep=keep)

    refund = world.step(mined)

    assert refund.status is Status.BROADCAST
    assert (refund.block_number, refund.block_hash) == (None, None)
    if not keep:
        world.clock.advance(seconds=30)
        refund = world.step(refund)
    world.chain.mine()
    world.chain.mine_empty(2)
    assert world.step(refund, times=2).status is Status.CONFIRMED
    assert len(set(world.chain.broadcasts)) == 1
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_another_block_with_the_same_transaction_starts_over(world: World) -> None:
    """A receipt from a block of another name is not the one that was counted."""
    mined = _mined(world)
    world.chain.mine_empty(5)
    world.chain.rename_blocks()

    back = world.step(mined)
    again = world.step(back)

    assert back.status is Status.BROADCAST
    assert again.block_hash != mined.block_hash
    assert world.step(again).status is Status.CONFIRMED


def test_a_block_that_is_not_canonical_confirms_nothing(world: World) -> None:
    """A node that contradicts its own receipt is waited for (R25)."""
    mined = _mined(world)
    world.chain.mine_empty(5)
    world.chain.fork_head()

    assert world.lifecycle.step(mined, ACTOR) is mined


def test_a_head_behind_the_receipt_confirms_nothing(world: World) -> None:
    """A lagging node's head is no reason to count backwards (R25)."""
    mined = _mined(world)
    world.chain.mine_empty(5)

    world.chain.lag = 5

    assert world.lifecycle.step(mined, ACTOR) is mined


def _reverted(receipt: Receipt) -> Receipt:
    return replace(receipt, succeeded=False, logs=())


def _without_event(receipt: Receipt) -> Receipt:
    return replace(receipt, logs=())


def _with_a_fee(receipt: Receipt) -> Receipt:
    (log,) = receipt.logs
    return replace(receipt, logs=(replace(log, data=encode(("uint256",), (1,))),))


@pytest.mark.parametrize(
    ("misfortune", "code"),
    [
        (_reverted, "reverted"),
        (_without_event, "transfer-mismatch"),
        (_with_a_fee, "transfer-mismatch"),
    ],
)
def test_what_was_mined_and_did_not_pay_has_failed(
    world: World, misfortune: Callable[[Receipt], Receipt], code: str
) -> None:
    """A revert, no event or another amount is final, and only at depth (R20, R21)."""
    refund = _broadcast(world)
    world.chain.mine(misfortune)
    mined = world.step(refund)

    assert mined.status is Status.MINED
    assert world.lifecycle.step(mined, ACTOR) is mined

    world.chain.mine_empty(2)
    failed = world.step(mined)

    assert failed.status is Status.FAILED
    assert failed.failure_code == code
    assert failed.nonce == refund.nonce


def test_fees_are_those_of_the_moment(world: World) -> None:
    """The quote is taken when the refund is signed, within the network's cap."""
    reserved = world.step(world.accepted())
    world.chain.answers = Fees(base_fee=10**15, priority_fee=10**15)

    signed = world.step(reserved)

    (record,) = world.store.transactions(signed.id)
    assert record.max_fee_per_gas == 500 * 10**9
    assert record.max_priority_fee_per_gas == 50 * 10**9


def test_the_patience_before_a_resend_is_known() -> None:
    """Operators read it in docs/operations.md."""
    assert timedelta(seconds=30) == REBROADCAST_AFTER
