"""The worker cancels refunds that their tenant asked to cancel."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from structlog.testing import capture_logs

from signer.chain.chain import Chain
from signer.errors import (
    ChainUnavailableError,
)
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME
from signer.refunds.worker import Worker
from tests.support.devices import recording
from tests.support.refunds import (
    ACTOR,
    World,
    altered,
    altered_chain,
    stepping,
)


def _asked(world: World, refund: Refund) -> Refund:
    """Return *refund* after a request to cancel it."""
    world.service.request_cancellation("gateway", refund.id, ACTOR)
    return world.stored(refund)


def _failing_for(world: World, stuck: set[str]) -> tuple[Worker, list[str]]:
    """Return a worker with steps that fail for *stuck*, and the ids that it tries."""
    lifecycle = world.lifecycle
    tried: list[str] = []

    def step(refund: Refund) -> Refund:
        tried.append(refund.id)
        if refund.id in stuck:
            raise ChainUnavailableError("gone")
        return lifecycle.step(refund)

    world.store = altered(world.store, claim=lambda *_, **__: ())
    worker = world.worker_with(stepping(lifecycle, step))
    # So that the outage of one is not that of all.
    worker._find_cause = lambda moving, error: ()  # type: ignore[method-assign]
    return worker, tried


def test_a_request_to_cancel_precedes_the_queue(world: World) -> None:
    """A refund that is due is cancelled and not sent (R26)."""
    refunds = [world.accepted() for _ in range(3)]
    _asked(world, refunds[2])

    assert world.worker.work() == 7
    assert world.statuses(refunds) == [
        Status.BROADCAST,
        Status.BROADCAST,
        Status.CANCELLED,
    ]


def test_a_refund_that_is_not_due_is_cancelled(world: World) -> None:
    """It does not wait for its retry, nor for the claim of a dead worker (R26)."""
    late, held = world.accepted(), world.accepted()
    world.lifecycle.postpone([(late, ChainUnavailableError("gone"))])
    world.store.claim(world.clock(), world.clock() + CLAIM_TIME, 10)
    for refund in (late, held):
        _asked(world, refund)

    assert world.worker.advance() == 2
    assert world.statuses([late, held]) == [Status.CANCELLED] * 2


def test_two_workers_cancel_once(world: World) -> None:
    """The second one's step is stale, and only one record is written (R6, R26)."""
    refund = _asked(world, world.accepted())
    lifecycle = world.lifecycle
    step_of_queued: Any = lifecycle._steps.payments[PaymentState.QUEUED]
    step_of_queued.__self__._endings._audit, events = recording()

    def step(each: Refund) -> Refund:
        world.worker.advance()
        return lifecycle.step(each)

    with capture_logs() as logs:
        steps = world.worker_with(stepping(lifecycle, step)).advance()

    assert steps == 0
    assert [entry["event"] for entry in logs] == ["refund-ended"]
    assert events == []
    assert world.statuses([refund]) == [Status.CANCELLED]


def test_a_failing_cancellation_is_tried_once_a_pass(world: World) -> None:
    """It is postponed like other steps, and a wake-up does not try it again (R26)."""
    refund = _asked(world, world.accepted())
    errors = [ChainUnavailableError("gone")] * 100
    world.chain.fail("pending_count", *errors)
    worker = world.worker
    worker._passes = 1  # No pass checks wallets, which asks the chain as well.

    tried = []
    for _ in range(3):
        with capture_logs() as logs:
            steps = worker.work() + worker.advance() + worker.advance()
        assert steps == 0
        tried.append(world.chain.calls["pending_count"])
        assert [(entry["event"], entry["code"]) for entry in logs] == [
            ("refund-delayed", "chain-unavailable")
        ]

    waiting = world.stored(refund)
    assert tried == [1, 2, 3]
    assert (waiting.status, waiting.moving.blocked_by) == (
        Status.QUEUED,
        "chain-unavailable",
    )
    assert waiting.moving.attempts == 3
    assert waiting.moving.due_at == world.clock() + timedelta(seconds=4)
    assert waiting.cancel_requested_at == world.clock()


def test_a_failing_cancellation_does_not_spin(world: World) -> None:
    """Its own writes wake the worker up, which then has nothing to do (R26)."""
    refund = _asked(world, world.accepted())
    world.chain.fail("pending_count", *[ChainUnavailableError("gone")] * 100)
    wakes: list[int] = []

    def wait(seconds: float) -> bool:
        wakes.append(world.stored(refund).revision)
        world.clock.advance(milliseconds=10)
        return True

    worker = world.waiting_worker(wait)
    worker._passes = 1
    with capture_logs():
        worker.run(lambda: len(wakes) == 90, 0.9)

    assert wakes == [1] * 90
    assert world.chain.calls["pending_count"] == 1


def test_failing_cancellations_do_not_hold_up_others(world: World) -> None:
    """Those that fail in a pass are skipped until the next one (R26)."""
    silent = [world.on_network("silent", world.accepted()) for _ in range(3)]
    good = [world.accepted() for _ in range(2)]
    unreachable = altered_chain(
        world.chain, pending_count=ChainUnavailableError("gone")
    )
    chains = {**world.chains, "silent": Chain(world.network, unreachable)}
    lifecycle = world.lifecycle
    lifecycle._chains = chains
    for refund in (*silent, *good):
        _asked(world, refund)
    worker = world.worker_with(lifecycle, **chains)

    with capture_logs() as logs:
        assert worker.work() == 2

    delayed = [e["refunds"] for e in logs if e["event"] == "queue-delayed"]
    assert delayed == [len(silent)]
    assert world.statuses([*silent, *good]) == [
        *[Status.QUEUED] * 3,
        *[Status.CANCELLED] * 2,
    ]


def test_more_failing_cancellations_than_a_batch(world: World) -> None:
    """The worker reads on after those that it tried in this pass (R26)."""
    refunds = [_asked(world, world.accepted()) for _ in range(250)]
    stuck = {refund.id for refund in refunds[:200]}
    worker, tried = _failing_for(world, stuck)
    with capture_logs():
        worker.work()
        worker.advance()
        worker.advance()

    assert tried == [refund.id for refund in refunds]
    assert world.statuses(refunds[200:]) == [Status.CANCELLED] * 50


def test_payments_that_are_due_wait_for_no_look(world: World) -> None:
    """What woke the worker is seldom a request to cancel (R26)."""
    looks: list[int] = []
    asked = world.store.cancellation_requests

    def requests(limit: int, after: str | None = None) -> Sequence[Refund]:
        looks.append(limit)
        return asked(limit, after)

    world.store = altered(world.store, cancellation_requests=requests)
    worker = world.worker
    worker.work()

    world.accepted()
    assert (worker.advance(), len(looks)) == (3, 1)
    assert (worker.advance(), len(looks)) == (0, 2)


def test_constant_load_does_not_hold_up_a_cancellation(world: World) -> None:
    """A tenant whose refunds are always due delays another one's by 0.2 s (R26)."""
    late = world.accepted()
    world.lifecycle.postpone([(late, ChainUnavailableError("gone"))])
    begun = world.clock()
    took: list[timedelta] = []

    def wait(_: float) -> bool:
        world.clock.advance(milliseconds=10)
        world.accepted()
        if len(took) == 1:
            _asked(world, late)
        if world.stored(late).status is Status.QUEUED:
            took.append(world.clock() - begun)
        return True

    worker = world.waiting_worker(wait)
    worker.run(lambda: world.clock() - begun > timedelta(seconds=1), 3600)

    assert max(took) <= timedelta(milliseconds=220)
    assert world.stored(late).status is Status.CANCELLED


def test_failing_cancellations_hold_up_none_in_the_next_passes(world: World) -> None:
    """A pass reads on where the last one stopped, until each was tried (R26)."""
    refunds = [_asked(world, world.accepted()) for _ in range(250)]
    stuck = {refund.id for refund in refunds[:240]}
    worker, tried = _failing_for(world, stuck)
    with capture_logs():
        for _ in range(4):
            worker.work()

    ids = [refund.id for refund in refunds]
    assert tried == [*ids, *ids[:100]]
    assert world.statuses(refunds[240:]) == [Status.CANCELLED] * 10
