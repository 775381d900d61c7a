"""The worker between its passes: it waits, wakes up at once, and stops."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from structlog.testing import capture_logs

from signer.errors import (
    StoreUnavailableError,
)
from signer.model.refund import Refund, Status
from signer.ports.ledger import Ledger
from signer.refunds.saved_steps import Moving
from signer.refunds.worker import Worker
from tests.support.refunds import (
    ACTOR,
    World,
    altered,
    stepping,
    watched,
)
from tests.support.waiting import eventually


def _recording(world: World, waits: list[float]) -> Callable[[float], bool]:
    """Return a wait that adds its seconds to *waits* and ends without a change."""

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.clock.advance(seconds=seconds)
        return False

    return wait


def test_a_worker_runs_until_it_is_stopped(world: World) -> None:
    """It runs a pass every interval, and asks before each wait whether to stop."""
    waits: list[float] = []
    worker = world.waiting_worker(_recording(world, waits))
    worker.run(lambda: len(waits) == 3, 0.5)

    assert waits == [0.5, 0.5, 0.5]
    assert worker._passes == 3


def test_a_worker_that_is_stopped_ends_after_its_pass(world: World) -> None:
    """``hotwallet worker --once`` makes one pass."""
    refund = world.accepted()

    world.waiting_worker(lambda _: pytest.fail("it waited")).run(lambda: True, 3600)

    assert world.statuses([refund]) == [Status.BROADCAST]


def test_a_worker_is_stopped_while_it_waits(world: World) -> None:
    """It checks at least every second, however long its interval is."""
    waits: list[float] = []
    worker = world.waiting_worker(_recording(world, waits))
    worker.run(lambda: len(waits) == 2, 3600)

    assert waits == [1, 1]
    assert worker._passes == 1


def test_accepted_refunds_are_sent_between_two_passes(world: World) -> None:
    """A change that is noticed starts no pass: wallets and tracking wait for it."""
    waits: list[float] = []
    refunds: list[Refund] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if refunds:
            assert world.statuses(refunds) == [Status.BROADCAST] * len(refunds)
        if len(refunds) < 3:
            refunds.append(world.accepted())
            world.clock.advance(milliseconds=125)
            return True
        world.clock.advance(seconds=seconds)
        return False

    worker = world.waiting_worker(wait)
    worker.run(lambda: len(waits) == 4, 0.5)

    assert waits == [0.5, 0.375, 0.25, 0.125]
    assert worker._passes == 1
    assert world.chain.calls["broadcast"] == 3


def test_a_worker_survives_a_failing_database(world: World) -> None:
    """A failed pass is logged, and so is a failed start between two passes."""
    refund = world.accepted()
    troubles = [StoreUnavailableError("gone")] * 2
    waits: list[float] = []

    def claim(now: datetime, until: datetime, limit: int, **_: Any) -> Sequence[Moving]:
        if troubles:
            raise troubles.pop()
        return store.claim(now, until, limit)

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return True

    store, world.store = world.store, altered(world.store, claim=claim)

    with capture_logs() as logs:
        world.waiting_worker(wait).run(lambda: len(waits) == 2, 0.5)

    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("pass-failed", "store-unavailable")
    ] * 2
    assert world.statuses([refund]) == [Status.BROADCAST]


def test_a_failing_database_does_not_spin(world: World) -> None:
    """A worker that had more to claim waits all the same when claims fail."""
    one = world.accepted()
    claims: list[bool] = []
    waits: list[float] = []

    def claim(now: datetime, until: datetime, limit: int, **_: Any) -> Sequence[Moving]:
        claims.append(len(claims) % 2 == 0)
        if claims[-1]:
            return [world.stored(one)] * limit
        world.clock.advance(milliseconds=10)  # So that the test ends.
        raise StoreUnavailableError("gone")

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.clock.advance(seconds=seconds)
        return False

    world.store = altered(watched(world.store, wait), claim=claim)
    idle = stepping(world.lifecycle, lambda refund: refund)
    worker = world.worker_with(idle)
    worker._timer = lambda: world.clock().timestamp()

    worker.run(lambda: len(claims) > 20 or bool(waits), 1)

    assert waits == [1.0]
    assert claims == [True, False]


@pytest.fixture
def running(world: World) -> Iterator[Callable[[Worker, float], None]]:
    """Return a function that runs a worker in a thread until the test ends."""
    stop = Event()
    with ThreadPoolExecutor() as threads:
        started: list[Future[None]] = []

        def run(worker: Worker, interval: float) -> None:
            started.append(threads.submit(worker.run, stop.is_set, interval))

        try:
            yield run
        finally:
            stop.set()
            for each in started:
                each.result(10)


def test_a_worker_wakes_up_when_another_process_accepts(
    world: World,
    tmp_path: Path,
    opened: Callable[[Path], Ledger],
    running: Callable[[Worker, float], None],
) -> None:
    """It drains the queue, on a connection of its own, long before its next pass."""
    worker = world.worker
    running(worker, 3600)
    assert eventually(lambda: worker._passes == 1, 10)
    api = World(opened(tmp_path / "0.db"), clock=world.clock, signer=world.signer)

    refunds = [api.accepted() for _ in range(25)]

    assert eventually(lambda: world.statuses(refunds) == [Status.BROADCAST] * 25, 30)
    assert worker._passes == 1


def test_a_worker_wakes_up_when_another_process_asks_to_cancel(
    world: World,
    tmp_path: Path,
    opened: Callable[[Path], Ledger],
    running: Callable[[Worker, float], None],
) -> None:
    """A queued refund that waits for a limit is cancelled at once (R26)."""
    world.change_token(hourly_limit="12.5")
    sent, queued = world.broadcast(), world.accepted()
    worker = world.worker
    running(worker, 3600)
    assert eventually(
        lambda: world.stored(queued).moving.blocked_by == "limit-reached", 10
    )
    api = World(opened(tmp_path / "0.db"), clock=world.clock, signer=world.signer)
    service = api.service_over(api.store)  # With its own watch.
    service._waits._timer = time.monotonic

    asked = service.request_cancellation("gateway", queued.id, ACTOR)
    cancelled = service.wait(asked, 20)

    assert cancelled.status is Status.CANCELLED
    assert worker._passes == 1
    assert world.statuses([sent]) == [Status.BROADCAST]
