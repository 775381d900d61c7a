"""
Ledgers that were restored from a backup or lost, on a chain that went on (G24).

Backups here are copies of the ledger's file; the chain is always the same one.  The
lost refund is requested again with a new key, as a gateway does whose request
was answered with an error.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from signer.errors import WalletPausedError
from signer.model.key import KeyState
from signer.model.refund import Refund, Status
from signer.model.transaction import Kind
from signer.model.wallet import Pause
from signer.ports.chain import Fees
from signer.ports.ledger import Ledger
from tests.support.refunds import AMOUNT, CUSTOMER, World


def _paid(world: World, refund: Refund) -> Refund:
    """Return *refund*, paid and confirmed."""
    while refund.status in (Status.QUEUED, Status.RESERVED, Status.SIGNED):
        refund = world.step(refund)
    world.settle()
    confirmed = world.stored(refund)
    assert confirmed.status is Status.CONFIRMED
    return confirmed


def test_a_lost_replacement_that_a_reorganisation_removes(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """
    The ledger does not know its hash, but its nonce and calldata.

    After the reorganisation the refund is broadcast again, and paid once (R19, R24).
    """
    refund = world.broadcast()
    restored = backup()
    world.clock.advance(seconds=world.network.stuck_after_seconds)
    world.step(refund, times=2)
    world.chain.mine()
    world.store = restored
    world.work(after=timedelta(seconds=31))
    assert world.stored(refund).status is Status.MINED
    world.chain.reorganise(keep=False)

    (confirmed,) = world.finish(refund)

    assert confirmed.status is Status.CONFIRMED
    assert confirmed.tx_hash == world.sent(confirmed).tx_hash
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_lost_transaction_that_is_still_pending(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """Its nonce counts before it is mined, and is not assigned meanwhile (R24)."""
    _paid(world, world.accepted())
    restored = backup()
    lost = world.broadcast(reference="forgotten")
    world.store = restored
    again = world.accepted(reference="forgotten")

    for _ in range(5):
        world.work(after=timedelta(seconds=31))
    blocked = world.blocked(again)
    world.mine_deep()
    world.state_marks()
    (confirmed,) = world.finish(again)

    assert blocked == (Status.QUEUED, "wallet-paused")
    assert (confirmed.status, confirmed.tx_hash) == (Status.CONFIRMED, lost.tx_hash)
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def test_a_lost_transaction_that_appears_late(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """The refund that has the same nonce fails; no refund is paid twice (R24)."""
    restored = backup()
    lost = world.sent(world.broadcast(reference="forgotten"))
    world.store = restored
    world.chain.forget()
    holder = world.broadcast()
    again = world.accepted(reference="forgotten")
    world.chain.forget()
    world.chain.broadcast(lost.raw)
    world.mine_deep()

    failed = world.step(holder)
    assert world.wallet.is_paused
    world.state_marks()
    (refused,) = world.finish(again)

    assert (failed.status, failed.failure_code) == (Status.FAILED, "nonce-taken")
    assert (refused.status, refused.failure_code) == (Status.REFUSED, "already-paid")
    assert world.wallet.paused_by is None
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_lost_transaction_pays_a_refund_that_has_another_nonce(
    world: World, backup: Callable[[], Ledger], steps: int
) -> None:
    """The refund was paid after its reservation, and a no-op uses its nonce (R24)."""
    again = _paid_elsewhere(world, backup(), steps)

    (failed,) = world.finish(again)

    assert (failed.status, failed.failure_code) == (Status.FAILED, "already-paid")
    assert (failed.nonce, world.sent(failed).kind) == (1, Kind.NOOP)
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    world.state_marks()
    world.reconcile()
    assert world.broadcast().nonce == 2


def test_a_noop_at_the_cap_waits_until_the_transfer_is_dropped(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """The transfer is not sent again, and no fee exceeds the cap (R17, R24)."""
    world.chain.answers = Fees(240 * 10**9, 10 * 10**9)
    again = _paid_elsewhere(world, backup(), 3)
    transfer = world.sent(again)
    world.chain.broadcast(transfer.raw)
    world.work(after=timedelta(seconds=31))
    pooled = list(world.chain.pool)
    world.chain.forget()

    (failed,) = world.finish(again)

    noop = world.sent(failed)
    assert pooled == [transfer.tx_hash]
    assert (failed.status, failed.failure_code) == (Status.FAILED, "already-paid")
    assert (noop.kind, noop.attempt) == (Kind.NOOP, 1)
    assert noop.max_fee_per_gas == transfer.max_fee_per_gas
    assert noop.max_priority_fee_per_gas == transfer.max_priority_fee_per_gas
    assert world.chain.broadcasts.count(transfer.raw) == 2  # By us, and by this test.
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_noop_in_a_paid_refunds_place_is_sent_again(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """Its fees are raised only when it is stuck (R18, R24)."""
    again = world.step(_paid_elsewhere(world, backup(), 3), times=2)
    world.chain.forget()

    world.work(after=timedelta(seconds=31))

    sent = world.store.transactions(again.id)
    assert [each.kind for each in sent] == [Kind.TRANSFER, Kind.NOOP]
    assert list(world.chain.pool) == [sent[-1].tx_hash]


def _paid_elsewhere(world: World, restored: Ledger, steps: int) -> Refund:
    """Return a refund after *steps* steps that was paid with another nonce."""
    lost = world.sent(world.broadcast(reference="forgotten"))
    world.store = restored
    world.chain.forget()
    holder = world.broadcast()
    again = world.step(world.accepted(reference="forgotten"), times=steps)
    world.chain.forget()
    world.chain.broadcast(lost.raw)
    world.mine_deep()
    assert world.step(holder).failure_code == "nonce-taken"
    return again


def test_a_noop_that_was_made_after_the_backup(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """It has no mark: the refund fails, and an operator decides the rest (R24)."""
    refund = world.step(world.accepted())
    restored = backup()
    world.clock.advance(seconds=60)
    world.chain.revert = "blocked"
    noop = world.sent(world.step(refund, times=2))
    world.mine_deep()
    world.store = restored

    (failed,) = world.finish(refund)

    assert noop.kind is Kind.NOOP
    assert (failed.status, failed.failure_code) == (Status.FAILED, "nonce-taken")
    assert world.wallet.paused_by is Pause.FOREIGN_TRANSACTION
    assert world.chain.payouts() == []


def test_a_lost_payment_that_overtakes_a_noop(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """The refund is paid after all, and its failure code is cleared (R24)."""
    refund = world.step(world.accepted())
    restored = backup()
    lost = world.sent(world.step(refund, times=2))
    world.store = restored
    world.chain.forget()
    world.clock.advance(seconds=60)
    world.chain.revert = "blocked"
    noop = world.sent(world.step(refund, times=2))
    world.chain.forget()
    world.chain.broadcast(lost.raw)
    world.mine_deep()

    (confirmed,) = world.finish(refund)

    assert noop.kind is Kind.NOOP
    assert (confirmed.status, confirmed.tx_hash) == (Status.CONFIRMED, lost.tx_hash)
    assert (confirmed.failure_code, confirmed.failure_detail) == (None, None)


def test_an_adopted_refund_that_a_reorganisation_removes(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """There are no bytes to send again: it is signed with its nonce (R24)."""
    _paid(world, world.accepted())
    restored = backup()
    paid = _paid(world, world.accepted(reference="forgotten"))
    world.store = restored
    again = world.accepted(reference="forgotten")
    world.state_marks()
    world.work()
    assert world.stored(again).status is Status.MINED
    world.chain.reorganise(keep=True)
    world.chain.pool = {
        tx_hash: sent
        for tx_hash, sent in world.chain.pool.items()
        if tx_hash != paid.tx_hash
    }
    world.chain.answers = Fees(2 * 10**9, 10**8)
    for _ in range(3):
        # The recorded payment had this nonce: it is not one on top.
        world.work(after=timedelta(seconds=31))
    world.chain.mine()

    (confirmed,) = world.finish(again)
    kinds = {sent.kind for sent in world.store.transactions(again.id)}

    assert kinds == {Kind.TRANSFER}
    assert (confirmed.status, confirmed.nonce) == (Status.CONFIRMED, paid.nonce)
    assert confirmed.tx_hash != paid.tx_hash
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def test_a_ledger_that_is_lost_altogether(
    world: World, empty: Callable[[], Ledger]
) -> None:
    """A new one checks the wallet's history before it pays (R24)."""
    paid = [_paid(world, world.accepted(reference=name)) for name in "ab"]
    world.store = empty()

    again = [world.accepted(reference=name) for name in "ab"]
    new = world.accepted()
    world.work()
    pause = world.wallet.paused_by
    world.state_marks()
    *confirmed, last = world.finish(*again, new)

    assert pause is Pause.UNKNOWN_HISTORY
    assert [(refund.status, refund.tx_hash) for refund in confirmed] == [
        (Status.CONFIRMED, refund.tx_hash) for refund in paid
    ]
    assert (last.status, last.nonce) == (Status.CONFIRMED, 2)
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 3


def test_a_lost_payment_that_reverted_is_not_repeated(
    world: World, empty: Callable[[], Ledger]
) -> None:
    """The repeated request is answered with the revert (R20, R24)."""
    world.broadcast(reference="forgotten")
    world.chain.mine(lambda receipt: replace(receipt, succeeded=False))
    world.chain.mine_empty(2)
    world.store = empty()
    world.state_marks()

    (failed,) = world.finish(world.accepted(reference="forgotten"))

    assert (failed.status, failed.failure_code) == (Status.FAILED, "reverted")
    assert len(world.chain.broadcasts) == 1


@pytest.mark.parametrize("steps", range(6))
def test_a_backup_from_any_moment_pays_once(
    world: World, backup: Callable[[], Ledger], steps: int
) -> None:
    """Two refunds of any status in it are paid once each (R24)."""
    refunds = [world.accepted(), world.accepted()]
    copies = []
    for number in range(6):
        copies.append(backup())
        for refund in refunds:
            stored = world.stored(refund)
            if not stored.status.is_final:
                world.lifecycle.step(stored)
        if number >= 3:
            world.mine_deep()
            world.confirmation_tracker.track()
    assert all(world.stored(refund).status.is_final for refund in refunds)
    world.store = copies[steps]
    world.state_marks()

    ended = world.finish(*refunds)

    assert [refund.status for refund in ended] == [Status.CONFIRMED] * 2
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def test_a_restored_ledger_retires_no_key_too_early(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """A former key's transactions are recorded first (R24)."""
    refund = world.accepted()
    assert world.ring.active().key.address == world.signer.address
    restored = replace(world, store=backup())
    world.step(refund, times=3)
    restored.rotate()
    restored.work()
    before = restored.store.keys()[-1].state
    with pytest.raises(WalletPausedError):
        restored.step(restored.stored(refund))
    world.mine_deep()
    restored.state_marks()
    for _ in range(12):
        restored.work()

    assert before is KeyState.DRAINING
    assert restored.store.keys()[-1].state is KeyState.RETIRED
    assert restored.stored(refund).status is Status.CONFIRMED
    assert restored.stored(refund).sender == world.signer.address


def test_a_wallet_that_the_backup_lacks_is_checked(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """The backup is from before its first payment (R24)."""
    assert world.ring.active().key.address == world.signer.address
    restored = replace(world, store=backup())
    first = world.broadcast()
    restored.rotate()
    repeated = restored.accepted(reference=first.reference)
    with pytest.raises(WalletPausedError, match="former key"):
        restored.step(repeated)
    world.mine_deep()
    restored.state_marks()
    for _ in range(12):
        restored.work()

    assert restored.stored(repeated).status is Status.CONFIRMED
    assert restored.stored(repeated).tx_hash == first.tx_hash
