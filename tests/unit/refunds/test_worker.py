"""Workers bring every accepted refund to its end, whatever happens to one of them."""

import pytest
from structlog.testing import capture_logs

from signer.errors import (
    BroadcastRejectedError,
    ChainUnavailableError,
    StoreUnavailableError,
)
from signer.ports import Block, Receipt, Store
from signer.refunds.lifecycle import Actor, Chain, Lifecycle
from signer.refunds.refund import Refund, Status
from signer.refunds.worker import Worker
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.refunds import CUSTOMER, NETWORK, World


@pytest.fixture
def world(sqlite_store: Store) -> World:
    """A service over SQLite and a scripted chain."""
    return World(sqlite_store)


def _statuses(world: World, refunds: list[Refund]) -> list[Status]:
    found = [world.store.get(refund.id) for refund in refunds]
    return [refund.status for refund in found if refund]


def test_a_pass_takes_each_refund_as_far_as_it_goes(world: World) -> None:
    """Queued refunds are broadcast in one pass, and confirmed when the chain is."""
    refunds = [world.accepted() for _ in range(3)]
    world.clock.advance(seconds=15)

    assert world.worker.work() == 9
    assert _statuses(world, refunds) == [Status.BROADCAST] * 3
    assert world.worker.work() == 0

    world.chain.mine()
    assert world.worker.work() == 3
    assert _statuses(world, refunds) == [Status.MINED] * 3

    world.chain.mine_empty(2)
    assert world.worker.work() == 3
    assert _statuses(world, refunds) == [Status.CONFIRMED] * 3
    assert world.worker.work() == 0
    assert world.chain.payouts() == [(CUSTOMER, 12_500_000)] * 3


def test_the_worker_signs_in_its_own_name(world: World) -> None:
    """The audit log tells a worker's signature from a request's."""
    actors = []

    class Listening(Lifecycle):
        def step(self, refund: Refund, actor: Actor) -> Refund:
            actors.append(actor)
            return super().step(refund, actor)

    chains = {"local": Chain(NETWORK, world.chain)}
    lifecycle = Listening(world.store, chains, world.signer, world.clock)
    world.accepted()
    world.clock.advance(seconds=15)

    Worker(world.store, lifecycle, world.clock).work()

    assert set(actors) == {Actor("worker")}


def test_a_request_that_is_being_served_is_left_alone(world: World) -> None:
    """For 15 s after its last move an unsent refund is its request's."""
    refund = world.accepted()
    world.clock.advance(seconds=14.999)

    assert world.worker.work() == 0

    world.clock.advance(seconds=0.001)

    assert world.worker.work() == 3
    assert _statuses(world, [refund]) == [Status.BROADCAST]


def test_what_was_sent_needs_no_grace(world: World) -> None:
    """A broadcast refund is nobody's any more."""
    refund = world.step(world.accepted(), times=3)
    world.chain.mine()

    assert world.worker.work() == 1
    assert _statuses(world, [refund]) == [Status.MINED]


def test_one_refunds_trouble_is_not_the_next_ones(world: World) -> None:
    """A refund that fails is logged by code, and the others go on."""
    refunds = [world.accepted() for _ in range(3)]
    world.clock.advance(seconds=15)
    world.chain.fail("estimate_gas", ChainUnavailableError("https://u:p@node"))

    with capture_logs() as logs:
        steps = world.worker.work()

    assert steps == 6
    assert sorted(_statuses(world, refunds)) == [
        Status.BROADCAST,
        Status.BROADCAST,
        Status.QUEUED,
    ]
    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("refund-delayed", "chain-unavailable")
    ]
    assert "u:p" not in str(logs)


def test_a_bug_that_one_refund_meets_is_not_the_next_ones(world: World) -> None:
    """An error that is not ours is logged by its type alone, and the others go on."""
    unlucky, *others = [world.accepted() for _ in range(3)]
    world.clock.advance(seconds=15)

    class Buggy(Lifecycle):
        def step(self, refund: Refund, actor: Actor) -> Refund:
            if refund.id == unlucky.id:
                raise ZeroDivisionError("the PIN is 1234")
            return super().step(refund, actor)

    chains = {"local": Chain(NETWORK, world.chain)}
    lifecycle = Buggy(world.store, chains, world.signer, world.clock)

    with capture_logs() as logs:
        steps = Worker(world.store, lifecycle, world.clock).work()

    assert steps == 6
    assert _statuses(world, [unlucky]) == [Status.QUEUED]
    assert _statuses(world, others) == [Status.BROADCAST] * 2
    assert [(entry["event"], entry["refund_id"]) for entry in logs] == [
        ("refund-stuck", unlucky.id)
    ]
    assert "1234" not in str(logs)


def test_steps_before_the_trouble_count(world: World) -> None:
    """A refund that comes half way has come half way."""
    world.accepted()
    world.clock.advance(seconds=15)
    world.chain.fail("broadcast", BroadcastRejectedError("no", reason="other"))

    assert world.worker.work() == 2


def test_two_workers_waste_steps_and_no_money(world: World) -> None:
    """Whoever is second finds the state stale, says nothing, and goes on (R6)."""
    refunds = [world.accepted() for _ in range(2)]
    world.clock.advance(seconds=15)
    other = world.worker

    class Slow(Lifecycle):
        def step(self, refund: Refund, actor: Actor) -> Refund:
            other.work()
            return super().step(refund, actor)

    chains = {"local": Chain(NETWORK, world.chain)}
    lifecycle = Slow(world.store, chains, world.signer, world.clock)

    with capture_logs() as logs:
        steps = Worker(world.store, lifecycle, world.clock).work()

    assert steps == 0
    assert logs == []
    assert _statuses(world, refunds) == [Status.BROADCAST] * 2
    world.chain.mine()
    assert world.chain.payouts() == [(CUSTOMER, 12_500_000)] * 2


def test_every_refund_has_its_turn(world: World) -> None:
    """A pass goes on behind each batch, past those that cannot move."""
    refunds = [world.accepted() for _ in range(5)]
    world.clock.advance(seconds=15)

    worker = Worker(world.store, world.lifecycle, world.clock, batch=2)

    assert worker.work() == 15
    assert _statuses(world, refunds) == [Status.BROADCAST] * 5


class Disagreeing(ScriptedChain):
    """Two nodes behind one address, each with a block of its own."""

    def receipt(self, tx_hash: str) -> Receipt | None:
        """Answer from one node and the other by turns."""
        receipt = super().receipt(tx_hash)
        if receipt is None:
            return None
        fork = str(self.calls["receipt"] % 2) * 64
        return Receipt(tx_hash, Block(1, "0x" + fork), True, receipt.logs)


def test_nodes_that_disagree_do_not_hold_the_worker(sqlite_store: Store) -> None:
    """A pass ends, even when a refund could move to and fro for ever."""
    world = World(sqlite_store, chain=Disagreeing())
    refund = world.step(world.accepted(), times=3)
    world.chain.mine()

    assert world.worker.work() == 8
    assert _statuses(world, [refund])[0] in (Status.BROADCAST, Status.MINED)


def test_a_worker_runs_until_it_is_told_to_stop(world: World) -> None:
    """It works, asks whether to stop, and works again."""
    world.accepted()
    world.clock.advance(seconds=15)
    answers = iter([False, False, True])
    passes = []

    def wait() -> bool:
        passes.append(len(world.chain.broadcasts))
        return next(answers)

    world.worker.run(wait)

    assert passes == [1, 1, 1]


def test_a_worker_outlives_its_database(world: World) -> None:
    """A pass that fails as a whole is logged, and the next one is tried."""

    class Flaky:
        def __init__(self, store: Store) -> None:
            self._store = store
            self._good = False

        def open_refunds(self, limit: int, after: str | None = None) -> object:
            if not self._good:
                self._good = True
                raise StoreUnavailableError("gone")
            return self._store.open_refunds(limit, after)

    world.accepted()
    world.clock.advance(seconds=15)
    answers = iter([False, True])
    flaky = Flaky(world.store)
    worker = Worker(flaky, world.lifecycle, world.clock)  # type: ignore[arg-type]  # All that is asked of it.

    with capture_logs() as logs:
        worker.run(lambda: next(answers))

    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("pass-failed", "store-unavailable")
    ]
    assert len(world.chain.broadcasts) == 1
