"""A paused wallet goes on when somebody accepts what it missed, and not before."""

import pytest

from signer.errors import ChainUnavailableError
from signer.model.refund import Status
from signer.model.wallet import Pause, Wallet
from signer.refunds.wallet_repair import Repair, repair
from tests.support.refunds import World, altered


def _repair(world: World, *, apply: bool) -> list[Repair]:
    return list(repair(world.store, world.chains, world.clock, apply=apply))


def _estranged(world: World, strangers: int, blocks: int = 2) -> None:
    """Pay once, let strangers spend that many nonces, and add blocks."""
    world.broadcast()
    world.chain.mine()
    world.tracker.track()
    for _ in range(strangers):
        world.chain.mine_foreign(world.signer.address)
    world.chain.mine_empty(blocks)
    world.work()


def test_without_wallets_there_is_nothing_to_repair(world: World) -> None:
    """A ledger that never paid has none."""
    assert _repair(world, apply=True) == []


def test_a_wallet_that_is_fine_stays_as_it_is(world: World) -> None:
    """Nothing is open, and nothing is resumed."""
    world.broadcast()
    before = world.store.wallets()

    (found,) = _repair(world, apply=True)

    assert (found.network, found.is_open, found.resumed) == ("local", False, False)
    assert found.problem is None
    assert world.store.wallets() == before


def test_a_look_changes_nothing(world: World) -> None:
    """Without apply, what would be accepted is shown, and the wallet stays paused."""
    _estranged(world, 1)
    before = world.store.wallets()

    (found,) = _repair(world, apply=False)

    assert (found.is_open, found.resumed, found.problem) == (True, False, None)
    assert [sighting.nonce for sighting in found.standing.foreign] == [1]
    assert found.standing.unseen == 0
    assert world.store.wallets() == before


def test_what_was_looked_at_is_accepted(world: World) -> None:
    """With apply, the wallet gives out the nonce behind the strangers'."""
    _estranged(world, 2)

    (found,) = _repair(world, apply=True)

    assert (found.is_open, found.resumed, found.problem) == (False, True, None)
    assert found.standing.foreign == ()
    assert _repair(world, apply=True)[0].resumed is False
    assert world.step(world.accepted()).nonce == 3


def test_a_long_absence_is_caught_up_with(world: World) -> None:
    """As many looks as it takes are taken at once."""
    _estranged(world, 50)

    (found,) = _repair(world, apply=True)

    assert (found.resumed, found.standing.wallet.next_nonce) == (True, 51)


def test_what_is_not_final_keeps_the_wallet(world: World) -> None:
    """It says how much there is to wait for, and accepts nothing."""
    _estranged(world, 25, blocks=0)

    (found,) = _repair(world, apply=True)

    assert (found.is_open, found.resumed) == (True, False)
    assert found.standing.unseen == 2
    assert str(found.problem).startswith("2 of the chain's transactions are not final")
    (wallet,) = world.store.wallets()
    assert wallet.paused_by is Pause.CHAIN_AHEAD


def test_what_is_ours_resumes_by_itself_meanwhile(world: World) -> None:
    """When a look was all it took, nothing is left to accept."""
    refund = world.broadcast()
    wallet = world.store.wallet(world.network.chain_id, world.signer.address)
    assert wallet is not None
    world.store.pause(wallet, Pause.CHAIN_AHEAD, world.clock())
    counts = iter([3, 3])
    world.client = altered(world.chain, pending_count=lambda address: next(counts, 1))

    (found,) = _repair(world, apply=True)

    assert (found.is_open, found.resumed, found.problem) == (False, True, None)
    assert world.stored(refund).status is Status.BROADCAST


def test_a_wallet_on_a_network_that_is_gone_is_passed_over(world: World) -> None:
    """Nobody can be asked about it."""
    world.store.open_wallet(Wallet(999, world.signer.address, 0, 0))
    world.broadcast()

    assert [found.network for found in _repair(world, apply=True)] == ["local"]


def test_a_silent_chain_is_an_error(world: World) -> None:
    """Without it, nobody knows what to repair."""
    _estranged(world, 1)
    world.chain.fail("pending_count", ChainUnavailableError("gone"))

    with pytest.raises(ChainUnavailableError):
        _repair(world, apply=True)


def test_an_operator_stops_a_network(world: World) -> None:
    """No nonce is given out any more, and what has one goes on (R27)."""
    sent = world.broadcast()
    world.store.stop(world.network.chain_id, world.clock())
    refund = world.accepted()
    world.work()
    world.mine_deep()
    world.tracker.track()

    assert world.stored(refund).blocked_by == "wallet-paused"
    assert world.tracked(sent).status is Status.CONFIRMED
    assert "an operator stopped" in world.explainer.explain(refund).summary


def test_a_stopped_network_goes_on_by_hand(world: World) -> None:
    """However often workers watch and somebody repairs, the switch alone counts."""
    world.store.stop(world.network.chain_id, world.clock())
    refund = world.accepted()
    for _ in range(6):
        world.work()
        _repair(world, apply=True)
    waiting = world.stored(refund)

    world.store.go_on(world.network.chain_id)
    world.work()

    assert (waiting.status, waiting.nonce) == (Status.QUEUED, None)
    assert world.stored(refund).nonce == 0


def test_a_refund_of_a_stopped_network_can_be_cancelled(world: World) -> None:
    """It has no nonce, so nothing was paid, and nothing will be (R26, R27)."""
    world.store.stop(world.network.chain_id, world.clock())
    refund = world.accepted()

    cancelled = world.service.cancel("gateway", refund.id)

    assert cancelled.status is Status.CANCELLED


def test_a_stranger_that_nobody_watched_for_yet_is_work_as_well(world: World) -> None:
    """A wallet that still pays is open to repair once the chain is ahead of it."""
    world.broadcast()
    world.chain.mine()
    world.tracker.track()
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_empty(2)

    (seen,) = _repair(world, apply=False)
    (done,) = _repair(world, apply=True)

    assert (seen.is_open, seen.standing.wallet.paused_by) == (True, None)
    assert (done.is_open, done.resumed) == (False, True)
    assert world.step(world.accepted()).nonce == 2
