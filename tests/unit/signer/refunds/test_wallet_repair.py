"""Repair of paused wallets, and the pause of a network."""

import pytest

from signer.errors import ChainUnavailableError
from signer.model.hold import name_of_chain
from signer.model.refund import Status
from signer.model.transaction import TransactionStatus
from signer.model.wallet import Pause, Wallet
from signer.refunds.nonce_admin import RepairResult, repair_wallets
from tests.fixtures.ledger import stopped
from tests.support.refunds import World, altered_chain


def _repair(world: World, *, apply: bool) -> list[RepairResult]:
    return list(repair_wallets(world.store, world.chains, world.clock, apply=apply))


def test_without_wallets_there_is_nothing_to_repair(world: World) -> None:
    assert _repair(world, apply=True) == []


def test_a_wallet_that_is_not_paused_is_unchanged(world: World) -> None:
    """Nothing is open, and nothing is resumed."""
    world.broadcast()
    before = world.store.wallets()

    (found,) = _repair(world, apply=True)

    assert (found.network, found.is_open, found.resumed) == ("local", False, False)
    assert found.problem is None
    assert world.store.wallets() == before


def test_without_apply_nothing_changes(world: World) -> None:
    """It reports what would be accepted, and the wallet stays paused."""
    world.use_key_elsewhere(1)
    before = world.store.wallets()

    (found,) = _repair(world, apply=False)

    assert (found.is_open, found.resumed, found.problem) == (True, False, None)
    assert [transaction.nonce for transaction in found.wallet_status.foreign] == [1]
    assert found.wallet_status.unknown_count == 0
    assert world.store.wallets() == before


def test_open_fillers_are_listed(world: World) -> None:
    """With the error that delays them, until they are final."""
    world.ring.active()
    world.wallets.get_or_open(world.chains["local"], world.signer.address, 0)
    world.fill(0)
    world.step(world.accepted())
    world.chain.fail("fees", ChainUnavailableError("gone"))
    world.work()

    ((filler,),) = [each.fillers for each in _repair(world, apply=False)]
    world.finish_nonce(0)

    assert (filler.nonce, filler.status) == (0, TransactionStatus.RESERVED)
    assert filler.blocked_by == "chain-unavailable"
    assert [each.fillers for each in _repair(world, apply=False)] == [()]


def test_apply_accepts_foreign_transactions(world: World) -> None:
    """The wallet assigns the nonce after the foreign ones."""
    world.use_key_elsewhere(2)

    (found,) = _repair(world, apply=True)

    assert (found.is_open, found.resumed, found.problem) == (False, True, None)
    assert found.wallet_status.foreign == ()
    assert _repair(world, apply=True)[0].resumed is False
    assert world.step(world.accepted()).nonce == 3


def test_apply_records_any_number_of_transactions(world: World) -> None:
    """It runs as many passes as needed."""
    world.use_key_elsewhere(50)

    (found,) = _repair(world, apply=True)

    assert (found.resumed, found.wallet_status.wallet.next_nonce) == (True, 51)


def test_a_transaction_that_is_not_final_prevents_the_repair(world: World) -> None:
    """The problem says how many to wait for, and nothing is accepted."""
    world.use_key_elsewhere(25, blocks=0)

    (found,) = _repair(world, apply=True)

    assert (found.is_open, found.resumed) == (True, False)
    assert found.wallet_status.unknown_count == 2
    assert str(found.problem).startswith("2 of the chain's transactions are not final")
    assert world.wallet.paused_by is Pause.CHAIN_AHEAD


def test_our_own_transactions_resume_without_acceptance(world: World) -> None:
    """Once they are recorded, nothing is left to accept."""
    refund = world.broadcast()
    world.store.pause(world.wallet, Pause.CHAIN_AHEAD, world.clock())
    counts = iter([3, 3])
    world.client = altered_chain(
        world.chain, pending_count=lambda address: next(counts, 1)
    )

    (found,) = _repair(world, apply=True)

    assert (found.is_open, found.resumed, found.problem) == (False, True, None)
    assert world.stored(refund).status is Status.BROADCAST


def test_a_wallet_on_a_removed_network_is_skipped(world: World) -> None:
    """No node knows it."""
    world.store.open_wallet(Wallet(999, world.signer.address, 0, 0))
    world.broadcast()

    assert [found.network for found in _repair(world, apply=True)] == ["local"]


def test_an_unreachable_chain_is_an_error(world: World) -> None:
    """Without it, the wallet cannot be compared."""
    world.use_key_elsewhere(1)
    world.chain.fail("pending_count", ChainUnavailableError("gone"))

    with pytest.raises(ChainUnavailableError):
        _repair(world, apply=True)


def test_a_network_is_stopped(world: World) -> None:
    """No nonce is assigned, and refunds that have one continue (R27)."""
    sent = world.broadcast()
    stopped(world.store, at=world.clock())
    refund = world.accepted()
    world.work()
    world.mine_deep()
    world.confirmation_tracker.track()

    assert world.stored(refund).moving.blocked_by == "signing-stopped"
    assert world.tracked(sent).status is Status.CONFIRMED
    assert "signing was stopped" in world.explainer.explain(refund).summary


def test_a_stopped_network_is_resumed_by_an_operator_only(world: World) -> None:
    """Neither workers nor a repair end the stop."""
    stopped(world.store, at=world.clock())
    refund = world.accepted()
    for _ in range(6):
        world.work()
        _repair(world, apply=True)
    waiting = world.stored(refund)

    world.store.end_hold(name_of_chain(world.network.chain_id), world.clock())
    world.work()

    assert (waiting.status, waiting.nonce) == (Status.QUEUED, None)
    assert world.stored(refund).nonce == 0


def test_a_refund_on_a_stopped_network_can_be_cancelled(world: World) -> None:
    """It has no nonce, so nothing is paid (R26, R27)."""
    stopped(world.store, at=world.clock())
    refund = world.accepted()

    cancelled = world.cancel(refund)

    assert cancelled.status is Status.CANCELLED


def test_a_wallet_that_is_behind_the_chain_is_open_to_repair(world: World) -> None:
    """Also before a worker has paused it."""
    world.use_key_elsewhere(1, work=False)

    (seen,) = _repair(world, apply=False)
    (done,) = _repair(world, apply=True)

    assert (seen.is_open, seen.wallet_status.wallet.paused_by) == (True, None)
    assert (done.is_open, done.resumed) == (False, True)
    assert world.step(world.accepted()).nonce == 2
